"""Train a classifier.

    resdet train-cls cifar10_r20_quick --data.root datasets/cifar10
    resdet train-cls imagenet_r50 --data.root /data/imagenet
    torchrun --nproc-per-node 8 -m resdet train-cls imagenet_r50
    resdet train-cls --resume runs/cifar10_r20_quick

The run folder runs/NAME holds the same files as that of train-det. `train-det RECIPE --init-weights runs/NAME`
turns an ImageNet network trained here into a detector.
"""

from __future__ import annotations

from dataclasses import dataclass

from resdet.cli.arguments import ClsArguments, TrainArguments
from resdet.config import ClsConfig


@dataclass(frozen=True, kw_only=True)
class Arguments(ClsArguments, TrainArguments[ClsConfig]):
    """Those of every command that trains."""


def main(arguments: Arguments) -> None:
    """Train, or resume a run."""
    from resdet.experiments.train import train

    train(arguments.config, resume=arguments.resume is not None)
