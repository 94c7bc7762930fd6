"""Make region proposals for the images of a config; several processes share the images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from rich.progress import track

from resdet.config import DetConfig, ProposalMethod
from resdet.data.annotations import Annotations
from resdet.data.build import read_annotations, validation_batches
from resdet.data.images import read_image
from resdet.data.proposals import write_proposals
from resdet.data.selective_search import selective_search
from resdet.engine import runtime as runtimes
from resdet.engine.device import local_world_size
from resdet.engine.runtime import Runtime
from resdet.errors import UserError
from resdet.evaluation.predict import in_order, predict_and_propose
from resdet.evaluation.stages import TIMED_BATCHES, StagedNetwork, Stages, time_stages
from resdet.inference.detector import prepare
from resdet.models.weights.load import load_model

logger = logging.getLogger(__name__)


def propose(
    config: DetConfig,
    method: ProposalMethod,
    output: Path,
    *,
    most: int = 2000,
    weights: str = "",
    edges: str = "",
) -> Path:
    """Write region proposals for the training and the validation images of a config → the file.

    Args:
        config: names the images
        method: what finds the proposals
        output: a .npz file to write
        most: maximum number of proposals per image, the best ones
        weights: for rpn, a run folder or a weights file of the detector whose RPN proposes
        edges: for edge-boxes, the file of OpenCV's structured-edge model

    Raises UserError if something that the method needs is missing.
    """
    splits = dict.fromkeys(f"{config.data.train}+{config.data.val}".split("+"))
    annotations = read_annotations(config.data, "+".join(splits), config.data.classes)
    if method == "rpn":
        boxes, seconds = from_network(annotations, config, weights, most)
    else:
        boxes, seconds = from_pixels(annotations, method, edges, most)
    ids = [annotations.id(index) for index in range(len(annotations))]
    runtimes.from_main(lambda: write_proposals(output, ids, boxes, seconds))
    mean = sum(map(len, boxes)) / len(boxes)
    logger.info(f"{output} has proposals for {len(boxes)} images: {mean:.0f} per image, {seconds:.2f} s per image.")
    return output


def from_network(
    annotations: Annotations, config: DetConfig, weights: str, most: int
) -> tuple[list[np.ndarray], float]:
    """The proposals of the network that `weights` names, and the seconds that its backbone and RPN take."""
    if not weights:
        raise UserError("The method rpn needs a trained detector: pass --weights RUN.")
    file = load_model(weights)
    if file.config.model.proposals == "given":
        raise UserError(f"{weights} has no RPN, since it was given its proposals: pass another detector.")
    runtime = runtimes.start(config.device, config.solver.precision)
    network = prepare(file, weights, runtime)
    found = predict_and_propose(network, validation_batches(annotations, config, runtime), runtime, most)
    stages = runtimes.from_main(lambda: time_alone(network, annotations, config, runtime))
    return [proposals.numpy() for _, proposals in in_order(found)], stages.backbone + stages.proposals


def time_alone(network: StagedNetwork, annotations: Annotations, config: DetConfig, runtime: Runtime) -> Stages:
    """The seconds of an image while no other process works."""
    batches = islice(validation_batches(annotations, config, runtime.alone()), TIMED_BATCHES)
    (stages,) = time_stages([(network, tuple(batches))])
    return stages


def from_pixels(annotations: Annotations, method: str, edges: str, most: int) -> tuple[list[np.ndarray], float]:
    """The proposals of a method that looks at an image alone, and the mean seconds an image took one process."""
    find: Callable[[np.ndarray], np.ndarray] = selective_search
    if method == "edge-boxes":
        find = partial(edge_boxes, model=_checked_edges(edges))
    elif find_spec("skimage") is None:
        raise UserError("Selective search needs the package scikit-image: pip install 'resdet[proposals]'.")
    own = range(runtimes.rank(), len(annotations), runtimes.world_size())
    jobs = [(find, annotations.file(index), most) for index in own]
    workers = max(1, (os.cpu_count() or 1) // local_world_size())
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(_run, jobs, chunksize=4)
        hidden = not runtimes.is_main()
        done = dict(zip(own, track(results, "Proposing", len(jobs), transient=True, disable=hidden), strict=True))
    found = {index: result for part in runtimes.gather(done) for index, result in part.items()}
    boxes, seconds = zip(*(found[index] for index in range(len(annotations))), strict=True)
    return list(boxes), float(np.mean(seconds))


def edge_boxes(image: np.ndarray, model: str) -> np.ndarray:
    """(H, W, 3) uint8 → (P, 4), best first (Zitnick and Dollár 2014)."""
    ximgproc: Any = vars(cv2)["ximgproc"]  # OpenCV's type hints do not know it
    edges = ximgproc.createStructuredEdgeDetection(model)
    strength = edges.detectEdges(image.astype(np.float32) / 255)
    orientation = edges.computeOrientation(strength)
    thin = edges.edgesNms(strength, orientation)
    boxes, _ = ximgproc.createEdgeBoxes(maxBoxes=10_000).getBoundingBoxes(thin, orientation)
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _checked_edges(model: str) -> str:
    """The file of OpenCV's edge detector. Raises UserError if OpenCV cannot use it."""
    if not hasattr(cv2, "ximgproc"):
        raise UserError("EdgeBoxes needs OpenCV's extra modules: install opencv-contrib-python-headless instead.")
    if not model:
        raise UserError("EdgeBoxes needs OpenCV's model of structured edges: pass --edges model.yml.gz.")
    if not Path(model).is_file():
        raise UserError(f"Structured-edge model not found: {model}; pass OpenCV's model.yml.gz with --edges.")
    try:
        vars(cv2)["ximgproc"].createStructuredEdgeDetection(model)
    except cv2.error as error:
        raise UserError(f"{model} is not a structured-edge model: pass OpenCV's model.yml.gz.") from error
    return model


def _run(job: tuple[Callable[[np.ndarray], np.ndarray], str, int]) -> tuple[np.ndarray, float]:
    find, file, most = job
    image = read_image(file)
    started = perf_counter()
    boxes = find(image)[:most].astype(np.float32)
    return boxes.clip(0, np.tile(image.shape[1::-1], 2)), perf_counter() - started
