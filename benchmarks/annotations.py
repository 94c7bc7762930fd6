"""Seconds to read annotations of COCO train2017's size, and the memory of data workers over two epochs.

    python benchmarks/annotations.py
    python benchmarks/annotations.py --images 20000 --workers 2
    python benchmarks/annotations.py --images 20 --boxes 700 --workers 1

Everything is generated: the JSON file (118,000 images, 860,000 boxes with polygons), links to one image, and for
the workers a million boxes, seven to an image; a worker returns an empty picture instead of reading one. The memory
is what the workers have to themselves: private, shared neither with the main process nor with one another.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from resdet.data import detection
from resdet.data.annotations import Annotations
from resdet.data.coco import read_coco
from resdet.data.detection import DetectionDataset
from resdet.data.loader import TrainSampler, train_batches
from resdet.data.transforms import TestTransform

CLASSES = 80
BOXES_AN_IMAGE = 7.3  # COCO train2017


def write_set(root: Path, images: int) -> None:
    """A data set in COCO's format of links to one image, with segmentations as in the real one."""
    random = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    count = int(images * BOXES_AN_IMAGE)
    corners = random.uniform(0, 300, (count, 2)).round(2)
    sides = random.uniform(5, 150, (count, 2)).round(2)
    boxes = np.hstack([corners, sides]).tolist()
    polygons = random.uniform(0, 480, (1000, 40)).round(2).tolist()
    owners, labels = random.integers(images, size=count).tolist(), random.integers(1, CLASSES + 1, count).tolist()
    content = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640, "license": 1}
            for i in range(images)
        ],
        "annotations": [
            {"id": n, "image_id": owner, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            | {"segmentation": [polygons[n % 1000]]}
            for n, (owner, label, box) in enumerate(zip(owners, labels, boxes, strict=True))
        ],
        "categories": [{"id": label, "name": f"class {label}"} for label in range(1, CLASSES + 1)],
    }
    (root / "annotations/instances_train2017.json").write_text(json.dumps(content))
    (root / "black.png").write_bytes(cv2.imencode(".png", np.zeros((480, 640), np.uint8))[1].tobytes())
    for i in range(images):
        (root / f"train2017/{i:012d}.jpg").symlink_to(root / "black.png")


def million(boxes: int) -> Annotations:
    """As many boxes, seven to an image."""
    random = np.random.default_rng(0)
    images = boxes // 7
    corners = random.uniform(0, 300, (images * 7, 2))
    return Annotations(
        classes=tuple(f"class {label}" for label in range(CLASSES)),
        category_ids=np.arange(1, CLASSES + 1),
        ids=np.array([b"%012d" % i for i in range(images)]),
        files=np.array([b"/data/coco/train2017/%012d.jpg" % i for i in range(images)]),
        sizes=np.tile(np.array([480, 640], np.int32), (images, 1)),
        offsets=np.arange(images + 1) * 7,
        boxes=np.hstack([corners, corners + random.uniform(5, 150, corners.shape)]),
        labels=random.integers(0, CLASSES, images * 7),
        difficult=np.zeros(images * 7, bool),
        areas=np.ones(images * 7),
        skipped=(),
    )


def private_mebibytes() -> float:
    """What the children of this process have to themselves, all together."""
    total = 0
    for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        rollup = Path(f"/proc/{pid}/smaps_rollup")
        if rollup.exists():
            total += sum(map(int, re.findall(r"Private_\w+:\s+(\d+)", rollup.read_text())))
    return total / 1024


def measure_workers(boxes: int, workers: int) -> None:
    """Print the workers' memory over two epochs."""
    annotations = million(boxes)
    small = np.zeros((480, 640, 3), np.uint8)
    detection.read_image = lambda path: small
    dataset = DetectionDataset(annotations, TestTransform(32, 48), difficult=False, unreadable="refuse")
    epoch = len(annotations) // 16
    sampler = TrainSampler(
        np.zeros(len(annotations), bool),
        batch_size=16,
        seed=0,
        start=0,
        steps=2 * epoch,
        rank=0,
        world=1,
        accumulate=1,
    )
    print(f"{workers} workers, {len(annotations.boxes)} boxes in {len(annotations)} images:")
    for step, _ in enumerate(train_batches(dataset, sampler, workers, pin=False)):
        if step % (epoch // 2) == epoch // 20:
            print(
                f"  epoch {step / epoch:.2f}: {private_mebibytes() / workers:.1f} MiB private in a worker",
                flush=True,
            )


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), options.images)
        size = (Path(folder) / "annotations/instances_train2017.json").stat().st_size / 2**20
        started = time.perf_counter()
        annotations = read_coco(folder, "train2017")
        seconds = time.perf_counter() - started
    print(f"{len(annotations)} images, {len(annotations.boxes)} boxes, {size:.0f} MiB of JSON: {seconds:.1f} s")
    arrays = [value for value in vars(annotations).values() if isinstance(value, np.ndarray)]
    print(f"the arrays take {sum(array.nbytes for array in arrays) / 2**20:.0f} MiB")
    measure_workers(options.boxes, options.workers)


if __name__ == "__main__":
    main()
