"""ResNet-20 on CIFAR-10 in 9,000 steps: a quarter of an hour on two CPU cores."""

from resdet.config import cifar10

config = cifar10(20, solver={"steps": 9000, "schedule": "cosine", "warmup_steps": 300})
