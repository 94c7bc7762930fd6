"""The demo: ResNet-18 from scratch on the embedded data set, in a few minutes on two CPU cores."""

from resdet.config import (
    SHAPES_CLASSES,
    DataConfig,
    DetConfig,
    ModelConfig,
    RoIConfig,
    RPNConfig,
    SolverConfig,
    TestConfig,
)

config = DetConfig(
    data=DataConfig(
        root="datasets/shapes",
        train="train",
        val="val",
        classes=SHAPES_CLASSES,
        short_sides=(240,),
        test_short_side=240,
        max_side=320,
        workers=0,  # small images: on two cores a worker takes more from the training than it gives
        source="python -m resdet.data.shapes datasets/shapes",
    ),
    model=ModelConfig(
        depth=18,
        norm="sync_batch",
        freeze=(),
        anchor_scales=(32, 64, 128),
        anchor_center="corner",  # small objects: where a cell looks, half a cell from the papers' place
        rpn_channels=256,
        pooling="align",  # objects of a few cells: rounding their corners would lose too much
        pool_size=4,  # a third of the head's work on 7×7
    ),
    rpn=RPNConfig(cross_boundary=True, pre_nms_topk=600, post_nms_topk=200),
    roi=RoIConfig(batch_size_per_image=32, foreground_fraction=0.5),
    solver=SolverConfig(
        optimizer="adamw",
        lr=1e-3,
        steps=500,
        milestones=(360, 460),
        warmup_steps=50,
        batch_size=4,
        weight_decay=0.05,
        clip_norm=10,
        eval_every=250,
        save_every=50,
    ),
    test=TestConfig(pre_nms_topk=600, post_nms_topk=100, batch_size=4),
)
