"""Images per second of train_cls on CIFAR-sized images, against a plain torch and torchvision loop.

    python benchmarks/cifar_training.py
    python benchmarks/cifar_training.py --steps 50 --rounds 8 --compile
    python benchmarks/cifar_training.py --images 1000 --batch-size 16 --steps 5 --rounds 2

Both train ResNet-20 at batch 128 on the same random images, data included. The plain loop is what a tutorial
writes: a DataLoader with two workers and torchvision's transforms, float32. train_cls runs its own batches and
step, and bfloat16 where the processor is faster in it. The two take turns of some steps each; the medians of the
turns and of their ratios are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from resdet.config import cifar10
from resdet.data.build_cls import cls_training_batches
from resdet.data.cifar import CLASSES, ImageArray
from resdet.engine import runtime as runtimes
from resdet.engine.loop import train_step
from resdet.engine.state import TrainState
from resdet.experiments.classification import to_device
from resdet.models.classifier import build_classifier, classification_loss
from resdet.seeds import Purpose, seed_everything
from resdet.types import ClsBatch, ClsLosses


class PlainBlock(nn.Module):
    """A tutorial's residual unit with shortcut A."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.new:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new // 2))
        return F.relu(x + y)


def plain_resnet20() -> nn.Module:
    """A tutorial's ResNet-20."""
    widths = [(16, 16, 1), (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2)]
    widths += [(64, 64, 1), (64, 64, 1)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*stem, *(PlainBlock(*width) for width in widths), *head)


class PillowDataset(Dataset):
    """Images as torchvision's CIFAR10 serves them."""

    def __init__(self, array: ImageArray) -> None:
        self.array = array
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
            ]
        )

    def __len__(self) -> int:
        return len(self.array.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.array.images[index])), int(self.array.labels[index])


def plain_steps(array: ImageArray, batch_size: int, device: torch.device) -> Iterator[None]:
    """One training step of the plain loop for each `next`."""
    model = plain_resnet20().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(PillowDataset(array), batch_size, shuffle=True, num_workers=2, drop_last=True)
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            loss.item()  # what a progress line shows
            yield


def our_steps(array: ImageArray, batch_size: int, runtime: runtimes.Runtime, compiled: bool) -> Iterator[None]:
    """One training step of train_cls for each `next`."""
    config = cifar10(20, solver={"batch_size": batch_size})
    mean = torch.from_numpy(array.images.mean(0).transpose(2, 0, 1)).float()
    model = build_classifier(config.model, 10, mean, torch.full((3, 1, 1), 60.0))
    if compiled:
        model.network.compile()
    state = TrainState(model, config.solver, runtime)
    model.train()

    def losses(network: nn.Module, batch: ClsBatch) -> ClsLosses:
        images, labels, crop = to_device(batch, runtime.device)
        return classification_loss(network(images, crop), labels)

    for step, batch in enumerate(cls_training_batches(array, config, runtime, 0)):
        seed_everything(0, Purpose.STEP, step, 0)
        train_step(model, [batch], losses, state.optimizer, state.scaler, runtime, clip_norm=0.0)
        yield


def main() -> None:
    """Take turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="steps in a turn")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each")
    parser.add_argument("--images", type=int, default=50_000, help="to draw batches from")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--compile", action="store_true", help="train_cls by torch.compile too (solver.compile)")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    count, batch_size = options.images, options.batch_size
    images = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    array = ImageArray(images, generator.integers(0, 10, count), CLASSES["cifar10"], [""] * count, [])
    runtime = runtimes.start("auto", "auto")
    runners = {
        "train_cls": our_steps(array, batch_size, runtime, options.compile),
        "plain loop": plain_steps(array, batch_size, runtime.device),
    }
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        for _ in range(5):
            next(runner)
    for turn in range(options.rounds):
        for name, runner in runners.items():
            started = time.perf_counter()
            for _ in range(options.steps):
                next(runner)
            speeds[name].append(batch_size * options.steps / (time.perf_counter() - started))
        print(
            f"turn {turn + 1}: " + ", ".join(f"{name} {values[-1]:.0f} images/s" for name, values in speeds.items())
        )
    for name, values in speeds.items():
        print(f"{name}: {statistics.median(values):.0f} images/s (median)")
    ratio = statistics.median(a / b for a, b in zip(*speeds.values(), strict=True))
    print(f"train_cls / plain loop: {ratio:.2f} (median of the turns), on {runtime.device}, {runtime.dtype}")


if __name__ == "__main__":
    main()
