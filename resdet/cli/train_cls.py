"""Train a classifier: from the command line to the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resdet.cli.run import check, measure, parse
from resdet.config import ClsConfig, to_dict
from resdet.data.build_cls import (
    Images,
    cls_training_batches,
    cls_validation_batches,
    describe_images,
    pixel_statistics,
    read_images,
)
from resdet.data.image_folder import ImageFolder
from resdet.engine import runtime as runtimes
from resdet.engine.checkpoint import ModelFile, load_model, save_model
from resdet.engine.log import read_metrics
from resdet.engine.loop import fit, write_figures
from resdet.engine.runtime import Runtime
from resdet.engine.start import start_classifier
from resdet.evaluation.classification import accuracies, cross_entropy, predict_probabilities
from resdet.models.classifier import Classifier, build_classifier, classification_loss, mixed_loss
from resdet.models.layers.norm import recalibrate
from resdet.models.weights.resnet import load_strictly
from resdet.seeds import Purpose, seed_everything
from resdet.types import ClsBatch, ClsLosses, Crop
from resdet.visualize import plot_classification


def main(arguments: Sequence[str]) -> None:
    """RECIPE [--setting VALUE …], or --resume RUN [--setting VALUE …]: train a classifier"""
    config, resume = parse(arguments, ClsConfig, "train_cls")
    train(config, runtimes.start(config.device, config.solver.precision), resume)


def train(config: ClsConfig, runtime: Runtime, resume: bool) -> None:
    """Train as `config` says and leave the run folder, with the training curve as a picture."""
    folder = Path(config.runs) / config.name
    check(config, runtime, folder, resume)
    say = print if runtime.is_main else (lambda text: None)
    training, validation = read_images(config.data)
    classes = training.classes
    say(describe_images(training, "training"))
    say(describe_images(validation, "validation"))

    seed_everything(config.seed, Purpose.WEIGHTS)
    statistics = runtimes.from_main(lambda: pixel_statistics(training, config))
    model = build_classifier(config.model, len(classes), *statistics)
    if not resume:
        say(start_classifier(model, config, classes))
    if config.solver.compile:
        model.network.compile()

    def batches(start: int) -> Iterator[ClsBatch]:
        return cls_training_batches(training, config, runtime, start)

    def losses(network: nn.Module, batch: ClsBatch) -> ClsLosses:
        images, labels, crop = to_device(batch, runtime.device)
        if config.loss.mixup:
            return mixed_loss(network, images, labels, config.loss.mixup, config.loss.label_smoothing, crop)
        return classification_loss(network(images, crop), labels, config.loss.label_smoothing)

    def evaluate(network: Classifier) -> dict[str, float]:
        found = predict_probabilities(network, cls_validation_batches(validation, config, runtime), runtime)
        loss = cross_entropy(found.values, found.labels)
        return {"val_loss": loss, **accuracies(found.values, found.labels)._asdict()}

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
    if config.test.recalibrate:
        step = recalibrate_best(model, training, config, runtime, folder)
        figures = evaluate(model)
        if runtime.is_main:
            save(model, folder / "model.safetensors", step)
            write_figures(folder, step, figures)
    if runtime.is_main:
        plot_classification(read_metrics(folder / "metrics.jsonl"), folder / "curves.png")
    say(f"Done. The best model is {folder}/model.safetensors, the training curve {folder}/curves.png.")


def identity(images: Images) -> list[np.ndarray]:
    """What tells these images from others: themselves, or where they lie below their folder."""
    return [images.files if isinstance(images, ImageFolder) else images.images, images.labels]


def to_device(batch: ClsBatch, device: torch.device) -> tuple[Tensor, Tensor, Crop | None]:
    """Images, labels and crop of `batch` on `device`."""
    crop = batch.crop
    if crop:
        crop = Crop(crop.offsets.to(device), crop.flips.to(device), crop.padding)
    return batch.images.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True), crop


def recalibrate_best(model: Classifier, training: Images, config: ClsConfig, runtime: Runtime, folder: Path) -> int:
    """Give `model` the best weights of the run, with true averages as batch-norm statistics → their step.

    He et al. 2015, appendix A.
    """
    file = runtimes.from_main(lambda: load_model(folder, ClsConfig))
    load_strictly(model, file.weights, str(folder))
    parts = max(1, config.test.recalibrate // config.solver.batch_size) * config.solver.accumulate

    def inputs() -> Iterator[tuple[Tensor, Crop | None]]:
        for batch in islice(cls_training_batches(training, config, runtime, 0), parts):
            images, _, crop = to_device(batch, runtime.device)
            yield images, crop

    with runtime.autocast():
        recalibrate(model, inputs())
    return file.step
