"""ResNet-101 on COCO: 48.4 / 27.2 in He et al. 2015, Table 8.

80k images to train on, 40k to test on. The paper's eight images a step, 240k steps at 0.001 and 80k at 0.0001; RPN
and head are trained jointly here. The anchors have a fourth scale, 64 (Faster R-CNN §4.2).
"""

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
    model=ModelConfig(anchor_scales=(64, 128, 256, 512)),
    solver=SolverConfig(lr=1e-3, steps=320_000, milestones=(240_000,), batch_size=8),
    test=TestConfig(metric="ap"),
)
