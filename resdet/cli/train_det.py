"""Train a detector.

    resdet train-det shapes_r18
    resdet train-det voc07_r101 --solver.lr 2e-3 --solver.batch-size 2
    resdet train-det bccd_r18 --init-weights runs/shapes_r18
    torchrun --nproc-per-node 2 -m resdet train-det voc07_r101 --solver.batch-size 2
    resdet train-det --resume runs/shapes_r18

The run folder runs/NAME holds model.safetensors (the best model), last.safetensors, config.json, metrics.jsonl,
metrics.json, TensorBoard events and curves.png. --resume continues from its state.pt exactly where training
stopped. Ctrl-C and SIGTERM stop it after the step under way, which is saved; a second Ctrl-C does not wait. With a
recipe before --help, the defaults shown are those of the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass

from resdet.cli.arguments import DetArguments, TrainArguments
from resdet.config import DetConfig


@dataclass(frozen=True, kw_only=True)
class Arguments(DetArguments, TrainArguments[DetConfig]):
    """Those of every command that trains."""


def main(arguments: Arguments) -> None:
    """Train, or resume a run."""
    from resdet.experiments.train import train

    train(arguments.config, resume=arguments.resume is not None)
