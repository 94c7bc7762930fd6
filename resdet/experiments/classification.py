"""The task of a classifier: what the training loop runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resdet.config import ClsConfig
from resdet.data.build_cls import (
    Images,
    cls_training_batches,
    cls_validation_batches,
    describe_images,
    pixel_statistics,
    read_images,
)
from resdet.data.image_folder import ImageFolder
from resdet.engine.log import read_metrics
from resdet.engine.loop import write_figures
from resdet.engine.runtime import Runtime, from_main
from resdet.evaluation.classification import accuracies, cross_entropy, predict_probabilities
from resdet.experiments.runs import measure
from resdet.models.classifier import Classifier, build_classifier, classification_loss, mixed_loss
from resdet.models.layers.norm import recalibrate
from resdet.models.weights.initial import start_classifier
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import ModelFile, save_model
from resdet.models.weights.strict import load_strictly
from resdet.seeds import Purpose, seed_everything
from resdet.types import ClsBatch, ClsLosses, Crop
from resdet.visualize import plot_classification

logger = logging.getLogger(__name__)


@dataclass
class ClassificationTask:
    """A classifier, and the images that it is trained and evaluated on (`resdet.engine.task.Task`)."""

    config: ClsConfig
    model: Classifier
    training: Images
    validation: Images
    runtime: Runtime

    @property
    def seed(self) -> int:
        """The number that all randomness follows from."""
        return self.config.seed

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the labels."""
        return self.training.classes

    @property
    def metric(self) -> str:
        """The figure that picks the best model."""
        return self.config.test.metric

    @cached_property
    def measure(self) -> dict[str, Any]:
        """The settings that an evaluation reads, and the images: themselves, or where they lie in their folder."""
        own = self.validation
        return measure(self.config, own.files if isinstance(own, ImageFolder) else own.images, own.labels)

    def batches(self, start: int) -> Iterator[ClsBatch]:
        """The training batches of step `start` and of all later steps."""
        return cls_training_batches(self.training, self.config, self.runtime, start)

    def losses(self, network: nn.Module, batch: ClsBatch) -> ClsLosses:
        """The cross-entropy of a batch, and its error."""
        loss, (images, labels, crop) = self.config.loss, to_device(batch, self.runtime.device)
        if loss.mixup:
            return mixed_loss(network, images, labels, loss.mixup, loss.label_smoothing, crop)
        return classification_loss(network(images, crop), labels, loss.label_smoothing)

    def evaluate(self, network: Classifier) -> dict[str, float]:
        """The validation loss, and the accuracies in fractions of 1."""
        batches = cls_validation_batches(self.validation, self.config, self.runtime)
        found = predict_probabilities(network, batches, self.runtime)
        loss = cross_entropy(found.values, found.labels)
        return {"val_loss": loss, **accuracies(found.values, found.labels)._asdict()}

    def save(self, network: nn.Module, path: Path, step: int) -> None:
        """Write the weights with classes and config."""
        save_model(path, ModelFile(network.state_dict(), self.classes, self.config, step))

    def finish(self, folder: Path) -> None:
        """Recalibrate the best model, if the config says so, and draw the training curve."""
        if self.config.test.recalibrate:
            step = self._recalibrate_best(folder)
            figures = self.evaluate(self.model)
            if self.runtime.is_main:
                self.save(self.model, folder / "model.safetensors", step)
                write_figures(folder, step, figures)
        if self.runtime.is_main:
            plot_classification(read_metrics(folder / "metrics.jsonl"), folder / "curves.png")

    def _recalibrate_best(self, folder: Path) -> int:
        """Give the model the best weights of the run, with true averages as batch-norm statistics → their step.

        He et al. 2015, appendix A.
        """
        file = from_main(lambda: load_model(folder, ClsConfig))
        load_strictly(self.model, file.weights, str(folder))
        solver = self.config.solver
        parts = max(1, self.config.test.recalibrate // solver.batch_size) * solver.accumulate
        batches = (to_device(batch, self.runtime.device) for batch in islice(self.batches(0), parts))
        with self.runtime.autocast():
            recalibrate(self.model, ((images, crop) for images, _, crop in batches))
        return file.step


def classification_task(config: ClsConfig, runtime: Runtime, resume: bool) -> ClassificationTask:
    """Read the data and build the classifier; unless a run is resumed, give it the weights that it starts from.

    Raises UserError if data or weights are missing, or do not fit.
    """
    training, validation = read_images(config.data)
    logger.info(describe_images(training, "training"))
    logger.info(describe_images(validation, "validation"))

    seed_everything(config.seed, Purpose.WEIGHTS)
    statistics = from_main(lambda: pixel_statistics(training, config))
    model = build_classifier(config.model, len(training.classes), *statistics)
    if not resume:
        logger.info(start_classifier(model, config, training.classes))
    if config.solver.compile:
        model.network.compile()
    return ClassificationTask(config, model, training, validation, runtime)


def to_device(batch: ClsBatch, device: torch.device) -> tuple[Tensor, Tensor, Crop | None]:
    """Images, labels and crop of `batch` on `device`."""
    crop = batch.crop
    if crop:
        crop = Crop(crop.offsets.to(device), crop.flips.to(device), crop.padding)
    return batch.images.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True), crop
