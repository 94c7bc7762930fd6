"""resdet.models.layers.norm against torch's batch normalisation."""

import copy
import gc
import weakref

import pytest
import torch
from reference import batch_norm_literal
from torch import nn

from resdet.errors import UserError
from resdet.models.backbones.resnet import ResNet
from resdet.models.layers import norm as norm_module
from resdet.models.layers.norm import NORMS, FrozenBatchNorm2d, GroupNorm, SyncBatchNorm2d, freeze, recalibrate


def random_batch_norm(channels, kind=nn.BatchNorm2d):
    norm = kind(channels)
    nn.init.uniform_(norm.weight, -1, 1)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 2)
    return norm


def test_frozen_equals_batch_norm_in_eval_mode():
    theirs = random_batch_norm(6).eval()
    ours = FrozenBatchNorm2d(6)
    state = theirs.state_dict()
    del state["num_batches_tracked"]
    ours.load_state_dict(state)
    x = torch.randn(3, 6, 4, 5) * 3 + 1
    torch.testing.assert_close(ours(x), theirs(x))


def test_frozen_has_no_parameters_and_no_mode():
    norm = FrozenBatchNorm2d(6)
    assert list(norm.parameters()) == []
    assert set(norm.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(3, 6, 4, 5, requires_grad=True)
    assert torch.equal(norm.train()(x), norm.eval()(x))
    norm.train()(x).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
    torch.testing.assert_close(x.grad, torch.full_like(x, (1 + 1e-5) ** -0.5))


def test_frozen_of_nothing():
    assert FrozenBatchNorm2d(6)(torch.zeros(0, 6, 7, 7)).shape == (0, 6, 7, 7)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sync_batch_on_one_process_equals_batch_norm(dtype, training):
    theirs = random_batch_norm(6).train(training).to(dtype)
    ours = SyncBatchNorm2d(6).train(training).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        x = (torch.randn(3, 6, 4, 5) * 3 + 10).to(dtype)
        upstream = torch.randn(3, 6, 4, 5).to(dtype)
        results = []
        for norm in (theirs, ours):
            given = x.clone().requires_grad_()
            y = norm(given)
            y.backward(upstream)
            results.append((y.detach(), given.grad, norm.weight.grad, norm.bias.grad))
        tolerance = 1e-4 if dtype == torch.float32 else 1e-9
        torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.fixture
def several_processes(monkeypatch):
    """This process takes itself for one of several, of which the others have no regions."""
    monkeypatch.setattr(norm_module, "_several_processes", lambda: True)
    monkeypatch.setattr(norm_module.dist, "all_reduce", lambda x: None)


@pytest.mark.usefixtures("several_processes")
def test_a_step_leaves_nothing_to_the_garbage_collector():
    """A cycle through autograd's nodes would keep the maps of every step until a collection, or for ever."""
    norm, nodes = SyncBatchNorm2d(6), []
    gc.disable()
    try:
        for _ in range(3):
            y = norm(torch.randn(2, 6, 5, 5, requires_grad=True), None, True)
            nodes.append(weakref.ref(y.grad_fn))
            y.sum().backward()
            del y
        assert [node() for node in nodes] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("mean", [1000, -30_000])
def test_a_batch_far_from_the_running_mean_is_normalised_as_torch_does(mean, momentum):
    ours, theirs, exact = SyncBatchNorm2d(6), nn.BatchNorm2d(6), nn.BatchNorm2d(6).double()
    for norm in (ours, theirs, exact):
        norm.momentum = momentum
    x = torch.randn(8, 6, 14, 14) + mean
    expected = exact(x.double())
    error, usual = ((norm(x) - expected).abs().max() for norm in (ours, theirs))
    assert error < 2 * usual
    torch.testing.assert_close(ours.running_var.double(), exact.running_var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_empty_batch_updates_nothing(several, momentum, request):
    if several:
        request.getfixturevalue("several_processes")
    norm = random_batch_norm(6, SyncBatchNorm2d)
    norm.momentum = momentum
    before = copy.deepcopy(norm.state_dict())
    norm(torch.zeros(0, 6, 7, 7, requires_grad=True)).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
    assert torch.equal(norm.weight.grad, torch.zeros(6)) and torch.equal(norm.bias.grad, torch.zeros(6))


@pytest.mark.usefixtures("several_processes")
def test_one_value_of_a_channel_has_no_variance_to_update():
    norm = random_batch_norm(6, SyncBatchNorm2d)
    before = copy.deepcopy(norm.state_dict())
    norm(torch.randn(1, 6, 1, 1, requires_grad=True)).sum().backward()
    assert torch.equal(norm.running_var, before["running_var"]) and norm.weight.grad.isfinite().all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_added", [False, True])
def test_training_normalises_adds_and_rectifies_like_the_literal_loop(with_added, relu):
    norm = random_batch_norm(6, SyncBatchNorm2d).double()
    x, added = torch.randn(2, 3, 6, 4, 5, dtype=torch.float64)
    expected = batch_norm_literal(x, added if with_added else None, norm.weight, norm.bias, norm.eps, relu)
    torch.testing.assert_close(norm(x, added if with_added else None, relu), expected)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_added", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", sorted(NORMS))
def test_norms_add_and_rectify_with_the_right_gradients(kind, training, with_added, relu):
    norm = NORMS[kind](32).double().train(training)
    x, added = (t.requires_grad_() for t in torch.randn(2, 2, 32, 4, 5, dtype=torch.float64))
    operands = (x, added)[: 1 + with_added]
    parameters = [p for p in norm.parameters() if p.requires_grad]

    def whole(*tensors):
        return norm(*tensors, *[None] * (2 - len(tensors)), relu)

    y = copy.deepcopy(norm)(x)
    y = y + added if with_added else y
    torch.testing.assert_close(whole(*operands), y.relu() if relu else y)
    assert torch.autograd.gradcheck(whole, operands)
    if parameters:
        assert torch.autograd.gradcheck(lambda *_: whole(*operands), parameters)


def test_a_shortcut_of_another_type_is_added_as_torch_adds_it():
    norm, x = random_batch_norm(6, SyncBatchNorm2d), torch.randn(2, 6, 4, 5)
    added = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(norm(x, added, True), (norm(x) + added).relu(), rtol=1e-5, atol=1e-6)


def test_evaluation_without_gradients_is_evaluation_with_them():
    norm, x, added = random_batch_norm(6, SyncBatchNorm2d).eval(), torch.randn(2, 6, 4, 5), torch.randn(2, 6, 4, 5)
    with torch.no_grad():
        without = norm(x, added, True)
    torch.testing.assert_close(without, norm(x, added, True).detach())


def test_one_value_for_each_channel_is_no_batch():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        SyncBatchNorm2d(6)(torch.randn(1, 6, 1, 1))


def test_group_norm_has_32_groups_and_no_batch():
    norm = GroupNorm(64)
    x = torch.randn(2, 64, 4, 5) * 3 + 1
    y = norm(x)
    groups = y.reshape(2, 32, -1)  # 2 channels each
    torch.testing.assert_close(groups.mean(2), torch.zeros(2, 32), rtol=0, atol=1e-5)
    torch.testing.assert_close(groups.var(2, correction=0), torch.ones(2, 32), rtol=1e-3, atol=0)
    torch.testing.assert_close(norm(x[:1]), y[:1])


def test_the_norms_that_a_recipe_may_name():
    assert set(NORMS) == {"frozen", "group", "batch", "sync_batch"}
    assert all(norm(64)(torch.randn(2, 64, 3, 3)).shape == (2, 64, 3, 3) for norm in NORMS.values())


def test_freeze_stops_the_named_stages_and_no_other():
    net = ResNet(18, norm=NORMS["sync_batch"])
    freeze(net.backbone, ("conv1", "conv3_x"))
    trained = {name.split(".")[0] for name, p in net.backbone.named_parameters() if p.requires_grad}
    frozen = {name.split(".")[0] for name, p in net.backbone.named_parameters() if not p.requires_grad}
    assert trained == {"conv2_x", "conv4_x"} and frozen == {"conv1", "conv3_x"}
    assert all(p.requires_grad for p in net.conv5_x.parameters())


@pytest.mark.parametrize("name", ["conv9", "conv2", "conv2_x.0", ""])
def test_freezing_an_unknown_stage_is_refused(name):
    backbone = ResNet(18, norm=FrozenBatchNorm2d).backbone
    with pytest.raises(UserError, match=rf"unknown stage .{name}.: the stages are conv1, .*conv4_x\."):
        freeze(backbone, ("conv1", name))


def test_recalibrated_statistics_are_the_averages_over_the_batches():
    """He et al. 2015, appendix A, against a loop: mean of the means, mean of the unbiased variances."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), SyncBatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))
    net.append(nn.BatchNorm2d(2, momentum=0.3))
    batches = [(torch.randn(5, 3, 6, 6) * 3 + 1,) for _ in range(4)]
    weights = {name: p.clone() for name, p in net.named_parameters()}
    recalibrate(net, iter(batches))
    assert not any(module.training for module in net.modules())
    assert (net[1].momentum, net[5].momentum) == (0.1, 0.3)
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    with torch.no_grad():
        first = [net[0](x) for (x,) in batches]
        torch.testing.assert_close(net[1].running_mean, torch.stack([y.mean((0, 2, 3)) for y in first]).mean(0))
        torch.testing.assert_close(net[1].running_var, torch.stack([y.var((0, 2, 3)) for y in first]).mean(0))
        normed = [nn.functional.batch_norm(y, None, None, net[1].weight, net[1].bias, True) for y in first]
        second = [net[4](y.relu()) for y in normed]  # dropout is off
        torch.testing.assert_close(net[5].running_mean, torch.stack([y.mean((0, 2, 3)) for y in second]).mean(0))
