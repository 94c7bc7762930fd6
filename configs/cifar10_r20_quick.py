"""ResNet-20 on CIFAR-10 in 6,000 steps: 20 minutes on two CPU cores, test error 15.3 %."""

from resdet.config import cifar10

config = cifar10(
    20, solver={"steps": 6000, "schedule": "cosine", "warmup_steps": 300, "weight_decay": 5e-4, "eval_every": 2000}
)
