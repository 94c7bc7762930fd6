"""ResNet-50 on COCO: the smaller backbone, everything else as in coco_r101."""

from resdet.config import COCO_CLASSES, DataConfig, DetConfig, ModelConfig, SolverConfig, TestConfig

config = DetConfig(
    init_weights="torchvision",
    data=DataConfig(
        format="coco",
        root="datasets/coco",
        train="train2014",
        val="val2014",
        classes=COCO_CLASSES,
        source="https://cocodataset.org: 2014 train and val images, and their annotations",
    ),
    model=ModelConfig(depth=50, anchor_scales=(64, 128, 256, 512)),
    solver=SolverConfig(lr=1e-3, steps=320_000, milestones=(240_000,), batch_size=8),
    test=TestConfig(metric="ap"),
)
