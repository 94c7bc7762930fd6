"""ResNet-18 of ImageNet's kind on CIFAR-10 enlarged to 64 pixels: weights for a detector, in minutes on a CPU."""

from resdet.config import ClsConfig, ClsDataConfig, ClsModelConfig, ClsTestConfig, SolverConfig
from resdet.config.cifar import SOURCE

config = ClsConfig(
    data=ClsDataConfig(
        format="cifar10",
        root="datasets/cifar10",
        size=64,
        padding=8,
        source=SOURCE,
    ),
    model=ClsModelConfig(depth=18),
    solver=SolverConfig(
        lr=0.1,
        steps=4_000,
        schedule="cosine",
        warmup_steps=200,
        batch_size=128,
        weight_decay=5e-4,
        eval_every=1_000,
        save_every=500,
    ),
    test=ClsTestConfig(recalibrate=20_000),
)
