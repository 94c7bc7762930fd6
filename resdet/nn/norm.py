"""Normalisation layers, and freezing by stage name.

A `Norm` is a function from a channel count to a layer. Three exist: ``frozen`` batch normalisation (the papers'
choice for fine-tuning), and ``group`` and ``sync_batch`` for training from scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.errors import UserError

Norm = Callable[[int], nn.Module]


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation as a fixed linear map (He et al. 2015, appendix A).

    Statistics and affine parameters are buffers: no mode, no gradient, no update.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)"""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class _SumOverProcesses(torch.autograd.Function):
    """A tensor summed over the processes; so are the gradients on their way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of the joint batch of all processes.

    torch's own SyncBatchNorm needs a GPU; this one runs wherever torch.distributed does.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)"""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        x32 = x.float()
        count = _SumOverProcesses.apply(x32.new_tensor([x32.numel() / x32.shape[1]]))
        mean = _SumOverProcesses.apply(x32.sum((0, 2, 3))) / count  # (C,)
        centered = x32 - mean[:, None, None]
        var = _SumOverProcesses.apply(centered.square().sum((0, 2, 3))) / count  # (C,)
        self._update_running(mean.detach(), var.detach(), count)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * count / (count - 1), share)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 32 groups (Wu and He 2018)."""
    return nn.GroupNorm(32, channels)


NORMS: dict[str, Norm] = {
    "frozen": FrozenBatchNorm2d,
    "group": group_norm,
    "sync_batch": SyncBatchNorm2d,
}


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[tuple[Any, ...]]) -> None:
    """Replace moving averages by the true averages of the batches' statistics (He et al. 2015, appendix A).

    `batches` are arguments of `network`, which is left in evaluation mode.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in norms]
    network.eval()
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for: average over all batches
        layer.train()
    for arguments in batches:
        network(*arguments)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    network.eval()


def freeze(network: nn.Module, stages: Iterable[str]) -> None:
    """Stop training the named stages of `network` (its attributes, such as ``conv1``, ``conv2_x``).

    Raises UserError for a name that is no stage.
    """
    known = dict(network.named_children())
    for stage in stages:
        if stage not in known:
            raise UserError(f"There is no stage {stage!r} to freeze: the stages are {', '.join(known)}.")
        known[stage].requires_grad_(False)
