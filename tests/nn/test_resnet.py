"""resdet.nn.resnet against torchvision's ResNet under copied weights."""

import pytest
import torch
import torchvision.models
from torch import nn

from resdet.nn.norm import NORMS, FrozenBatchNorm2d
from resdet.nn.resnet import ResNet, Trunk
from resdet.nn.weights import from_torchvision, load_strictly


def torchvision_net(depth, num_classes=10):
    """torchvision's network with weights and batch-norm statistics that are all different, in float64.

    float64 so that rounding in a hundred layers hides nothing.
    """
    net = torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=num_classes)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval().double()


def our_net(theirs, depth, num_classes=10, norm="frozen", **options):
    ours = ResNet(depth, num_classes=num_classes, norm=NORMS[norm], **options)
    load_strictly(ours.double(), from_torchvision(theirs.state_dict()), "torchvision")
    return ours


def assert_same_logits(ours, theirs, images):
    with torch.no_grad():
        expected = theirs(images)
        result = ours(images)
    assert expected.isfinite().all() and (expected[0] - expected[1]).abs().max() > 1e-2 * expected.abs().max()
    torch.testing.assert_close(result, expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item())


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_logits_equal_torchvision(depth):
    theirs = torchvision_net(depth)
    assert_same_logits(our_net(theirs, depth), theirs, torch.randn(2, 3, 49, 64).double())


def test_stride_in_1x1_equals_torchvision_with_its_strides_moved():
    theirs = torchvision_net(50)
    ours = our_net(theirs, 50, stride_in_1x1=True)
    for layer in (theirs.layer2, theirs.layer3, theirs.layer4):
        assert layer[0].conv1.stride == (1, 1) and layer[0].conv2.stride == (2, 2)
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    images = torch.randn(2, 3, 49, 64).double()
    assert_same_logits(ours, theirs, images)
    with torch.no_grad():
        elsewhere = our_net(theirs, 50, stride_in_1x1=False)(images)
        assert not torch.allclose(elsewhere, theirs(images), rtol=1e-3)


@pytest.mark.parametrize("norm", ["frozen", "sync_batch"])
def test_gradients_equal_torchvision(norm):
    """In training mode too: frozen statistics against eval mode, live ones against the batch's own."""
    theirs = torchvision_net(18).train(norm == "sync_batch")
    ours = our_net(theirs, 18, norm=norm).train()
    images, classes = torch.randn(4, 3, 64, 64).double(), torch.tensor([0, 3, 3, 9])
    for net in (theirs, ours):
        nn.functional.cross_entropy(net(images), classes).backward()
    expected = from_torchvision({name: p.grad for name, p in theirs.named_parameters()})
    result = {name: p.grad for name, p in ours.named_parameters()}
    if norm == "sync_batch":
        assert result.keys() == expected.keys()
    else:
        assert result.keys() == {name for name in expected if "norm" not in name}
    for name, gradient in result.items():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-8 * scale, msg=name)


def test_a_detector_s_conv5_on_stride_1_keeps_the_size():
    """He et al. 2015, appendix A; the weights are those of stride 2."""
    theirs = torchvision_net(50)
    ours = our_net(theirs, 50, conv5_stride=1)
    theirs.layer4[0].conv2.stride = theirs.layer4[0].downsample[0].stride = (1, 1)
    x = torch.randn(2, 1024, 7, 7).double()
    with torch.no_grad():
        y = ours.conv5_x(x)
        assert y.shape == (2, 2048, 7, 7)
        torch.testing.assert_close(y, theirs.layer4(x))
        assert our_net(theirs, 50).conv5_x(x).shape == (2, 2048, 4, 4)


@pytest.mark.parametrize("depth, stride_in_1x1", [(18, False), (50, False), (50, True)])
@pytest.mark.parametrize("height, width", [(64, 96), (65, 81), (1, 1), (17, 16), (31, 33)])
def test_the_trunk_s_map_has_a_cell_for_each_16_pixels_begun(depth, stride_in_1x1, height, width):
    with torch.device("meta"):
        trunk = Trunk(depth, norm=FrozenBatchNorm2d, stride_in_1x1=stride_in_1x1)
        y = trunk(torch.zeros(2, 3, height, width))
    assert y.shape == (2, trunk.channels, -(-height // 16), -(-width // 16))
    assert trunk.channels == (256 if depth == 18 else 1024) and trunk.stride == 16


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_makes_a_trainable_network(norm):
    net = ResNet(18, num_classes=3, norm=NORMS[norm])
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_fresh_convolutions_keep_the_variance():
    net = ResNet(18, norm=FrozenBatchNorm2d)
    weight = net.trunk.conv3_x[0].conv1.weight  # 64 channels in, 128 out, 3×3
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)  # He et al. 2015b


def test_an_unknown_depth_is_refused():
    with pytest.raises(ValueError, match=r"No ResNet of 20 layers: choose from 18, 34, 50, 101, 152\."):
        ResNet(20, norm=FrozenBatchNorm2d)
