"""ResNet-101 with a feature pyramid on COCO as in detectron2's faster_rcnn_R_101_FPN_3x (42.0 AP there).

R-101.pkl is ImageNetPretrained/MSRA/R-101.pkl of https://dl.fbaipublicfiles.com/detectron2/.
"""

from dataclasses import replace

from resdet.config import COCO_CLASSES, detectron2_fpn

config = replace(detectron2_fpn(101, COCO_CLASSES, "3x"), init_weights="R-101.pkl")
