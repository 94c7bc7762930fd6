"""The nouns that pass between the parts: named tuples of tensors.

Shapes: N images in a batch, G ground-truth boxes of an image, D detections of an image.
Boxes are float32 ``x1, y1, x2, y2`` in pixels (see CONVENTIONS.md); labels are 0-based foreground classes.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Target(NamedTuple):
    """What the annotations say of one image."""

    boxes: Tensor
    """(G, 4) float32, pixels of the image they belong to"""
    labels: Tensor
    """(G,) int64 in [0, C)"""
    difficult: Tensor
    """(G,) bool: not trained on by default, never counted for or against in evaluation"""


class Detections(NamedTuple):
    """What the network says of one image, best score first."""

    boxes: Tensor
    """(D, 4) float32, pixels of the image they belong to"""
    scores: Tensor
    """(D,) float32 in [0, 1]"""
    labels: Tensor
    """(D,) int64 in [0, C)"""


class Batch(NamedTuple):
    """N images, padded at the right and at the bottom to a common size."""

    images: Tensor
    """(N, 3, H, W) uint8, RGB"""
    sizes: Tensor
    """(N, 2) int64: height and width of each image without its padding"""
    targets: list[Target]
    """one for each image, in the pixels of `images`"""
    original_sizes: Tensor
    """(N, 2) int64: height and width of each image as it was read"""
    names: list[str]
    """the image files, for messages"""
    indices: list[int]
    """position of each image in its data set"""
    proposals: list[Tensor] | None = None
    """(P, 4) for each image, in the pixels of `images`, where they were made before"""


class Losses(NamedTuple):
    """The four terms of the multi-task loss (Faster R-CNN eq. 1, for the RPN and for the head); scalars."""

    rpn_cls: Tensor
    rpn_box: Tensor
    roi_cls: Tensor
    roi_box: Tensor

    @property
    def loss(self) -> Tensor:
        """What is minimised: their sum."""
        return self.rpn_cls + self.rpn_box + self.roi_cls + self.roi_box


class FeatureMaps(NamedTuple):
    """What a backbone makes of N images: one map a level, and at several image scales one after the other."""

    maps: list[Tensor]
    """(N, channels, h, w) each"""
    strides: list[float]
    """pixels of the images, as they were given, from cell to cell of each map"""


class Crop(NamedTuple):
    """Which part of each padded image to take (He et al. 2015, §4.2)."""

    offsets: Tensor
    """(N, 2) int64: first row and column in the padded image"""
    flips: Tensor
    """(N,) bool: whether it is mirrored"""
    padding: int
    """pixels of zeros at each side"""


class ClsBatch(NamedTuple):
    """N images of one size, to be classified."""

    images: Tensor
    """(N, 3, H, W) uint8, RGB"""
    labels: Tensor
    """(N,) int64"""
    names: list[str]
    """the image files, for messages"""
    indices: list[int]
    """position of each image in its data set"""
    crop: Crop | None = None
    """what the network takes of each image; nothing stands for all of it"""


class ClsLosses(NamedTuple):
    """The loss of a classifier, and a figure to watch; scalars."""

    cross_entropy: Tensor
    error: Tensor
    """share of the images whose class is not the most probable one"""

    @property
    def loss(self) -> Tensor:
        """What is minimised."""
        return self.cross_entropy
