"""ResNet-50 with a feature pyramid on COCO as torchvision's fasterrcnn_resnet50_fpn was trained (37.0 AP there).

resdet eval-det coco_r50_fpn_torchvision --weights torchvision/fasterrcnn_resnet50_fpn
"""

from dataclasses import replace

from resdet.config import COCO_CLASSES, torchvision_fpn

config = replace(torchvision_fpn("v1", COCO_CLASSES), init_weights="torchvision")
