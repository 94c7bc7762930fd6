"""Online hard example mining (Shrivastava et al. 2016)."""

from __future__ import annotations

from torch import Tensor

from resdet import ops
from resdet.models.targets import RoITargets
from resdet.precision import full_precision


@full_precision
def hard_examples(regions: RoITargets, losses: Tensor, batch: int, nms_iou: float) -> RoITargets:
    """The `batch` regions of an image with the highest loss.

    Regions that overlap a harder one by more than `nms_iou` (0.7 there) are left out: they are one example.

    Args:
        regions: all that may be trained on
        losses: (R,)
    """
    keep = ops.nms(regions.rois, losses, nms_iou, batch)
    return RoITargets(*(field[keep] for field in regions))
