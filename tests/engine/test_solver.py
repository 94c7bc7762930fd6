"""The learning rate as a function of the step, and what decays."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn, optim

from resdet.config import DetConfig, ModelConfig, SolverConfig
from resdet.engine.solver import build_optimizer, lr_at, restore_optimizer
from resdet.models.build import build_detector

WARM = SolverConfig(lr=1.0, warmup_steps=4, warmup_factor=0.2, milestones=(6, 8), gamma=0.1, steps=10)


@pytest.mark.parametrize(
    ("step", "lr"),
    [(0, 0.2), (1, 0.4), (2, 0.6), (3, 0.8), (4, 1.0), (5, 1.0), (6, 0.1), (7, 0.1), (8, 0.01), (9, 0.01)],
)
def test_lr_warms_up_and_falls_at_milestones(step: int, lr: float) -> None:
    assert lr_at(step, WARM) == pytest.approx(lr, rel=1e-12)


def test_lr_of_the_papers() -> None:
    """Faster R-CNN §3.1.3: 0.001 for 60k steps, 0.0001 for the next 20k."""
    solver = SolverConfig()
    assert [lr_at(step, solver) for step in (0, 59_999)] == [1e-3, 1e-3]
    assert [lr_at(step, solver) for step in (60_000, 79_999)] == pytest.approx([1e-4, 1e-4])


def test_lr_with_a_milestone_inside_the_warm_up() -> None:
    solver = SolverConfig(lr=1.0, warmup_steps=4, warmup_factor=0.0, milestones=(2,), gamma=0.5)
    assert [lr_at(step, solver) for step in range(5)] == [0, 0.25, 0.25, 0.375, 0.5]


@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_the_cosine_schedule_falls_from_the_whole_rate_to_zero(warmup_steps: int) -> None:
    """Half a cosine over the steps after the warm-up: lr · (1 + cos(π · k/8)) / 2 at the k-th of eight."""
    solver = SolverConfig(
        lr=2.0, schedule="cosine", milestones=(1,), steps=warmup_steps + 8, warmup_steps=warmup_steps
    )
    rates = [lr_at(warmup_steps + k, solver) for k in range(9)]
    assert rates[0::2] == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0], abs=1e-12)
    assert rates[1] == pytest.approx(1 + 0.9238795325112867)  # cos(22.5°)
    assert rates == sorted(rates, reverse=True)


def test_the_cosine_schedule_waits_for_the_end_of_the_warm_up() -> None:
    solver = SolverConfig(lr=2.0, schedule="cosine", steps=12, warmup_steps=4, warmup_factor=0.2)
    assert [lr_at(step, solver) for step in range(4)] == pytest.approx([0.4, 0.8, 1.2, 1.6])


@pytest.mark.parametrize("after", [0, 1])
def test_the_cosine_schedule_with_a_warm_up_to_the_end(after: int) -> None:
    solver = SolverConfig(lr=2.0, schedule="cosine", steps=2 + after, warmup_steps=2, warmup_factor=0.0)
    assert [lr_at(step, solver) for step in range(4)] == pytest.approx([0, 1, 2, 0], abs=1e-12)


def test_each_plateau_multiplies_the_rate_by_gamma() -> None:
    """Whatever the step: milestones belong to another schedule."""
    solver = SolverConfig(lr=3.0, schedule="plateau", gamma=0.5, milestones=(1,))
    assert [lr_at(70_000, solver, plateaus) for plateaus in range(4)] == [3, 1.5, 0.75, 0.375]
    assert lr_at(70_000, solver) == 3


def test_a_constant_warm_up_stays_at_its_start() -> None:
    """He et al. 2015, §4.2: 0.01 for the first steps of the network of 110 layers, then 0.1."""
    solver = SolverConfig(lr=0.1, warmup="constant", warmup_steps=400, warmup_factor=0.1, milestones=(32_000,))
    assert [lr_at(step, solver) for step in (0, 200, 399)] == pytest.approx([0.01] * 3)
    assert [lr_at(step, solver) for step in (400, 31_999, 32_000)] == pytest.approx([0.1, 0.1, 0.01])


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Linear(4, 2))


def test_norms_and_biases_do_not_decay() -> None:
    network = small_network()
    conv, batch_norm, group_norm, linear = network
    optimizer = build_optimizer(network, SolverConfig(lr=0.3, momentum=0.8, weight_decay=0.01))
    decayed, exempt = optimizer.param_groups
    assert {id(p) for p in decayed["params"]} == {id(conv.weight), id(linear.weight)}
    assert {id(p) for p in exempt["params"]} == {
        id(p)
        for p in (conv.bias, linear.bias, batch_norm.weight, batch_norm.bias, group_norm.weight, group_norm.bias)
    }
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.01, 0)
    assert all((group["lr"], group["momentum"]) == (0.3, 0.8) for group in optimizer.param_groups)


def test_decay_all_decays_every_parameter() -> None:
    network = small_network()
    (group,) = build_optimizer(network, SolverConfig(decay_all=True, weight_decay=0.01)).param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in network.parameters()}
    assert group["weight_decay"] == 0.01


def test_adamw_decays_the_same_parameters() -> None:
    settings = SolverConfig(lr=0.3, weight_decay=0.01)
    sgd, adamw = (build_optimizer(small_network(), replace(settings, optimizer=name)) for name in ("sgd", "adamw"))
    assert isinstance(sgd, optim.SGD) and isinstance(adamw, optim.AdamW)
    for group, expected in zip(adamw.param_groups, sgd.param_groups, strict=True):
        assert [p.shape for p in group["params"]] == [p.shape for p in expected["params"]]
        assert (group["lr"], group["weight_decay"]) == (expected["lr"], expected["weight_decay"])


def test_frozen_parameters_are_not_in_the_optimizer() -> None:
    network = small_network()
    network[0].requires_grad_(False)
    held = [p for group in build_optimizer(network, SolverConfig()).param_groups for p in group["params"]]
    assert len(held) == 6 and not {id(p) for p in held} & {id(p) for p in network[0].parameters()}


def test_the_detector_of_the_papers_trains_conv3_x_and_what_follows() -> None:
    """Frozen batch normalisation has no parameters; conv1 and conv2_x are frozen (He et al. 2015, appendix A)."""
    model = build_detector(DetConfig(model=ModelConfig(depth=18, rpn_channels=8)), num_classes=3)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, exempt = (
        {names[id(p)] for p in group["params"]} for group in build_optimizer(model, SolverConfig()).param_groups
    )
    assert {name.split(".")[0] for name in decayed} == {"backbone", "rpn", "roi_heads"}
    assert not [name for name in decayed | exempt if name.startswith(("backbone.conv1", "backbone.conv2_x"))]
    layers = {"rpn.head": ("convs.0", "objectness_logits", "anchor_deltas")}
    layers |= {"roi_heads.box_predictor": ("cls_score", "bbox_pred")}
    assert exempt == {f"{part}.{layer}.bias" for part, names in layers.items() for layer in names}


def stepped(network: nn.Module, solver: SolverConfig, gradient: float) -> optim.Optimizer:
    """The optimizer of a network after one step with the same gradient everywhere."""
    optimizer = build_optimizer(network, solver)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    return optimizer


def test_a_restored_optimizer_has_the_saved_momenta_and_the_present_settings() -> None:
    settings = SolverConfig(lr=0.5, momentum=0.5, weight_decay=0.0)
    saved = stepped(nn.Linear(2, 1), settings, gradient=4.0).state_dict()
    network = nn.Linear(2, 1)
    optimizer = build_optimizer(network, replace(settings, lr=0.25, momentum=0.75, weight_decay=0.125))
    restore_optimizer(optimizer, saved)
    kept = [(group["lr"], group["momentum"], group["weight_decay"]) for group in optimizer.param_groups]
    assert kept == [
        (0.5, 0.75, 0.125),  # the learning rate is that of the last step, until the next one sets its own
        (0.5, 0.75, 0.0),
    ]  # the weight's, and that of the bias, which never decays
    bias = network.bias.item()
    optimizer.param_groups[1]["lr"] = 0.25
    network.bias.grad = torch.full_like(network.bias, 1.0)
    optimizer.step()
    assert network.bias.item() == pytest.approx(bias - 0.25 * (0.75 * 4 + 1))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_fused_steps_are_the_plain_ones_and_take_over_their_momenta(name: Literal["sgd", "adamw"]) -> None:
    """As where an earlier version, or float16, has trained so far."""
    solver = SolverConfig(lr=0.1, momentum=0.5, weight_decay=0.1, optimizer=name)
    networks = [nn.Linear(4, 3) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    plain, fused = (
        build_optimizer(network, solver, fused=is_fused)
        for network, is_fused in zip(networks, (False, True), strict=True)
    )
    for step in range(6):
        for a, b in zip(*(network.parameters() for network in networks), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        plain.step()
        fused.step()
        for a, b in zip(*(network.parameters() for network in networks), strict=True):
            torch.testing.assert_close(a, b)
        if step == 2:
            restore_optimizer(fused, deepcopy(plain.state_dict()))


def test_an_optimizer_of_other_groups_is_not_restored() -> None:
    network, solver = nn.Linear(2, 1), SolverConfig()
    saved = stepped(network, solver, gradient=1.0).state_dict()
    for other in (build_optimizer(nn.Linear(2, 1, bias=False), solver), build_optimizer(small_network(), solver)):
        with pytest.raises(ValueError, match="other groups of parameters"):
            restore_optimizer(other, saved)
    with pytest.raises(ValueError, match="other groups of parameters"):
        restore_optimizer(build_optimizer(network, replace(solver, decay_all=True)), saved)
