"""ResNet-101 on COCO, 37 epochs as in detectron2's faster_rcnn_R_101_C4_3x (41.1 AP there).

R-101.pkl is ImageNetPretrained/MSRA/R-101.pkl of https://dl.fbaipublicfiles.com/detectron2/.
"""

from dataclasses import replace

from resdet.config import COCO_CLASSES, detectron2_c4

config = replace(detectron2_c4(101, COCO_CLASSES, "3x"), init_weights="R-101.pkl")
