"""ResNeXt-101 32×8d with a feature pyramid on COCO as in detectron2's faster_rcnn_X_101_32x8d_FPN_3x (43.0 AP).

X-101-32x8d.pkl is ImageNetPretrained/FAIR/X-101-32x8d.pkl of https://dl.fbaipublicfiles.com/detectron2/.
"""

from dataclasses import replace

from resdet.config import COCO_CLASSES, detectron2_fpn

config = replace(detectron2_fpn(101, COCO_CLASSES, "3x", resnext=True), init_weights="X-101-32x8d.pkl")
