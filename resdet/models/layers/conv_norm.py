"""A convolution with what follows it."""

from __future__ import annotations

from torch import Tensor, nn

from resdet.models.layers.conv import Conv2d
from resdet.models.layers.norm import Norm


class ConvNorm(nn.Module):
    """A convolution and its normalisation; without one, the convolution has a bias.

    Args:
        inputs, outputs: channels
        kernel: cells along each side
        stride: of the convolution
        norm: makes the normalisation
        relu: rectify
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, norm: Norm | None, relu: bool = False
    ) -> None:
        super().__init__()
        self.conv = Conv2d(inputs, outputs, kernel, stride, bias=norm is None)
        self.norm = norm(outputs) if norm else None
        self.relu = relu

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """(N, inputs, H, W), and what is added before the ReLU → (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉)"""
        y = self.conv(x)
        if self.norm is not None:
            return self.norm(y, added=added, relu=self.relu)
        y = y if added is None else y.add_(added)
        return y.relu_() if self.relu else y
