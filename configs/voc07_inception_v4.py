"""Inception-v4 on VOC 2007, from timm's weights: its map of stride 16 for the RPN, the rest for the regions."""

from resdet.config import DataConfig, DetConfig, ModelConfig

config = DetConfig(
    init_weights="timm",
    data=DataConfig(
        source="VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar from "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, unpacked in datasets/",
    ),
    model=ModelConfig(
        backbone="timm",
        timm="inception_v4",
        freeze=("features_0", "features_1", "features_2"),
        pooling="align",
        pool_size=14,
    ),
)
