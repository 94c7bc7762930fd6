"""ResNet-18 with a feature pyramid from scratch on BCCD (see bccd_r18), for two CPU cores."""

from resdet.config import DataConfig, DetConfig, ModelConfig, RoIConfig, RPNConfig, SolverConfig, TestConfig

config = DetConfig(
    data=DataConfig(
        root="datasets/bccd",
        train="trainval",
        val="test",
        classes=("RBC", "WBC", "Platelets"),
        short_sides=(300,),
        test_short_side=300,
        max_side=400,
        workers=0,
        source="the folder BCCD of https://github.com/Shenggan/BCCD_Dataset, copied to datasets/bccd",
    ),
    model=ModelConfig(
        depth=18,
        features="fpn",
        fpn_channels=128,
        norm="sync_batch",
        head_norm="sync_batch",
        freeze=(),
        anchor_scales=(16, 32, 64, 128, 256),
        anchor_center="corner",
        rpn_channels=128,
        pooling="align",
        sampling_ratio=2,
        box_head="conv_fc",
        fc_dims=(512, 512),
        dropout=0.0,
    ),
    rpn=RPNConfig(cross_boundary=True, pre_nms_topk=500, post_nms_topk=300),
    roi=RoIConfig(
        batch_size_per_image=32, foreground_fraction=0.5, beta=1 / 9
    ),  # in few steps a stronger box term helps
    solver=SolverConfig(
        optimizer="adamw",
        lr=1e-3,
        steps=500,
        milestones=(360, 460),
        warmup_steps=50,
        batch_size=4,
        weight_decay=0.05,
        clip_norm=10,
        eval_every=125,
        save_every=50,
    ),
    test=TestConfig(pre_nms_topk=500, post_nms_topk=150, batch_size=4),
)
