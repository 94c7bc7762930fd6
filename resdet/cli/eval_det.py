"""Evaluate a detector on the validation data of a recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from resdet.config import DetConfig, load_config
from resdet.data.annotations import Annotations
from resdet.data.build import describe, read_annotations, validation_batches
from resdet.data.images import read_image
from resdet.detection.faster_rcnn import FasterRCNN
from resdet.engine import runtime as runtimes
from resdet.engine.checkpoint import load_model, write_text
from resdet.engine.runtime import Runtime
from resdet.errors import UserError
from resdet.evaluation.plots import plot_precision_recall
from resdet.evaluation.predict import predict
from resdet.evaluation.voc import VocResult, evaluate_voc, format_table, write_voc_results
from resdet.inference.detector import restore
from resdet.inference.fast import FastRCNN
from resdet.types import Detections
from resdet.visualize import contact_sheet, draw_detections, draw_target, save_image

SHEET_IMAGES = 8


def main(arguments: Sequence[str]) -> None:
    """RECIPE --weights RUN|FILE [--setting VALUE …]: score a detector on the recipe's validation data"""
    if not arguments or arguments[0].startswith("-"):
        raise UserError("Name a recipe first, as in: eval_det configs/shapes_r18.py --weights runs/shapes_r18")
    config = load_config(arguments[0], arguments[1:])
    runtimes.join()
    try:
        evaluate(config, runtimes.start(config.device, config.solver.precision))
    finally:
        runtimes.leave()


def evaluate(config: DetConfig, runtime: Runtime) -> None:
    """Score `config.weights`; tables, plots, pictures and results files go into the run's folder ``eval``."""
    file = load_model(config.weights)
    if file.config.model != config.model:
        raise UserError(
            f"{config.weights} was trained with other model settings than this recipe's: "
            f"{file.config.model} there, {config.model} here."
        )
    annotations = read_annotations(config.data, config.data.val, config.data.classes or file.classes)
    if annotations.classes != file.classes:
        raise UserError(
            f"{config.weights} detects {', '.join(file.classes)}; the recipe names "
            f"{', '.join(annotations.classes)}: evaluate with the classes, in the order, of the training."
        )
    model = FastRCNN(restore(file, config.weights), runtime)
    result, detections = score(model, annotations, config, runtime)
    if not runtime.is_main:
        return
    print(describe(annotations, config.data.val))
    print(format_table(result, file.classes))
    folder = Path(config.runs) / config.name / "eval"
    write_report(folder, result, detections, annotations)
    print(f"Figures, curves, pictures and results files are in {folder}.")


def score(
    model: FasterRCNN | FastRCNN, annotations: Annotations, config: DetConfig, runtime: Runtime
) -> tuple[VocResult, list[Detections]]:
    """Run `model` over all images and score it; the same on every process."""
    found = predict(model, validation_batches(annotations, config, runtime), runtime)
    detections = [found[index] for index in range(len(annotations))]
    targets = [annotations.target(index) for index in range(len(annotations))]
    return evaluate_voc(detections, targets, len(annotations.classes)), detections


def write_report(folder: Path, result: VocResult, detections: list[Detections], annotations: Annotations) -> None:
    """metrics.json, the precision–recall plot, detections beside annotations, and VOC's results files."""
    classes = annotations.classes
    figures = {
        "map07": result.map07,
        "map": result.map,
        "images": len(annotations),
        "per_class": {
            name: {"ap07": ap07, "ap": ap, "positives": int(positives)}
            for name, ap07, ap, positives in zip(classes, result.ap07, result.ap, result.positives, strict=True)
        },
    }
    write_text(folder / "metrics.json", json.dumps(figures, indent=1) + "\n")
    write_voc_results(folder / "voc", detections, [annotations.id(i) for i in range(len(annotations))], classes)
    plot_precision_recall(result, classes, folder / "precision_recall.png")
    pictures = []
    step = max(1, len(annotations) // SHEET_IMAGES)
    for index in range(0, len(annotations), step)[:SHEET_IMAGES]:
        image = read_image(annotations.file(index))
        pictures.append(draw_target(image, annotations.target(index), classes))
        pictures.append(draw_detections(image, detections[index], classes))
    save_image(folder / "detections.png", contact_sheet(pictures))
