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

from resdet import ops
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


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of the joint batch of all processes.

    torch's own SyncBatchNorm needs a GPU; this one runs wherever torch.distributed does.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)"""
        if not (self.training and _several_processes()):
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        y, mean, var, count = _BatchNorm.apply(x, self.weight, self.bias, self.running_mean, self.eps)
        with torch.no_grad():
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = 1 / self.num_batches_tracked if self.momentum is None else torch.tensor(self.momentum)
            self.running_mean += share * (mean - self.running_mean)
            self.running_var += share * (var * (count / (count - 1)) - self.running_var)
        return y


class _BatchNorm(torch.autograd.Function):
    """y = γ (x − mean) / √(var + ε) + β over the batches of all processes (Ioffe and Szegedy 2015).

    The sums over the batch are one operator, so that all else is one pass over the elements each way. They are
    taken around `pivot`, a guess of the mean, for precision.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, pivot: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, C, H, W) and (C,) thrice → y, and mean, biased variance (C,) and count (1,) over all processes"""
        count = _over_processes(gamma.new_tensor([x.numel() // x.shape[1]]))
        shifted, squared = _over_processes(ops.channel_sums(None, x, pivot)) / count  # (C,), (C,)
        mean, var = pivot + shifted, (squared - shifted.square()).clamp(min=0)
        deviation = torch.rsqrt(var + eps)
        ctx.save_for_backward(x, gamma, mean, deviation, count)
        ctx.mark_non_differentiable(mean, var, count)
        scale = gamma * deviation
        y = (x - mean[:, None, None]) * scale[:, None, None] + beta[:, None, None]
        return y.to(x.dtype), mean, var, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, of all processes' losses, and of γ and β, of this process's."""
        x, gamma, mean, deviation, count = ctx.saved_tensors
        sums = ops.channel_sums(gradient.to(x.dtype), x, mean)  # Σ g, Σ g (x − mean) of this process
        beta_gradient, gamma_gradient = sums[0], sums[1] * deviation
        total, product = _over_processes(sums) / count
        scale = gamma * deviation
        slope = -scale * deviation.square() * product  # through the variance
        offset = -scale * total  # through the mean
        centered = x - mean[:, None, None]
        x_gradient = gradient * scale[:, None, None] + centered * slope[:, None, None] + offset[:, None, None]
        return x_gradient.to(x.dtype), gamma_gradient, beta_gradient, None, None


def _several_processes() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def _over_processes(x: Tensor) -> Tensor:
    """The sum over all processes."""
    if _several_processes():
        x = x.clone()
        dist.all_reduce(x)
    return x


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
