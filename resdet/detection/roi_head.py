"""The head: a vector for each region, and from it a class and a box (Fast R-CNN §2.1).

Letters: N images, R regions, C foreground classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RoIHead(nn.Module):
    """A body that turns regions into vectors, and two sibling layers.

    Args:
        body: as in `bodies`
        num_classes: C
        context: each region's vector is joined by that of its whole image (He et al. 2015, appendix B)
    """

    def __init__(self, body: Any, num_classes: int, context: bool = False) -> None:
        super().__init__()
        self.body, self.num_classes, self.context = body, num_classes, context
        channels = body.channels * (2 if context else 1)
        self.classify = nn.Linear(channels, num_classes + 1)
        self.regress = nn.Linear(channels, num_classes * 4)
        nn.init.normal_(self.classify.weight, std=0.01)  # Fast R-CNN §2.3
        nn.init.normal_(self.regress.weight, std=0.001)
        nn.init.zeros_(self.classify.bias)
        nn.init.zeros_(self.regress.bias)

    def forward(self, features: Any, rois: Tensor, image_index: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (R, C + 1), background last, and box deltas (R, C, 4).

        Args:
            features: (N, channels, h, w), or what else the body takes
            rois: (R, 4) pixels
            image_index: (R,) the image of each region
            sizes: (N, 2) heights and widths of the images
        """
        if self.context:
            whole = torch.arange(len(sizes), device=image_index.device)
            vectors = self.body(
                features, torch.cat([rois, whole_images(sizes).to(rois)]), torch.cat([image_index, whole])
            )
            own, of_images = vectors.split([len(rois), len(sizes)])
            vectors = torch.cat([own, of_images[image_index]], 1)
        else:
            vectors = self.body(features, rois, image_index)
        deltas = self.regress(vectors).float()
        return self.classify(vectors).float(), deltas.reshape(len(rois), self.num_classes, 4)


def whole_images(sizes: Tensor) -> Tensor:
    """(N, 2) heights and widths → (N, 4): each image as one region."""
    return torch.cat([torch.zeros_like(sizes), sizes.flip(1)], 1)
