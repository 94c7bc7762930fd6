"""The network of torchvision's fasterrcnn_resnet50_fpn_v2 on COCO, with the schedule of the first version.

The second version's weights (46.7 AP there) were trained for longer and with stronger augmentation:
resdet eval-det coco_r50_fpn_v2_torchvision --weights torchvision/fasterrcnn_resnet50_fpn_v2
"""

from dataclasses import replace

from resdet.config import COCO_CLASSES, torchvision_fpn

config = replace(torchvision_fpn("v2", COCO_CLASSES), init_weights="torchvision-v2")
