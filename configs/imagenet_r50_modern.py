"""ResNet-50 on ImageNet with what was learnt since: longer, smoother, with stronger augmentation; 300 epochs."""

from resdet.config import ClsConfig, ClsDataConfig, ClsLossConfig, SolverConfig

config = ClsConfig(
    data=ClsDataConfig(color="jitter", operations=2),
    loss=ClsLossConfig(label_smoothing=0.1, mixup=0.2),
    solver=SolverConfig(
        lr=0.5,
        steps=375_000,
        schedule="cosine",
        warmup_steps=6_250,
        warmup_factor=0.01,
        batch_size=1024,
        weight_decay=2e-5,
        ema=0.9999,
        eval_every=12_500,
        save_every=2_500,
        log_every=100,
    ),
)
