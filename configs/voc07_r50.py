"""ResNet-50 on VOC 2007: the smaller backbone, everything else as in voc07_r101."""

from resdet.config import DataConfig, DetConfig, ModelConfig

config = DetConfig(
    init_weights="torchvision",
    data=DataConfig(
        source="VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar from "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, unpacked in datasets/",
    ),
    model=ModelConfig(depth=50),
)
