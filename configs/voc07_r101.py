"""ResNet-101 on VOC 2007: the detector of the ResNet entry (He et al. 2015, appendix A)."""

from resdet.config import DataConfig, DetConfig

config = DetConfig(
    init_weights="torchvision",
    data=DataConfig(
        source="VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar from "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, unpacked in datasets/",
    ),
)
