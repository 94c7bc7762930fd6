"""resdet.models.backbones.resnet against torchvision's ResNet and a literal forward, under copied weights."""

import re

import pytest
import reference
import torch
import torchvision.models
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resdet.models.backbones.resnet import ARCHITECTURES, CifarResNet, ResNet, ResNetBackbone
from resdet.models.layers.blocks import BasicBlock
from resdet.models.layers.norm import NORMS, FrozenBatchNorm2d, SyncBatchNorm2d
from resdet.models.weights.strict import load_strictly
from resdet.models.weights.torchvision import from_torchvision


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
def test_the_backbone_s_map_has_a_cell_for_each_16_pixels_begun(depth, stride_in_1x1, height, width):
    with torch.device("meta"):
        backbone = ResNetBackbone(depth, norm=FrozenBatchNorm2d, stride_in_1x1=stride_in_1x1)
        (y,) = backbone(torch.zeros(2, 3, height, width))
    assert y.shape == (2, backbone.channels, -(-height // 16), -(-width // 16))
    assert backbone.channels == (256 if depth == 18 else 1024) and backbone.strides == (16,)


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_makes_a_trainable_network(norm):
    net = ResNet(18, num_classes=3, norm=NORMS[norm])
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_fresh_convolutions_keep_the_variance():
    net = ResNet(18, norm=FrozenBatchNorm2d)
    weight = net.backbone.conv3_x[0].conv1.weight  # 64 channels in, 128 out, 3×3
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)  # He et al. 2015b


def test_an_unknown_depth_is_refused():
    with pytest.raises(ValueError, match=r"No ResNet has 20 layers: choose one of 18, 34, 50, 101, 152, 200\."):
        ResNet(20, norm=FrozenBatchNorm2d)


# The networks of both papers against a literal forward


def fill(net):
    """Weights and statistics that are all different, in float64."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.double().eval()


def cifar_stages(units):
    return {"conv2_x": (units, 1), "conv3_x": (units, 2), "conv4_x": (units, 2)}


ORDERS = ["original", "norm_after", "relu_before", "relu_preactivation", "full_preactivation"]
JOININGS = ["add", "scale", "exclusive_gate", "shortcut_gate", "dropout"]


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("shortcut", ["A", "B", "C", "none"])
@pytest.mark.parametrize("order", ORDERS)
def test_cifar_networks_equal_the_literal_forward(order, shortcut, bottleneck):
    depth = 20 if bottleneck else 14
    options = {"order": order, "shortcut": shortcut, "bottleneck": bottleneck}
    net = fill(CifarResNet(depth, norm=SyncBatchNorm2d, **options))
    images = torch.randn(2, 3, 16, 16).double()
    expected = reference.residual_network(
        net.state_dict(), images, stages=cifar_stages(2), order=order, plain=shortcut == "none"
    )
    assert (expected[0] - expected[1]).abs().max() > 1e-6
    with torch.no_grad():
        torch.testing.assert_close(net(images), expected)


@pytest.mark.parametrize("joining", JOININGS)
@pytest.mark.parametrize("order", ["original", "full_preactivation"])
def test_joinings_equal_the_literal_forward(order, joining):
    net = fill(CifarResNet(14, norm=SyncBatchNorm2d, order=order, shortcut="A", joining=joining))
    images = torch.randn(2, 3, 16, 16).double()
    expected = reference.residual_network(
        net.state_dict(), images, stages=cifar_stages(2), order=order, joining=joining
    )
    with torch.no_grad():
        torch.testing.assert_close(net(images), expected)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("options", [{"order": "full_preactivation"}, {"shortcut": "none"}, {"shortcut": "A"}])
def test_imagenet_networks_equal_the_literal_forward(depth, options):
    net = fill(ResNet(depth, num_classes=5, norm=SyncBatchNorm2d, **options))
    units = ARCHITECTURES[depth][1]
    stages = {f"backbone.conv{i}_x": (count, 1 if i == 2 else 2) for i, count in enumerate(units[:3], 2)}
    expected = reference.residual_network(
        net.state_dict(),
        images := torch.randn(2, 3, 64, 48).double(),
        stages={**stages, "conv5_x": (units[3], 2)},
        order=options.get("order", "original"),
        plain=options.get("shortcut") == "none",
        pool=True,
    )
    with torch.no_grad():
        torch.testing.assert_close(net(images), expected)


def test_dropout_on_the_shortcut_drops_half_of_it_in_training():
    block = BasicBlock(4, 4, 1, norm=SyncBatchNorm2d, joining="dropout", order="relu_before")
    nn.init.zeros_(block.norm2.weight)  # no residual
    x = torch.ones(8, 4, 16, 16)
    assert set(block.train()(x).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(block.eval()(x), x)


def parameters(make):
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


@pytest.mark.parametrize(
    "depth, options, millions",
    [
        *((20, {}, 0.27), (32, {}, 0.46), (44, {}, 0.66), (56, {}, 0.85), (110, {}, 1.7), (1202, {}, 19.4)),
        (20, {"shortcut": "none"}, 0.27),
        (110, {"order": "full_preactivation"}, 1.7),
        (164, {"order": "full_preactivation", "bottleneck": True, "shortcut": "B"}, 1.7),
        (1001, {"order": "full_preactivation", "bottleneck": True, "shortcut": "B"}, 10.3),
    ],
)
def test_cifar_networks_have_the_parameters_of_the_papers(depth, options, millions):
    """2015, Table 6; 2016, Table 4, which says 10.2 for 1001 layers: that is without the normalisations' 0.15."""
    count = parameters(lambda: CifarResNet(depth, norm=SyncBatchNorm2d, **{"shortcut": "A", **options})) / 1e6
    assert round(count, 2 if millions < 1 else 1) == millions


@pytest.mark.parametrize("depth, billions", [(18, 1.8), (34, 3.6), (50, 3.8), (101, 7.6), (152, 11.3)])
def test_imagenet_networks_have_the_multiplications_of_table_1(depth, billions):
    with torch.device("meta"):
        net = ResNet(depth, norm=FrozenBatchNorm2d, stride_in_1x1=True)
        images = torch.zeros(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        net(images)
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, abs=0.07)


def test_a_plain_network_is_a_residual_one_without_its_shortcuts():
    residual, plain = (parameters(lambda s=s: ResNet(34, norm=SyncBatchNorm2d, shortcut=s)) for s in ("A", "none"))
    assert residual == plain


def test_dense_evaluation_of_a_crop_is_the_crop_s_and_of_more_the_mean_over_windows():
    net = fill(ResNet(18, num_classes=5, norm=SyncBatchNorm2d))
    images = torch.randn(1, 3, 288, 256).double()
    with torch.no_grad():
        crop = images[:, :, :224, :224]
        torch.testing.assert_close(net.dense(crop), net(crop))
        features = net.conv5_x(net.backbone(images)[-1])
        assert features.shape[2:] == (9, 8)
        windows = [features[:, :, y : y + 7, x : x + 7].mean((2, 3)) for y in range(3) for x in range(2)]
        torch.testing.assert_close(net.dense(images), torch.stack([net.fc(w) for w in windows]).mean(0))


@pytest.mark.parametrize(
    "depth, bottleneck, message",
    [(21, False, "6n + 2"), (20, True, None), (56, True, None), (22, True, "9n + 2"), (2, False, "6n")],
)
def test_a_cifar_network_has_whole_units(depth, bottleneck, message):
    if message is None:
        CifarResNet(depth, norm=SyncBatchNorm2d, bottleneck=bottleneck)
    else:
        with pytest.raises(ValueError, match=re.escape(message)):
            CifarResNet(depth, norm=SyncBatchNorm2d, bottleneck=bottleneck)
