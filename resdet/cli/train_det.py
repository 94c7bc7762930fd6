"""Train a detector: from the command line to the loop."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from resdet.cli.eval_det import score
from resdet.config import DetConfig, from_dict, load_config, override, to_dict
from resdet.data.build import describe, read_annotations, training_batches, validation_batches
from resdet.detection.faster_rcnn import build_faster_rcnn
from resdet.engine import runtime as runtimes
from resdet.engine.checkpoint import ModelFile, save_model, start_from, write_text
from resdet.engine.log import read_metrics
from resdet.engine.loop import fit
from resdet.engine.runtime import Runtime, seed_everything
from resdet.errors import UserError
from resdet.evaluation.predict import mean_losses, to_device
from resdet.types import Batch, Losses
from resdet.visualize import plot_training


def main(arguments: Sequence[str]) -> None:
    """RECIPE [--setting VALUE …], or --resume RUN [--setting VALUE …]: train a detector"""
    runtimes.join()
    try:
        config, resume = parse(arguments)
        train(config, runtimes.start(config.device, config.solver.precision), resume)
    finally:
        runtimes.leave()


def parse(arguments: Sequence[str]) -> tuple[DetConfig, bool]:
    """The config to train, and whether to resume its run."""
    if arguments and not arguments[0].startswith("-"):
        return load_config(arguments[0], arguments[1:]), False
    parser = argparse.ArgumentParser(prog="train_det", description=main.__doc__)
    parser.add_argument("--resume", metavar="RUN", type=Path, help="a run folder: go on exactly where it stopped")
    options, rest = parser.parse_known_args(arguments)
    if options.resume is None:
        recipes = ", ".join(sorted(str(path) for path in Path("configs").glob("*.py")))
        raise UserError(f"Name a recipe to train ({recipes or 'a Python file'}), or --resume a run folder.")
    config = from_dict(DetConfig, runtimes.from_main(lambda: _read_config(options.resume)))
    # The folder may have been moved since, or the command be given somewhere else.
    config = replace(config, runs=str(options.resume.parent), name=options.resume.name)
    changed = override(config, rest)
    _refuse_other_network(config, changed, options.resume)
    return changed, True


def _read_config(run: Path) -> dict[str, Any]:
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"There is nothing to resume in {run}: it has no config.json.")
    return json.loads(path.read_text())


def _refuse_other_network(saved: DetConfig, changed: DetConfig, run: Path) -> None:
    """A checkpoint fits one network and one optimizer; all other settings may change at a resume."""
    for name, before, after in (
        ("model settings", saved.model, changed.model),
        ("data.classes", saved.data.classes, changed.data.classes),
        ("solver.optimizer", saved.solver.optimizer, changed.solver.optimizer),
    ):
        if before != after:
            raise UserError(f"--resume goes on with the {name} of {run}: to change them, use --weights {run}.")


def train(config: DetConfig, runtime: Runtime, resume: bool) -> None:
    """Train as `config` says and leave the run folder, with the training curve as a picture."""
    folder = Path(config.runs) / config.name
    check(config, runtime, folder, resume)
    say = print if runtime.is_main else (lambda text: None)
    training = read_annotations(config.data, config.data.train, config.data.classes)
    validation = read_annotations(config.data, config.data.val, training.classes)
    classes = training.classes
    say(describe(training, config.data.train))
    say(describe(validation, config.data.val))

    seed_everything(config.seed)
    model = build_faster_rcnn(config, len(classes))
    if not resume:
        say(start_from(model, config, classes))
    if runtime.is_main:
        write_text(folder / "config.json", json.dumps(to_dict(config), indent=1) + "\n")

    def batches(start: int) -> Iterator[Batch]:
        return training_batches(training, config, runtime, start)

    def losses(network: nn.Module, batch: Batch) -> Losses:
        return network(*to_device(batch, runtime.device))

    def evaluate() -> dict[str, float]:
        terms = mean_losses(model, validation_batches(validation, config, runtime), runtime)
        result, _ = score(model, validation, config, runtime)
        return {"val_loss": float(sum(terms)), "map07": result.map07, "map": result.map}

    def save(path: Path, step: int) -> None:
        save_model(path, ModelFile(model.state_dict(), classes, config, step))

    fit(
        model,
        losses=losses,
        batches=batches,
        evaluate=evaluate,
        metric=config.test.metric,
        save_model=save,
        solver=config.solver,
        seed=config.seed,
        runtime=runtime,
        folder=folder,
        resume=resume,
    )
    if runtime.is_main:
        plot_training(read_metrics(folder / "metrics.jsonl"), folder / "curves.png")
    say(f"Done. The best model is {folder}/model.safetensors, the training curve {folder}/curves.png.")


def check(config: DetConfig, runtime: Runtime, folder: Path, resume: bool) -> None:
    """Refuse what cannot work, before anything is read or written."""
    parts = runtime.world * config.solver.accumulate
    if config.solver.batch_size % parts:
        raise UserError(
            f"solver.batch_size {config.solver.batch_size} cannot be shared equally by {runtime.world} processes "
            f"in {config.solver.accumulate} parts each: make it a multiple of {parts}."
        )
    if not resume and any((folder / name).exists() for name in ("state.pt", "model.safetensors")):
        raise UserError(
            f"{folder} already holds a training: go on with --resume {folder}, choose another --name, or delete it."
        )
