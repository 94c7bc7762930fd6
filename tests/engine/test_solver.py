"""The learning rate as a function of the step, and what decays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn, optim

from resdet.config import DetConfig, ModelConfig, SolverConfig
from resdet.engine.solver import build_optimizer, lr_at
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
    layers = {"rpn.head": ("conv", "objectness_logits", "anchor_deltas")}
    layers |= {"roi_heads.box_predictor": ("cls_score", "bbox_pred")}
    assert exempt == {f"{part}.{layer}.bias" for part, names in layers.items() for layer in names}
