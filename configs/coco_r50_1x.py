"""ResNet-50 on COCO, 12 epochs as in detectron2's faster_rcnn_R_50_C4_1x (35.7 AP there).

R-50.pkl is ImageNetPretrained/MSRA/R-50.pkl of https://dl.fbaipublicfiles.com/detectron2/.
"""

from dataclasses import replace

from resdet.config import COCO_CLASSES, detectron2_c4

config = replace(detectron2_c4(50, COCO_CLASSES), init_weights="R-50.pkl")
