"""A residual network as a classifier of images, and its loss.

Shapes: N images, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.config import ClsModelConfig
from resdet.models.backbones.resnet import CifarResNet, ResNet
from resdet.models.layers.norm import NORMS
from resdet.models.layers.pixel_norm import STYLES
from resdet.types import ClsLosses, Crop


class Classifier(nn.Module):
    """Pixels in, logits out.

    Args:
        network: normalised images → (N, K) logits
        mean: of the pixels in [0, 255], (3, 1, 1) by channel or (3, H, W) by pixel
        std: (3, 1, 1)
        bgr: the network wants blue, green, red
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, bgr: bool = False) -> None:
        super().__init__()
        self.network, self.bgr = network, bgr
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor, crop: Crop | None = None) -> Tensor:
        """(N, 3, H, W) uint8 RGB → (N, K) float32 logits"""
        x = self.normalise(images)
        return self.network(x if crop is None else take_crop(x, crop)).float()

    def dense(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 RGB of any size → (N, K) float32 logits, averaged over all places."""
        return self.network.dense(self.normalise(images)).float()  # type: ignore[operator]

    def normalise(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 RGB → what the network was trained on; a mean image is stretched to other sizes."""
        mean = self.mean
        if mean.shape[1:] not in ((1, 1), images.shape[2:]):
            mean = F.interpolate(mean[None], images.shape[2:], mode="bilinear", antialias=True)[0]
        images = images.flip(1) if self.bgr else images
        return ((images - mean) / self.std).contiguous(memory_format=torch.channels_last)


def take_crop(images: Tensor, crop: Crop) -> Tensor:
    """(N, C, H, W) normalised → the same shape: each image padded with zeros, mirrored or not, and cropped.

    The mean was subtracted before, so that zeros are the mean (He et al. 2015, §4.2).
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (crop.padding,) * 4).permute(0, 2, 3, 1)  # (N, H + 2p, W + 2p, C)
    count, padded_height, padded_width, channels = padded.shape
    rows = crop.offsets[:, :1] + torch.arange(height, device=images.device)  # (N, H)
    columns = crop.offsets[:, 1:] + torch.arange(width, device=images.device)  # (N, W)
    columns = torch.where(crop.flips[:, None], columns.flip(1), columns)
    rows = rows + padded_height * torch.arange(count, device=images.device)[:, None]
    pixels = (rows * padded_width)[:, :, None] + columns[:, None]  # (N, H, W)
    taken = padded.reshape(-1, channels).index_select(0, pixels.flatten())
    return taken.view(count, height, width, channels).permute(0, 3, 1, 2)


def classification_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> ClsLosses:
    """Cross-entropy of (N, K) logits with (N,) labels, of whose share `smoothing` is spread over all classes."""
    error = (logits.argmax(1) != labels).float().mean()
    return ClsLosses(F.cross_entropy(logits, labels, label_smoothing=smoothing), error)


def mixed_loss(
    model: nn.Module, images: Tensor, labels: Tensor, alpha: float, smoothing: float = 0.0, crop: Crop | None = None
) -> ClsLosses:
    """mixup (Zhang et al. 2018): each uint8 image blended with another of the batch, the loss with both labels.

    λ ~ Beta(α, α) and the pairing come from torch's generator; the error counts the greater share's label.
    """
    share = torch.distributions.Beta(alpha, alpha).sample()
    partner = torch.randperm(len(images)).to(images.device)
    blended = torch.lerp(images[partner].float(), images.float(), share.item())
    logits = model(blended, crop)
    own, other = (classification_loss(logits, wanted, smoothing) for wanted in (labels, labels[partner]))
    loss = torch.lerp(other.cross_entropy, own.cross_entropy, share.item())
    return ClsLosses(loss, own.error if share >= 0.5 else other.error)


def build_classifier(config: ClsModelConfig, num_classes: int, mean: Tensor, std: Tensor) -> Classifier:
    """The classifier that a config describes, with fresh weights; mean and std as in `Classifier`."""
    style = STYLES[config.style]
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "norm": NORMS[config.norm],
        "order": config.order,
        "shortcut": config.shortcut,
        "joining": config.joining,
        "stride_in_1x1": style.stride_in_1x1,
    }
    if config.family == "imagenet":
        network: nn.Module = ResNet(config.depth, **options)
    else:
        network = CifarResNet(config.depth, bottleneck=config.bottleneck, **options)
    return Classifier(network, mean, std, bgr=style.channels == "bgr")
