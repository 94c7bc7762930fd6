"""The settings of a classifier's training.

The defaults are ResNet-50 on ImageNet (He et al. 2015, §3.4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from resdet.config.ranges import BatchSize, Fraction, NonEmpty, Range, Seed, SmallPixels, Step, Workers
from resdet.config.solver import SolverConfig


@dataclass(frozen=True)
class ClsDataConfig:
    """Which images, and how they reach the network."""

    format: Literal["folder", "cifar10", "cifar100"] = "folder"
    """files SPLIT/CLASS/IMAGE, or CIFAR's small images, kept in memory"""
    root: str = "datasets/imagenet"
    """folder of the data set; of CIFAR also a tar archive"""
    train: str = "train"
    """training split; of CIFAR always train"""
    val: str = "val"
    """validation split; of CIFAR always test"""
    held_out: Step = 0
    """so many training images, drawn at random, validate in the place of `val` (§4.2: 5,000 of 50,000)"""
    size: SmallPixels = 224
    """pixels; side of what enters the network. CIFAR's images are enlarged to it if they are smaller"""
    short_sides: tuple[SmallPixels, SmallPixels] = (256, 480)
    """pixels; an image's shorter side in training is drawn from this range, then a crop of `size`; not of CIFAR"""
    test_short_side: SmallPixels = 256
    """pixels; an image's shorter side in evaluation, then the centre of `size`; not of CIFAR"""
    padding: Annotated[int, Range(0, 512)] = 4
    """pixels of zeros at each side of a CIFAR image, out of which a random crop is taken (§4.2)"""
    flip: Fraction = 0.5
    """probability of a horizontal flip"""
    color: Literal["none", "pca", "jitter"] = "pca"
    """change of colours: along ImageNet's principal components (AlexNet), or brightness, contrast, saturation and
    hue; not of CIFAR"""
    operations: Annotated[int, Range(0, 100)] = 0
    """random distortions of each image, as in RandAugment; not of CIFAR"""
    workers: Workers = 8
    """processes that read images, for each training process; CIFAR needs none"""
    source: str = "see datasets/README.md"
    """where the data set comes from, shown when it is missing"""


@dataclass(frozen=True)
class ClsModelConfig:
    """The network."""

    family: Literal["imagenet", "cifar"] = "imagenet"
    """a stride of 32 on large images (Table 1), or of 4 on images of 32 pixels (§4.2)"""
    depth: Annotated[int, Range(8, 10_000)] = 50
    """layers: 18, 34, 50, 101, 152 or 200; of CIFAR 6n + 2, with bottlenecks 9n + 2"""
    bottleneck: bool = False
    """units of three convolutions in a CIFAR network; in an ImageNet network the depth decides"""
    norm: Literal["sync_batch", "group"] = "sync_batch"
    """batch normalisation over all processes, or group normalisation"""
    shortcut: Literal["A", "B", "C", "none"] = "B"
    """where shapes change: zero padding (A) or projection (B); projection everywhere (C); none: a plain network"""
    joining: Literal["add", "scale", "exclusive_gate", "shortcut_gate", "dropout"] = "add"
    """of shortcut and residual (He et al. 2016, §3)"""
    order: Literal["original", "norm_after", "relu_before", "relu_preactivation", "full_preactivation"] = "original"
    """of convolution, normalisation and ReLU (He et al. 2016, §4)"""
    style: Literal["torchvision", "msra"] = "torchvision"
    """family that the weights belong to: fixes channel order, pixel mean and the place of the stride"""
    pixels: Literal["style", "channel", "pixel"] = "style"
    """what is subtracted: the style's mean, or that of the training images by channel or by pixel (§3.4). A
    detector can take over the weights of "style" only"""


@dataclass(frozen=True)
class ClsLossConfig:
    """What is minimised: the cross-entropy."""

    label_smoothing: Fraction = 0.0
    """share of the target that is spread over all classes"""
    mixup: Annotated[float, Range(0.001, 100, or_zero=True)] = 0.0
    """α of the Beta distribution that pairs of images are mixed with; 0 mixes none"""


@dataclass(frozen=True)
class ClsTestConfig:
    """How images are evaluated (§3.4)."""

    views: Literal["1-crop", "10-crop", "dense"] = "1-crop"
    """the centre; centre, corners and their mirror images; or the whole image, fully convolutional"""
    scales: NonEmpty[SmallPixels] = (224, 256, 384, 480, 640)
    """pixels; shorter sides whose scores are averaged in dense evaluation (Table 4)"""
    batch_size: BatchSize = 100
    """images at a time in each process; dense evaluation takes one"""
    metric: Literal["top1", "top5"] = "top1"
    """the accuracy that picks the best checkpoint"""
    recalibrate: Step = 0
    """training images over which the best model's batch-norm statistics are averaged at the end of the training, in
    place of moving averages (appendix A); 0 leaves them"""


@dataclass(frozen=True)
class ClsConfig:
    """One training of a classifier."""

    name: str = ""
    """of the run folder; the recipe's file name if empty"""
    runs: str = "runs"
    """folder of the run folders"""
    weights: str = ""
    """start from: a run folder or a weights file of the same network, other classes get a new last layer; empty
    starts from scratch"""
    seed: Seed = 0
    """all randomness follows from this and the step"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    data: ClsDataConfig = field(default_factory=ClsDataConfig)
    model: ClsModelConfig = field(default_factory=ClsModelConfig)
    loss: ClsLossConfig = field(default_factory=ClsLossConfig)
    solver: SolverConfig = field(
        default_factory=lambda: SolverConfig(
            lr=0.1,
            steps=600_000,
            schedule="plateau",
            batch_size=256,
            weight_decay=1e-4,
            decay_all=True,
            save_every=5_000,
            log_every=100,
        )
    )
    test: ClsTestConfig = field(default_factory=ClsTestConfig)
