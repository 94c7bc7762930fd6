"""ZF on VOC 2007: the faster detector of the Faster R-CNN paper, 59.9 mAP there.

The authors' ImageNet weights exist for Caffe only; from scratch, as here, it does not come near.
"""

from resdet.config import DataConfig, DetConfig, ModelConfig

config = DetConfig(
    data=DataConfig(
        source="VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar from "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, unpacked in datasets/",
    ),
    model=ModelConfig(backbone="zf", freeze=(), rpn_channels=256, pool_size=6, box_head="conv_fc"),
)
