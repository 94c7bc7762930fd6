"""ResNet-50 with a dilated conv5 on COCO, 12 epochs as in detectron2's faster_rcnn_R_50_DC5_1x (37.3 AP there).

R-50.pkl is ImageNetPretrained/MSRA/R-50.pkl of https://dl.fbaipublicfiles.com/detectron2/.
"""

from dataclasses import replace

from resdet.config import COCO_CLASSES, detectron2_dc5

config = replace(detectron2_dc5(50, COCO_CLASSES), init_weights="R-50.pkl")
