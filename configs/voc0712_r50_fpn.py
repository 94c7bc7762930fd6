"""ResNet-50 with a feature pyramid on VOC 2007 and 2012, by detectron2's recipe for VOC.

R-50.pkl is ImageNetPretrained/MSRA/R-50.pkl of https://dl.fbaipublicfiles.com/detectron2/.
"""

from dataclasses import replace

from resdet.config import VOC_CLASSES, detectron2_fpn

config = replace(detectron2_fpn(50, VOC_CLASSES), init_weights="R-50.pkl")
