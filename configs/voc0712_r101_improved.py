"""ResNet-101 on VOC 2007 and 2012 with all that the ResNet entry adds (He et al. 2015, appendix B).

The whole image as context in training and testing; in testing, boxes are refined and vote, and regions are pooled
from several scales. The paper's 85.6 mAP started from a detector of COCO: --weights runs/coco_r101.
"""

from dataclasses import replace
from pathlib import Path

from resdet.config import load_config

base = load_config(Path(__file__).with_name("voc0712_r101.py"))
config = replace(
    base,
    name="",
    model=replace(base.model, context=True),
    test=replace(base.test, refine=True, vote_iou=0.5, scales=(200, 400, 600, 800, 1000)),
)
