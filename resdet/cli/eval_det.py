"""Evaluate a detector, or the detections that it left, on the validation data of a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from resdet.config import DetConfig, load_config
from resdet.data.annotations import Annotations
from resdet.data.build import describe, read_annotations, validation_batches
from resdet.data.images import read_image
from resdet.engine import runtime as runtimes
from resdet.engine.checkpoint import load_model
from resdet.engine.runtime import Runtime
from resdet.errors import UserError
from resdet.evaluation import report
from resdet.evaluation.coco import read_coco_results
from resdet.evaluation.predict import predict, predict_and_propose
from resdet.evaluation.proposals import NUMBERS
from resdet.evaluation.report import Scores
from resdet.evaluation.voc import read_voc_results
from resdet.inference.detector import image_size, prepare
from resdet.inference.optimize import OptimizedRCNN
from resdet.inference.test_time import TestTimeRCNN
from resdet.models.faster_rcnn import FasterRCNN
from resdet.types import Detections
from resdet.visualize import contact_sheet, draw_detections, draw_target, save_image

SHEET_IMAGES = 8


def main(arguments: Sequence[str]) -> None:
    """RECIPE --weights RUN|FILE or --detections FILE|FOLDER [--setting VALUE …]: score on the validation data"""
    config, saved = parse(arguments)
    if saved is None:
        evaluate(config, runtimes.start(config.device, config.solver.precision))
    elif runtimes.is_main():
        evaluate_saved(config, saved)


def parse(arguments: Sequence[str]) -> tuple[DetConfig, Path | None]:
    """The config, and the saved detections that are to be scored in place of a model."""
    if not arguments or arguments[0].startswith("-"):
        raise UserError("Name a recipe first, as in: eval_det configs/shapes_r18.py --weights runs/shapes_r18")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # --help is the recipe's
    parser.add_argument("--detections", type=Path)
    options, settings = parser.parse_known_args(arguments[1:])
    return load_config(arguments[0], settings), options.detections


def evaluate(config: DetConfig, runtime: Runtime) -> None:
    """Score `config.weights`; tables, plots, pictures and results files go into the run's folder ``eval``."""
    model, annotations, config = network_and_data(config, runtime)
    found = predict_and_propose(model, validation_batches(annotations, config, runtime), runtime, most=max(NUMBERS))
    if runtime.is_main:
        detections, proposals = zip(*(found[index] for index in range(len(annotations))), strict=True)
        tell(config, "eval", annotations, detections, proposals)


def network_and_data(
    config: DetConfig, runtime: Runtime
) -> tuple[OptimizedRCNN | TestTimeRCNN, Annotations, DetConfig]:
    """The network of `config.weights`, the images to try it on, and the config with the size that these must have.

    Raises UserError if the config is not that of the network.
    """
    file = load_model(config.weights)
    there, here = asdict(replace(file.config.model, freeze=config.model.freeze)), asdict(config.model)
    if there != here:
        names = [name for name in here if there[name] != here[name]]
        differences = ", ".join(f"model.{name} {there[name]} there, {here[name]} here" for name in names)
        raise UserError(f"{config.weights} was trained with other settings than this recipe's: {differences}.")
    annotations = read_annotations(config.data, config.data.val, config.data.classes or file.classes)
    if annotations.classes != file.classes:
        raise UserError(
            f"{config.weights} detects {', '.join(file.classes)}; the recipe names "
            f"{', '.join(annotations.classes)}: evaluate with the classes, in the order, of the training."
        )
    # The recipe says how to test; all else that shapes the network is the same in both.
    file = replace(file, config=replace(file.config, test=config.test))
    model = prepare(file, config.weights, runtime)
    short_side, max_side = image_size(config)
    data = replace(config.data, test_short_side=short_side, max_side=max_side)
    return model, annotations, replace(config, data=data)


def evaluate_saved(config: DetConfig, saved: Path) -> None:
    """Score detections that were written earlier: COCO's results JSON, or a folder of VOC's text files.

    The report goes into the run's folder ``eval_saved``, so that it replaces none of a model.
    """
    annotations = read_annotations(config.data, config.data.val, config.data.classes)
    if saved.is_dir():
        ids = [annotations.id(index) for index in range(len(annotations))]
        detections = read_voc_results(saved, ids, annotations.classes)
    else:
        detections = read_coco_results(saved, annotations)
    tell(config, "eval_saved", annotations, detections)


def score(
    model: FasterRCNN | OptimizedRCNN, annotations: Annotations, config: DetConfig, runtime: Runtime
) -> tuple[Scores, list[Detections]]:
    """Run `model` over all images and score it; the same on every process."""
    found = predict(model, validation_batches(annotations, config, runtime), runtime)
    detections = [found[index] for index in range(len(annotations))]
    return report.score(detections, annotations), detections


def tell(
    config: DetConfig,
    name: str,
    annotations: Annotations,
    detections: Sequence[Detections],
    proposals: Sequence[Tensor] | None = None,
) -> None:
    """Print the tables and leave the report in the run's folder `name`."""
    scores = report.score(detections, annotations)
    analysis = report.analyse(detections, annotations, proposals)
    folder = Path(config.runs) / config.name / name
    print(describe(annotations, config.data.val))
    print(report.class_table(scores, annotations.classes))
    print(report.coco_table(scores.coco.stats))
    print(report.analysis_table(analysis))
    report.write_report(folder, scores, analysis, detections, annotations)
    draw_sheet(folder / "detections.png", detections, annotations)
    print(f"Figures, plots, pictures and results files are in {folder}.")


def draw_sheet(path: Path, detections: Sequence[Detections], annotations: Annotations) -> None:
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
