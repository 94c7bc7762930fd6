"""What may change when a training run is resumed.

Every setting stands in one of two lists. A checkpoint holds for good what is FIXED: the shapes of the weights, what
their outputs mean, and which parameters the optimizer trains, in which groups. What is CHANGEABLE is read from the
config at each step, evaluation or checkpoint, and takes effect from the resume on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resdet.config.check import settings
from resdet.errors import UserError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


FIXED = _names(
    """
    name runs init_weights train_only data.classes data.size model.proposals model.backbone model.timm
    model.depth model.style model.features model.fpn_channels model.groups model.width_per_group model.norm
    model.head_norm model.norm_eps model.freeze model.anchor_scales model.anchor_ratios model.anchor_center
    model.anchor_rounding model.rpn_channels model.rpn_depth model.pooling model.pool_size model.pyramid
    model.sampling_ratio model.maxout
    model.box_head model.conv_dims model.fc_dims model.conv5_stride model.context model.family
    model.bottleneck model.shortcut model.joining model.order model.pixel_mean roi.box_stds solver.optimizer
    solver.decay_all
    """
)
"""data.size: a mean image (model.pixel_mean) has that size; roi.box_stds: the head's boxes are in these units"""

CHANGEABLE = _names(
    """
    seed device data.format data.root data.train data.val data.split_file data.held_out data.other_classes data.exif
    data.difficult data.proposals data.repeat data.empty_images data.short_sides data.test_short_side data.max_side
    data.padding data.augmentation data.flip data.photometric data.color data.operations data.group_by_aspect
    data.workers data.source model.dropout rpn.batch_size_per_image rpn.foreground_fraction rpn.foreground_iou
    rpn.background_iou rpn.cross_boundary rpn.pre_nms_topk rpn.post_nms_topk rpn.nms_iou rpn.min_size rpn.beta
    rpn.box_weight roi.batch_size_per_image roi.foreground_fraction roi.foreground_iou roi.background_iou
    roi.beta roi.ohem loss.label_smoothing loss.mixup solver.lr solver.steps solver.milestones solver.schedule
    solver.gamma solver.plateau solver.warmup_steps solver.warmup_factor solver.warmup solver.batch_size
    solver.accumulate solver.momentum solver.weight_decay solver.clip_norm solver.ema solver.compile
    solver.precision solver.eval_every solver.save_every solver.log_every solver.patience test.pre_nms_topk
    test.post_nms_topk test.min_score test.nms_iou test.max_detections test.coco_max_dets test.refine
    test.vote_iou test.scales test.flip test.soft_nms_sigma test.ensemble test.batch_size test.metric test.views
    test.recalibrate
    """
)

MEASURED_BY = _names(
    """
    data.proposals data.test_short_side data.max_side rpn.nms_iou rpn.min_size test.pre_nms_topk
    test.post_nms_topk test.min_score test.nms_iou test.max_detections test.coco_max_dets test.vote_iou
    test.soft_nms_sigma test.metric
    """
)
"""what a training run's evaluations read of the changeable settings: figures can be compared if these, and the
validation data, are the same"""


def check_resume(saved: Any, changed: Any, run: Path) -> None:
    """Refuse other values of settings that a checkpoint holds for good.

    Args:
        saved: the config that the run was trained with
        changed: the config, of the same kind, to continue with
        run: its folder

    Raises UserError, which names the first such setting.
    """
    before = {name: value for name, _, value in settings(saved)}
    for name, _, value in settings(changed):
        if name in FIXED and value != before[name]:
            raise UserError(
                f"--resume cannot change {name}, which {run} was trained with: start a new training run "
                f"with --init-weights {run}."
            )
