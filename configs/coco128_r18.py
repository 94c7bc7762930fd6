"""ResNet-18 from scratch on the 128 photographs of COCO128, evaluated on the same: it overfits, on purpose.

A detector that cannot memorize a few photographs has a bug somewhere; for two CPU cores.
"""

from resdet.config import DataConfig, DetConfig, ModelConfig, RoIConfig, RPNConfig, SolverConfig, TestConfig

config = DetConfig(
    data=DataConfig(
        format="coco",
        root="datasets/coco128",
        train="train2017",
        val="train2017",
        classes=(),
        short_sides=(320,),
        test_short_side=320,
        max_side=480,
        flip=0,
        workers=0,
        source="the first 128 photographs of COCO train2017, with their annotations in instances_train2017.json",
    ),
    model=ModelConfig(
        depth=18,
        norm="sync_batch",
        freeze=(),
        anchor_scales=(16, 32, 64, 128, 256),
        anchor_center="corner",  # small objects: where a cell looks, half a cell from the papers' place
        rpn_channels=256,
        pooling="align",
        pool_size=4,
    ),
    rpn=RPNConfig(cross_boundary=True, pre_nms_topk=1000, post_nms_topk=300),
    roi=RoIConfig(batch_size_per_image=32, foreground_fraction=0.5, beta=1 / 9),
    solver=SolverConfig(
        optimizer="adamw",
        lr=3e-4,
        steps=2100,
        schedule="cosine",
        warmup_steps=50,
        batch_size=4,
        weight_decay=0.05,
        clip_norm=10,
        eval_every=700,
        save_every=100,
    ),
    test=TestConfig(pre_nms_topk=1000, post_nms_topk=200, batch_size=4, metric="ap50"),
)
