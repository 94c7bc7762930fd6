"""ResNet-20 on CIFAR-10 in 6,500 steps, under half an hour on two CPU cores: test error 13.8 %."""

from resdet.config import cifar10

config = cifar10(
    20,
    solver={
        "lr": 0.2,
        "steps": 6500,
        "schedule": "cosine",
        "warmup_steps": 300,
        "weight_decay": 5e-4,
        "eval_every": 3250,
    },
)
