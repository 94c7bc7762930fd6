"""ResNet-50 with a feature pyramid on COCO, 37 epochs as in detectron2's faster_rcnn_R_50_FPN_3x (40.2 AP there).

R-50.pkl is ImageNetPretrained/MSRA/R-50.pkl of https://dl.fbaipublicfiles.com/detectron2/.
"""

from dataclasses import replace

from resdet.config import COCO_CLASSES, detectron2_fpn

config = replace(detectron2_fpn(50, COCO_CLASSES, "3x"), init_weights="R-50.pkl")
