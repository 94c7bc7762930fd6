"""What stands around conv1, rearranged to run fast: pixels on their scale, and the max pooling."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from resdet import ops
from resdet.engine.runtime import Runtime
from resdet.inference.int8 import Observed
from resdet.inference.quantized import Grid, Quantized
from resdet.models.layers.pixel_norm import PixelNorm


def fast_pixel_norm(norm: PixelNorm, runtime: Runtime, multiple: int) -> nn.Module:
    """What runs in the place of `norm`.

    Args:
        norm: the trained network's
        runtime: number type, of a CPU
        multiple: padding makes heights and widths multiples of this
    """
    make = partial(FastPixelNorm, norm, runtime, multiple)
    return Observed(make, lambda came_in, went_out: make(whole=True)) if runtime.int8 else make()


class FastPixelNorm(nn.Module):
    """`PixelNorm`, and padding, by a table of what the 256 values of each channel become.

    Args:
        norm: the trained network's
        runtime: number type, of a CPU
        multiple: padding makes heights and widths multiples of this
        whole: give whole numbers, over all that a pixel may become
    """

    def __init__(self, norm: PixelNorm, runtime: Runtime, multiple: int, whole: bool = False) -> None:
        super().__init__()
        self.bgr, self.multiple = norm.bgr, multiple
        table = ((torch.arange(256.0) - norm.mean[:, 0].cpu()) / norm.std[:, 0].cpu()).contiguous()  # (3, 256)
        self.grid = Grid.over(table.abs().max().item(), signed=True) if whole else None
        dtype = torch.bfloat16 if runtime.dtype == torch.bfloat16 else torch.float32
        self.table = ops.quantize(table, *self.grid) if self.grid else table.to(dtype)

    def forward(self, images: Tensor, sizes: Tensor) -> Any:
        """As `PixelNorm`: (N, 3, H, W) uint8 RGB, (N, 2) → (N, 3, H', W')"""
        height, width = (-(-side // self.multiple) * self.multiple for side in images.shape[2:])
        found = ops.look_up(images.flip(1) if self.bgr else images, self.table, sizes, height, width)
        return Quantized(found, self.grid) if self.grid else found


class FastMaxPool(nn.Module):
    """The max pooling of a ResNet, which need not know where the largest numbers were."""

    def forward(self, x: Tensor | Quantized) -> Any:
        """(N, C, H, W) → (N, C, ⌈H/2⌉, ⌈W/2⌉)"""
        return Quantized(ops.max_pool(x.values), x.grid) if isinstance(x, Quantized) else ops.max_pool(x)
