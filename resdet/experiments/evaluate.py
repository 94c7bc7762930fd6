"""Evaluate a detector, or the detections that it left, on the validation data of a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from resdet.config import DetConfig
from resdet.data.annotations import Annotations
from resdet.data.build import read_annotations, validation_batches
from resdet.data.images import read_image
from resdet.engine import runtime as runtimes
from resdet.engine.runtime import Runtime
from resdet.errors import UserError, listed
from resdet.evaluation import report
from resdet.evaluation.coco import read_coco_results
from resdet.evaluation.page import write_page
from resdet.evaluation.predict import Detecting, in_order, predict, predict_and_propose
from resdet.evaluation.proposals import NUMBERS
from resdet.evaluation.report import Analysis, Scores
from resdet.evaluation.voc import read_voc_results
from resdet.experiments.runs import run_folder
from resdet.inference.detector import image_size, prepare
from resdet.inference.optimize import OptimizedRCNN
from resdet.inference.test_time import TestTimeRCNN
from resdet.models.weights.load import load_model
from resdet.types import Detections
from resdet.visualize import contact_sheet, draw_detections, draw_target, save_image

SHEET_IMAGES = 8


class Evaluation(NamedTuple):
    """How good detections are."""

    annotations: Annotations
    """The images, and what is annotated in them."""
    scores: Scores
    """VOC's and COCO's figures."""
    analysis: Analysis
    """Where the score is lost."""
    folder: Path
    """Where figures, plots, pictures and results files lie."""


def evaluate(config: DetConfig, weights: str) -> Evaluation | None:
    """Score the detector in `weights`, a run folder or a file; the report goes into the run's folder ``eval``.

    Several processes share the images; all but the main one return None. Raises UserError if weights, data and
    config do not fit each other.
    """
    runtime = runtimes.start(config.device, config.solver.precision, detects=True)
    network, annotations, config = network_and_data(config, weights, runtime)
    batches = validation_batches(annotations, config, runtime)
    found = predict_and_propose(network, batches, runtime, most=max(NUMBERS))
    if not runtime.is_main:
        return None
    detections, proposals = zip(*in_order(found), strict=True)
    return _report(config, "eval", annotations, detections, proposals)


def evaluate_saved(config: DetConfig, saved: Path) -> Evaluation:
    """Score detections that were written earlier: COCO's results JSON, or a folder of VOC's text files.

    The report goes into the run's folder ``eval_saved``, so that it replaces none of a model. Raises UserError for
    results that are not of these images.
    """
    annotations = read_annotations(config.data, config.data.val, config.data.classes)
    if saved.is_dir():
        ids = [annotations.id(index) for index in range(len(annotations))]
        detections = read_voc_results(saved, ids, annotations.classes)
    else:
        detections = read_coco_results(saved, annotations)
    return _report(config, "eval_saved", annotations, detections)


def network_and_data(
    config: DetConfig, weights: str, runtime: Runtime
) -> tuple[OptimizedRCNN | TestTimeRCNN, Annotations, DetConfig]:
    """The network of `weights`, the images to try it on, and the config with the size that these must have.

    Raises UserError if the config is not that of the network.
    """
    file = load_model(weights)
    own = config.model  # of which the weights know better what norms add to variances
    there, here = asdict(replace(file.config.model, freeze=own.freeze, norm_eps=own.norm_eps)), asdict(own)
    if there != here:
        names = [name for name in here if there[name] != here[name]]
        differences = ", ".join(f"model.{name} {there[name]} there, {here[name]} here" for name in names)
        raise UserError(f"{weights} was trained with different settings from this recipe's: {differences}.")
    annotations = read_annotations(config.data, config.data.val, config.data.classes or file.classes)
    if annotations.classes != file.classes:
        raise UserError(
            f"{weights} detects {listed(file.classes)}; the recipe has {listed(annotations.classes)}: evaluate "
            "with the classes of the training, in the same order."
        )
    # The recipe says how to test; all else that shapes the network is the same in both.
    file = replace(file, config=replace(file.config, test=config.test))
    network = prepare(file, weights, runtime)
    short_side, max_side = image_size(config)
    data = replace(config.data, test_short_side=short_side, max_side=max_side)
    return network, annotations, replace(config, data=data)


def score(network: Detecting, annotations: Annotations, config: DetConfig, runtime: Runtime) -> dict[str, float]:
    """The figures of a network on all images, in fractions of 1; the same on every process."""
    found = predict(network, validation_batches(annotations, config, runtime), runtime)
    limit = config.test.coco_max_dets
    return runtimes.from_main(lambda: report.score(in_order(found), annotations, limit).figures())


def _report(
    config: DetConfig,
    name: str,
    annotations: Annotations,
    detections: Sequence[Detections],
    proposals: Sequence[Tensor] | None = None,
) -> Evaluation:
    """Score and analyse the detections of each image, and leave the report in the folder `name` of the run."""
    folder = run_folder(config) / name
    scores = report.score(detections, annotations, config.test.coco_max_dets)
    analysis = report.analyse(detections, annotations, proposals)
    report.write_report(folder, scores, analysis, detections, annotations)
    _draw_sheet(folder / "detections.png", detections, annotations)
    write_page(folder, f"{config.name} on {config.data.val}", scores, annotations.classes, len(annotations))
    return Evaluation(annotations, scores, analysis, folder)


def _draw_sheet(path: Path, detections: Sequence[Detections], annotations: Annotations) -> None:
    """Annotations beside detections of some images; saved detections can be scored where the images are not."""
    step = max(1, len(annotations) // SHEET_IMAGES)
    pictures = []
    for index in range(0, len(annotations), step)[:SHEET_IMAGES]:
        if Path(annotations.file(index)).is_file():
            image = read_image(annotations.file(index))
            pictures.append(draw_target(image, annotations.target(index), annotations.classes))
            pictures.append(draw_detections(image, detections[index], annotations.classes))
    if pictures:
        save_image(path, contact_sheet(pictures))
