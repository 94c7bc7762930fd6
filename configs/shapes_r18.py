"""The demo: ResNet-18 from scratch on the embedded data set, in a few minutes on two CPU cores."""

from resdet.config import DataConfig, DetConfig, ModelConfig, RoIConfig, RPNConfig, SolverConfig, TestConfig
from resdet.data.shapes import CLASSES

config = DetConfig(
    data=DataConfig(
        root="datasets/shapes",
        train="train",
        val="val",
        classes=CLASSES,
        short_sides=(240,),
        test_short_side=240,
        max_side=320,
        source="python -m resdet.data.shapes datasets/shapes",
    ),
    model=ModelConfig(
        depth=18,
        norm="sync_batch",
        freeze=(),
        anchor_scales=(32, 64, 128),
        rpn_channels=256,
        conv5_stride=2,  # pooled 7×7 becomes 4×4: a third of the head's work
    ),
    rpn=RPNConfig(cross_boundary=True, before_nms=1000, after_nms=300),
    roi=RoIConfig(batch=64),
    solver=SolverConfig(
        lr=0.02,
        steps=800,
        milestones=(600, 740),
        warmup_steps=50,
        batch_size=8,
        weight_decay=1e-4,
        clip_norm=10,
        eval_every=400,
        save_every=100,
    ),
    test=TestConfig(before_nms=1000, after_nms=100, batch_size=4),
)
