"""The backbones of the detectors before ResNet: VGG-16 and ZF, the faster model of Zeiler and Fergus.

A detector takes the convolutions as its backbone (stride 16: the last pooling is left out) and the two hidden fully
connected layers as its box head, on 7×7 or 6×6 pooled cells (Fast R-CNN §2.2).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from resdet.models.backbones import Backbone

# Channels of the 3×3 convolutions between the poolings (Simonyan and Zisserman 2015, Table 1, column D).
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16Backbone(Backbone):
    """conv1_1–conv5_3."""

    strides, channels = (16,), 512

    def __init__(self) -> None:
        super().__init__()
        inputs = 3
        for stage, widths in enumerate(VGG16, 1):
            for number, width in enumerate(widths, 1):
                self.add_module(f"conv{stage}_{number}", nn.Conv2d(inputs, width, 3, padding=1))
                inputs = width

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised images → (N, 512, ⌊H/16⌋, ⌊W/16⌋), the one level"""
        x = images
        for stage, widths in enumerate(VGG16, 1):
            for number in range(1, len(widths) + 1):
                x = F.relu(getattr(self, f"conv{stage}_{number}")(x), inplace=True)
            if stage < len(VGG16):
                x = F.max_pool2d(x, 2)
        return [x]


class ZFBackbone(Backbone):
    """conv1–conv5, with the local response normalisation of its time (SPPnet, Table 1: ZF-5)."""

    strides, channels = (16,), 256

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, 2, padding=3)
        self.conv2 = nn.Conv2d(96, 256, 5, 2, padding=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1)
        self.norm = nn.LocalResponseNorm(3, alpha=5e-5, beta=0.75, k=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised images → (N, 256, ⌈H/16⌉, ⌈W/16⌉), the one level"""
        x = images
        for conv in (self.conv1, self.conv2):
            x = F.max_pool2d(self.norm(F.relu(conv(x), inplace=True)), 3, 2, padding=1)
        for conv in (self.conv3, self.conv4, self.conv5):
            x = F.relu(conv(x), inplace=True)
        return [x]
