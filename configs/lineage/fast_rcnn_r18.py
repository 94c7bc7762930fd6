"""Fast R-CNN (2015): regions that selective search proposes are pooled from one map and classified in one training.

    python tools/propose.py configs/lineage/fast_rcnn_r18.py --method selective-search \
        --output runs/bccd_selective_search.npz
"""

from dataclasses import replace
from pathlib import Path

from resdet.config import load_config

base = load_config(Path(__file__).with_name("faster_rcnn_r18.py"))
config = replace(
    base,
    name="",
    data=replace(base.data, proposals=("runs/bccd_selective_search.npz",)),
    model=replace(base.model, proposals="given"),
    rpn=replace(base.rpn, post_nms_topk=2000),
    roi=replace(base.roi, background_iou=(0.1, 0.5)),
    test=replace(base.test, post_nms_topk=2000),
)
