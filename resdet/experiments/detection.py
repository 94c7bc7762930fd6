"""The task of a detector: what the training loop runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from resdet.config import DetConfig
from resdet.data.annotations import Annotations
from resdet.data.build import (
    describe,
    read_annotations,
    training_batches,
    training_images,
    validation_batches,
)
from resdet.data.check import check_annotations, check_crowds, summary
from resdet.engine.log import read_metrics
from resdet.engine.runtime import Runtime, from_main
from resdet.evaluation import report
from resdet.evaluation.predict import in_order, predict_with_losses, to_device
from resdet.experiments.runs import measure
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.weights.initial import start_detector
from resdet.models.weights.resdet import ModelFile, save_model
from resdet.seeds import Purpose, seed_everything
from resdet.types import Batch, Losses
from resdet.visualize import plot_detection

METRICS = ("map07", "map", "ap", "ap50", "ap75")  # of VOC and of COCO, whatever the data's format
logger = logging.getLogger(__name__)


@dataclass
class DetectionTask:
    """A detector, and the images that it is trained and evaluated on (`resdet.engine.task.Task`)."""

    config: DetConfig
    model: FasterRCNN
    training: Annotations
    validation: Annotations
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
        """The settings that an evaluation reads, and all that it reads of the annotations."""
        own = self.validation
        read = (own.ids, own.sizes, own.offsets, own.boxes, own.labels, own.difficult, own.areas)
        return measure(self.config, *read)

    def batches(self, start: int) -> Iterator[Batch]:
        """The training batches of step `start` and of all later steps."""
        return training_batches(self.training, self.config, self.runtime, start)

    def losses(self, network: nn.Module, batch: Batch) -> Losses:
        """The four loss terms of a batch."""
        return network(*to_device(batch, self.runtime.device))

    def evaluate(self, network: FasterRCNN) -> dict[str, float]:
        """The validation loss, and VOC's and COCO's figures in fractions of 1, from one pass over the images."""
        batches = validation_batches(self.validation, self.config, self.runtime)
        terms, found = predict_with_losses(network, batches, self.runtime)
        limit = self.config.test.coco_max_dets
        figures = from_main(lambda: report.score(in_order(found), self.validation, limit).figures())
        return {"val_loss": float(terms.loss)} | {name: figures[name] for name in METRICS}

    def save(self, network: nn.Module, path: Path, step: int) -> None:
        """Write the weights with classes and config."""
        save_model(path, ModelFile(network.state_dict(), self.classes, self.config, step))

    def finish(self, folder: Path) -> None:
        """Draw the training curve."""
        if self.runtime.is_main:
            plot_detection(read_metrics(folder / "metrics.jsonl"), folder / "curves.png")


def detection_task(config: DetConfig, runtime: Runtime, resume: bool) -> DetectionTask:
    """Read the data and build the detector; unless a run is resumed, give it the weights that it starts from.

    Raises UserError if data or weights are missing, or do not fit.
    """
    training = read_annotations(config.data, config.data.train, config.data.classes)
    validation = read_annotations(config.data, config.data.val, training.classes)
    logger.info(describe(training, config.data.train))
    logger.info(describe(validation, config.data.val))
    training_images(training, config.data)
    if runtime.is_main:
        _report_findings(training, validation, config)

    seed_everything(config.seed, Purpose.WEIGHTS)
    model = build_detector(config, len(training.classes))
    if not resume:
        logger.info(start_detector(model, config, training.classes))
    return DetectionTask(config, model, training, validation, runtime)


def _report_findings(training: Annotations, validation: Annotations, config: DetConfig) -> None:
    """What `check_data` finds without opening images; what was left out has been reported already."""
    splits = {config.data.train: training, config.data.val: validation}
    findings = [finding for finding in check_annotations(splits) if finding.kind != "skipped"]
    findings += check_crowds(splits, config.test.max_detections, config.test.coco_max_dets)
    if findings:
        logger.info(f"{summary(findings, 1)}\n  (`resdet check-data` lists them all, and opens the images too)")
