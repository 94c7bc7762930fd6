"""Inception-ResNet-v2 on VOC 2007, from timm's weights, cut at its map of stride 16."""

from resdet.config import DataConfig, DetConfig, ModelConfig

config = DetConfig(
    weights="timm",
    data=DataConfig(
        source="VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar from "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, unpacked in datasets/",
    ),
    model=ModelConfig(
        trunk="timm",
        timm="inception_resnet_v2",
        freeze=("conv2d_1a", "conv2d_2a", "conv2d_2b"),
        pooling="align",
        pool_size=14,
    ),
)
