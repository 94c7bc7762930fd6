"""Train a detector: from the command line to the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from resdet.cli.run import check, measure, parse
from resdet.config import DetConfig, to_dict
from resdet.data.annotations import Annotations
from resdet.data.build import describe, read_annotations, training_batches, validation_batches
from resdet.data.check import check_annotations, summary
from resdet.detection.build import build_detector
from resdet.detection.faster_rcnn import FasterRCNN
from resdet.engine import runtime as runtimes
from resdet.engine.checkpoint import ModelFile, save_model
from resdet.engine.log import read_metrics
from resdet.engine.loop import fit
from resdet.engine.runtime import Runtime
from resdet.engine.start import start_detector
from resdet.evaluation import report
from resdet.evaluation.predict import predict_with_losses, to_device
from resdet.seeds import Purpose, seed_everything
from resdet.types import Batch, Losses
from resdet.visualize import plot_detection

METRICS = ("map07", "map", "ap", "ap50", "ap75")  # of VOC and of COCO, whatever the data's format


def main(arguments: Sequence[str]) -> None:
    """RECIPE [--setting VALUE …], or --resume RUN [--setting VALUE …]: train a detector"""
    config, resume = parse(arguments, DetConfig, "train_det")
    train(config, runtimes.start(config.device, config.solver.precision), resume)


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
    if runtime.is_main:
        tell_findings(training, validation, config)

    seed_everything(config.seed, Purpose.WEIGHTS)
    model = build_detector(config, len(classes))
    if not resume:
        say(start_detector(model, config, classes))

    def batches(start: int) -> Iterator[Batch]:
        return training_batches(training, config, runtime, start)

    def losses(network: nn.Module, batch: Batch) -> Losses:
        return network(*to_device(batch, runtime.device))

    def evaluate(network: FasterRCNN) -> dict[str, float]:
        terms, found = predict_with_losses(network, validation_batches(validation, config, runtime), runtime)
        detections = [found[index] for index in range(len(validation))]
        figures = runtimes.from_main(lambda: report.score(detections, validation).figures())
        return {"val_loss": float(terms.loss)} | {name: figures[name] for name in METRICS}

    def save(network: nn.Module, path: Path, step: int) -> None:
        save_model(path, ModelFile(network.state_dict(), classes, config, step))

    fit(
        model,
        losses=losses,
        batches=batches,
        evaluate=evaluate,
        metric=config.test.metric,
        measure=measure(config, *identity(validation)),
        save_model=save,
        classes=classes,
        config=to_dict(config),
        solver=config.solver,
        seed=config.seed,
        runtime=runtime,
        folder=folder,
        resume=resume,
    )
    if runtime.is_main:
        plot_detection(read_metrics(folder / "metrics.jsonl"), folder / "curves.png")
    say(f"Done. The best model is {folder}/model.safetensors, the training curve {folder}/curves.png.")


def identity(annotations: Annotations) -> list[np.ndarray]:
    """All that an evaluation reads of the annotations."""
    own = annotations
    return [own.ids, own.sizes, own.offsets, own.boxes, own.labels, own.difficult, own.areas]


def tell_findings(training: Annotations, validation: Annotations, config: DetConfig) -> None:
    """What `check_data` finds without opening images; what was left out has been told already."""
    splits = {config.data.train: training, config.data.val: validation}
    findings = [finding for finding in check_annotations(splits) if finding.kind != "left out"]
    if findings:
        print(f"{summary(findings, 1)}\n  (tools/check_data.py tells all, and opens the images too)")
