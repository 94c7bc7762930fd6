"""Every rule on boxes, scores and losses computes in float32, under autocast and for half-precision inputs too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from resdet import boxes
from resdet.inference.test_time import flip_boxes
from resdet.models.box_coder import BoxCoder
from resdet.models.box_voting import box_voting
from resdet.models.losses import head_loss, region_losses, rpn_loss, smooth_l1
from resdet.models.ohem import hard_examples
from resdet.models.poolers import lower_scale, pyramid_level
from resdet.models.postprocess import Predictions, predict, select
from resdet.models.rpn import propose
from resdet.models.soft_nms import soft_nms
from resdet.models.targets import (
    AnchorTargets,
    RoITargets,
    label_anchors,
    match_anchors,
    sample_rois,
)
from resdet.types import Target

SIZE = (600.0, 1000.0)
STDS = (0.1, 0.1, 0.2, 0.2)
SELECT = {"min_score": 0.05, "nms_iou": 0.3, "max_detections": 50}
Case = tuple[Callable[..., Any], tuple[Any, ...]]


@pytest.fixture
def cases(random_boxes: Callable[..., Tensor]) -> dict[str, Case]:
    """Rules and arguments, in the sizes of a photograph."""
    draw = partial(random_boxes, height=SIZE[0], width=SIZE[1])
    some, others, few = draw(40), draw(40), draw(5)
    found = torch.cat([some, some + torch.rand(40, 4), some - torch.rand(40, 4)])  # (D, 4) that overlap
    scores, labels, sizes = torch.rand(120), torch.randint(0, 3, (120,)), torch.tensor([[600, 1000]])
    logits, deltas = torch.randn(40, 4), torch.randn(40, 3, 4)
    classes, positions = torch.randint(0, 4, (40,)), torch.randperm(40)
    target = Target(few, torch.randint(0, 3, (5,)), torch.zeros(5, dtype=torch.bool))
    anchors = AnchorTargets(positions[:9], positions[9:30], torch.randn(9, 4))
    regions = RoITargets(some, classes, torch.randn(40, 4))
    predictions = Predictions(torch.rand(120, 3), found[:, None].repeat(1, 3, 1))
    trained = (logits, deltas, classes, regions.deltas)
    rule_of_anchors = partial(
        label_anchors,
        batch=20,
        foreground_fraction=0.5,
        foreground_iou=0.5,
        background_iou=0.3,
        cross_boundary=False,
    )
    rule_of_rois = partial(
        sample_rois,
        batch=20,
        foreground_fraction=0.5,
        foreground_iou=0.3,
        background_iou=(0.0, 0.3),
        box_coder=BoxCoder(STDS),
    )
    rule_of_proposals = partial(propose, pre_nms_topk=30, post_nms_topk=20, nms_iou=0.7, min_size=2.0)
    return {
        "area": (boxes.area, (some,)),
        "iou": (boxes.iou, (some, others)),
        "encode": (boxes.encode, (some, others)),
        "decode": (boxes.decode, (deltas[:, 0], some)),
        "clip": (boxes.clip, (some * 2 - 300, 599.3, 998.7)),
        "resize": (boxes.resize, (some, (100, 100), (73, 137))),
        "flip_boxes": (flip_boxes, (some, 998.7)),
        "lower_scale": (lower_scale, (some, (0.25, 0.5, 1.0))),
        "pyramid_level": (pyramid_level, (some, 4)),
        "predict": (partial(predict, box_coder=BoxCoder(STDS)), (logits, deltas, [some], sizes)),
        "select": (partial(select, **SELECT), (predictions,)),
        "select and vote": (partial(select, **SELECT, vote_iou=0.5), (predictions,)),
        "soft-NMS and vote": (partial(select, **SELECT, vote_iou=0.5, soft_nms_sigma=0.5), (predictions,)),
        "box_voting": (box_voting, (found[:40], labels[:40], found, scores, labels, 0.5)),
        "soft_nms": (soft_nms, (found, scores, labels, 0.5, 0.01, 60)),
        "propose": (rule_of_proposals, ([logits[None, :, 0]], [deltas[None, :, 0]], [some], sizes)),
        "smooth_l1": (smooth_l1, (deltas, 1 / 9)),
        "rpn_loss": (partial(rpn_loss, batch=64, beta=1 / 9), (logits[None, :, 0], deltas[None, :, 0], [anchors])),
        "head_loss": (partial(head_loss, batch=64, beta=1.0), (*trained, 1)),
        "region_losses": (partial(region_losses, beta=1.0), trained),
        "box coder, encode": (BoxCoder(STDS).encode, (some, others)),
        "box coder, decode": (BoxCoder(STDS).decode, (deltas[:, 0], some)),
        "match_anchors": (match_anchors, (boxes.iou(found, some), 0.7, 0.3)),
        "label_anchors": (rule_of_anchors, (found, target, *SIZE)),
        "sample_rois": (rule_of_rois, (found, target, 3)),
        "hard_examples": (hard_examples, (regions, scores[:40], 10, 0.7)),
    }


def outcome(
    case: Case, autocast: torch.dtype | None = None, inputs: Callable[[Tensor], Tensor] | None = None
) -> Any:
    """What a rule makes of its arguments, or of `inputs` of each tensor of real numbers among them."""
    rule, arguments = case
    if inputs:
        arguments = tree_map_only(Tensor, lambda x: inputs(x) if x.is_floating_point() else x, arguments)
    torch.manual_seed(1)  # for the rules that sample
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        return rule(*arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rules_are_the_same_under_autocast(cases: dict[str, Case], dtype: torch.dtype) -> None:
    for name, case in cases.items():
        torch.testing.assert_close(outcome(case, dtype), outcome(case), rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_with_in_float32(cases: dict[str, Case], dtype: torch.dtype) -> None:
    """The results are those of the same numbers as float32, and float32 themselves."""
    for name, case in cases.items():
        found = outcome(case, dtype, lambda x: x.to(dtype))
        expected = outcome(case, None, lambda x: x.to(dtype).float())
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_with_in_float32_outside_autocast(
    cases: dict[str, Case], dtype: torch.dtype
) -> None:
    for name, case in cases.items():
        found = outcome(case, None, lambda x: x.to(dtype))
        expected = outcome(case, None, lambda x: x.to(dtype).float())
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=name)


def test_double_precision_stays(cases: dict[str, Case]) -> None:
    """As the comparisons of processes and of gradients need it."""
    for name in ("iou", "encode", "decode", "smooth_l1", "head_loss", "box_voting"):
        rule, arguments = cases[name]
        found = outcome((rule, arguments), torch.bfloat16, Tensor.double)
        assert all(part.dtype == torch.float64 for part in (found if isinstance(found, tuple) else [found])), name
