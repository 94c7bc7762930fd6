"""The settings of a classifier.

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
    """Format of the data set: image files SPLIT/CLASS/IMAGE, or CIFAR, whose small images are kept in memory."""
    root: str = "datasets/imagenet"
    """Folder of the data set; for CIFAR, a tar archive works too."""
    train: str = "train"
    """Training split; for CIFAR always train."""
    val: str = "val"
    """Validation split; for CIFAR always test."""
    held_out: Step = 0
    """Number of training images, drawn at random, to validate on instead of `val` (He et al. 2015, §4.2: 5,000 of
    50,000)."""
    size: SmallPixels = 224
    """Side of the network's input in pixels; smaller CIFAR images are enlarged to it."""
    short_sides: tuple[SmallPixels, SmallPixels] = (256, 480)
    """Range from which a training image's shorter side in pixels is drawn before a random crop of `size`; not used
    for CIFAR."""
    test_short_side: SmallPixels = 256
    """Shorter side of images in evaluation, in pixels, before a center crop of `size`; not used for CIFAR."""
    padding: Annotated[int, Range(0, 512)] = 4
    """Zero padding on each side of a CIFAR image in pixels, from which a random crop is taken (§4.2)."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    color: Literal["none", "pca", "jitter"] = "pca"
    """Color augmentation: along ImageNet's principal components (AlexNet), or jitter of brightness, contrast,
    saturation and hue; not used for CIFAR."""
    operations: Annotated[int, Range(0, 100)] = 0
    """Number of random distortions per image, as in RandAugment; not used for CIFAR."""
    workers: Workers = 8
    """Number of data loading processes per training process; CIFAR needs none."""
    source: str = "see datasets/README.md"
    """Where the data set can be downloaded, shown if it is missing."""


@dataclass(frozen=True)
class ClsModelConfig:
    """The network."""

    family: Literal["imagenet", "cifar"] = "imagenet"
    """Network family: stride 32 for large images (He et al. 2015, Table 1), or stride 4 for images of 32 pixels
    (§4.2)."""
    depth: Annotated[int, Range(8, 10_000)] = 50
    """Number of layers: 18, 34, 50, 101, 152 or 200; for CIFAR 6n + 2, with bottlenecks 9n + 2."""
    bottleneck: bool = False
    """Whether the units of a CIFAR network have three convolutions; in an ImageNet network the depth decides."""
    norm: Literal["sync_batch", "group"] = "sync_batch"
    """Normalization layers: batch norm synchronized over all processes, or group norm."""
    shortcut: Literal["A", "B", "C", "none"] = "B"
    """Shortcuts where shapes change: zero padding (A) or projection (B); projection everywhere (C); none for a
    plain network."""
    joining: Literal["add", "scale", "exclusive_gate", "shortcut_gate", "dropout"] = "add"
    """How shortcut and residual are combined (He et al. 2016, §3)."""
    order: Literal["original", "norm_after", "relu_before", "relu_preactivation", "full_preactivation"] = "original"
    """Order of convolution, normalization and ReLU (He et al. 2016, §4)."""
    style: Literal["torchvision", "msra"] = "torchvision"
    """Convention of the weights, which determines channel order, pixel mean and the position of the stride."""
    pixel_mean: Literal["style", "channel", "pixel"] = "style"
    """Mean that is subtracted from the image: that of `style`, or that of the training images per channel or per
    pixel (§3.4). A detector can start only from classifiers with "style"."""


@dataclass(frozen=True)
class ClsLossConfig:
    """What is minimised: the cross-entropy."""

    label_smoothing: Fraction = 0.0
    """Fraction of the target distribution that is spread uniformly over all classes."""
    mixup: Annotated[float, Range(0.001, 100, or_zero=True)] = 0.0
    """Parameter α of mixup's Beta distribution; 0 turns mixup off."""


@dataclass(frozen=True)
class ClsTestConfig:
    """How images are evaluated (§3.4)."""

    views: Literal["1-crop", "10-crop", "dense"] = "1-crop"
    """Views of an image that are averaged: the center crop; center and corner crops with their mirror images; or
    the whole image, fully convolutionally (dense)."""
    scales: NonEmpty[SmallPixels] = (224, 256, 384, 480, 640)
    """Shorter sides in pixels over which dense evaluation averages (He et al. 2015, Table 4)."""
    batch_size: BatchSize = 100
    """Number of images in an evaluation batch of each process; dense evaluation takes one."""
    metric: Literal["top1", "top5"] = "top1"
    """Metric that selects the best checkpoint."""
    recalibrate: Step = 0
    """Number of training images over which the batch norm statistics of the best model are averaged after training,
    replacing the moving averages (He et al. 2015, appendix A); 0 keeps the moving averages."""


@dataclass(frozen=True)
class ClsConfig:
    """A training run of a classifier."""

    name: str = ""
    """Name of the run folder; defaults to the recipe's file name."""
    runs: str = "runs"
    """Folder that contains the run folders."""
    init_weights: str = ""
    """Weights to start training from: a run folder or a weights file of the same network, whose last layer is
    replaced if the classes differ; if empty, training starts from scratch."""
    seed: Seed = 0
    """Random seed; all randomness follows from it and the step."""
    device: str = "auto"
    """Device to run on: auto, cpu, cuda or cuda:N."""
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
