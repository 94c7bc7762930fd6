"""Images per second of the data path of ImageNet training, against decoding the JPEG files and nothing else.

    python benchmarks/image_folder.py --workers 1
    python benchmarks/image_folder.py --workers 8 --count 4000
    python benchmarks/image_folder.py --count 64 --batch-size 8 --rounds 1

Draws JPEG files of ImageNet's usual size (500×375) into a temporary folder. Both ways run in as many processes as
there are workers: bare decoding with OpenCV, and train_cls's data path (read, check, decode, crop of a random
scale, resize, flip, colours, batches of 64). They take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from resdet.config import ClsDataConfig
from resdet.data.image_folder import FolderDataset, read_image_folder
from resdet.data.loader import TrainSampler, train_batches
from resdet.data.transforms import ClsTrainTransform


def draw(root: Path, count: int) -> None:
    """`count` JPEG files in two classes, with the detail of a photograph."""
    generator = np.random.default_rng(0)
    for number in range(count):
        image = np.zeros((375, 500, 3), np.float32)
        for scale in (4, 8, 16, 32, 64, 128):
            noise = generator.normal(0, 9, (375 // scale + 2, 500 // scale + 2, 3)).astype(np.float32)
            image += cv2.resize(noise, (500, 375), interpolation=cv2.INTER_CUBIC) * scale**0.4
        path = root / "train" / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.clip(image + 128, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])


def decode(paths: list[Path]) -> int:
    """Decode files and nothing else."""
    cv2.setNumThreads(0)
    for path in paths:
        cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    return len(paths)


def decoding_speed(paths: list[Path], workers: int) -> float:
    """Images per second of bare decoding; the start of the processes does not count."""
    shares = [paths[i::workers] for i in range(workers)]
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(decode, [share[:2] for share in shares]))
        started = time.perf_counter()
        list(pool.map(decode, shares))
        return len(paths) / (time.perf_counter() - started)


def data_path_speed(root: Path, count: int, batch_size: int, workers: int) -> float:
    """Images per second of train_cls's batches, without the first ones, which wait for the workers' start."""
    data = ClsDataConfig()
    transform = ClsTrainTransform(data.size, data.short_sides, data.flip, data.color, data.operations)
    dataset = FolderDataset(read_image_folder(root, "train", (), source=""), transform, unreadable="replace")
    skipped = 2 * workers + 1
    steps = count // batch_size + skipped
    sampler = TrainSampler(
        np.zeros(count, bool), batch_size=batch_size, seed=0, start=0, steps=steps, rank=0, world=1, accumulate=1
    )
    batches = train_batches(dataset, sampler, workers, pin=False)
    for _ in range(skipped):
        next(batches)
    started = time.perf_counter()
    read = sum(len(batch.labels) for batch in batches)
    # What the workers had finished by then came for nothing: at most their queue of two batches each.
    return read / (time.perf_counter() - started)


def main() -> None:
    """Take turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--count", type=int, default=3000, help="files")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw(root, options.count)
        paths = sorted(root.rglob("*.jpg"))
        mean = statistics.mean(path.stat().st_size for path in paths)
        print(f"{len(paths)} files of {mean / 1024:.0f} KiB, {options.workers} workers")
        bare, whole = [], []
        for turn in range(options.rounds):
            bare.append(decoding_speed(paths, options.workers))
            whole.append(data_path_speed(root, options.count, options.batch_size, options.workers))
            print(f"turn {turn + 1}: decoding {bare[-1]:.0f} images/s, data path {whole[-1]:.0f} images/s")
    print(f"decoding: {statistics.median(bare):.0f} images/s (median)")
    print(f"data path: {statistics.median(whole):.0f} images/s (median)")
    ratio = statistics.median(b / a for a, b in zip(bare, whole, strict=True))
    print(f"data path / decoding: {ratio:.2f} (median of the turns)")


if __name__ == "__main__":
    main()
