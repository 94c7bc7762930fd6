"""ResNet-50 on VOC 2007 and 2012 as detectron2's PascalVOC-Detection/faster_rcnn_R_50_C4 trains it.

R-50.pkl is ImageNetPretrained/MSRA/R-50.pkl of https://dl.fbaipublicfiles.com/detectron2/.
"""

from dataclasses import replace

from resdet.config import VOC_CLASSES, detectron2_c4

config = replace(detectron2_c4(50, VOC_CLASSES), init_weights="R-50.pkl")
