"""Normalisation layers, and freezing by stage name.

A `Norm` is a function from a channel count to a layer: ``frozen`` batch normalisation (the papers' choice for
fine-tuning), and ``group``, ``batch`` and ``sync_batch`` for training from scratch. A layer also adds the shortcut
and rectifies where a unit asks for it, ReLU(norm(x) + added): on a CPU that is one pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resdet import ops
from resdet.errors import UserError

Norm = Callable[[int], nn.Module]
FAR = 100.0  # (mean − pivot)² over the variance beyond which float32 sums lose the variance's fifth digit


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

    def forward(self, x: Tensor, added: Tensor | None = None, relu: bool = False) -> Tensor:
        """(N, C, H, W), and the shortcut of the same shape → (N, C, H, W)"""
        return _frozen(self, x, added, relu)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of each process's own batch."""

    synchronized = False

    def train(self, mode: bool = True) -> BatchNorm2d:
        """Training, if its parameters are trained: in a frozen stage the statistics stay what they are."""
        return super().train(mode and self.weight.requires_grad)

    def forward(self, x: Tensor, added: Tensor | None = None, relu: bool = False) -> Tensor:
        """(N, C, H, W), and the shortcut of the same shape → (N, C, H, W)"""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        if not self.training and not torch.is_grad_enabled():
            return _frozen(self, x, added, relu)
        if self.training and self.synchronized and _several_processes():
            y, mean, var, count = _JointBatchNorm.apply(
                x, added, self.weight, self.bias, self.running_mean, self.eps, relu
            )
            self._update(mean, var, count.item())
            return y
        values, usual = x.numel() // x.shape[1], self.running_mean.dtype == ops.sums_type(x)
        if not (self.training and _fuses(x, added) and usual and values != 1):
            return _finish(super().forward(x), added, relu)
        self.num_batches_tracked.add_(values > 1)
        running = self.running_mean, self.running_var, self._share
        return _BatchNorm.apply(x, added, self.weight, self.bias, *running, self.eps, relu)

    @property
    def _share(self) -> float:
        """How far a batch moves the running statistics; without a momentum, to the average over all batches."""
        assert self.num_batches_tracked is not None
        return 1 / max(self.num_batches_tracked.item(), 1) if self.momentum is None else self.momentum

    @torch.no_grad()
    def _update(self, mean: Tensor, var: Tensor, count: float) -> None:
        """Move the running statistics towards a batch's; one or no value of a channel has no variance."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        if count <= 1:
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self._share)
        self.running_var.lerp_(var * (count / (count - 1)), self._share)


class SyncBatchNorm2d(BatchNorm2d):
    """Batch normalisation whose statistics are those of the joint batch of all processes.

    torch's own SyncBatchNorm needs a GPU; this one runs wherever torch.distributed does.
    """

    synchronized = True


class GroupNorm(nn.GroupNorm):
    """Group normalisation with 32 groups (Wu and He 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor, added: Tensor | None = None, relu: bool = False) -> Tensor:
        """(N, C, H, W), and the shortcut of the same shape → (N, C, H, W)"""
        return _finish(super().forward(x), added, relu)


def _frozen(norm: Any, x: Tensor, added: Tensor | None, relu: bool) -> Tensor:
    """What a batch normalisation whose statistics stay makes of x."""
    if _fuses(x, added):
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return _Affine.apply(x, added, scale, norm.bias - norm.running_mean * scale, relu)
    y = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return _finish(y, added, relu)


def _finish(x: Tensor, added: Tensor | None, relu: bool) -> Tensor:
    x = x if added is None else x + added
    return F.relu(x, inplace=True) if relu else x


def _fuses(x: Tensor, added: Tensor | None) -> bool:
    """Whether a kernel of our own does all at once; torch.compile makes its own."""
    alike = added is None or added.dtype == x.dtype
    return ops.has_native_kernel(x) and alike and not torch.compiler.is_compiling()


class _Affine(torch.autograd.Function):
    """y = ReLU(x · scale + shift + added), scale and shift being constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, scale: Tensor, shift: Tensor, relu: bool) -> Tensor:
        """(N, C, H, W) twice and (C,) twice → (N, C, H, W)"""
        y = ops.affine(x, added, scale, shift, relu)
        ctx.save_for_backward(scale, *[y] * relu)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of what was added."""
        scale, *rectified = ctx.saved_tensors
        with_added = ctx.needs_input_grad[1]
        output = rectified[0] if rectified else None
        for_x, for_added = ops.affine_gradient(gradient, output, None, scale, with_added=with_added)
        return for_x, for_added if with_added else None, None, None, None


class _BatchNorm(torch.autograd.Function):
    """y = ReLU(γ (x − mean) / √(var + ε) + β + added) (Ioffe and Szegedy 2015), in one process."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        share: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        """As `ops.batch_norm`."""
        y, statistics = ops.batch_norm(x, added, gamma, beta, running_mean, running_var, share, eps, FAR, relu)
        ctx.relu, ctx.joined = relu, added is not None
        ctx.save_for_backward(x, statistics, *[y] * (relu and ctx.joined))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, of what was added, of γ and of β."""
        x, statistics, *rectified = ctx.saved_tensors
        output, with_added = rectified[0] if rectified else None, ctx.needs_input_grad[1]
        for_x, for_added, (for_gamma, for_beta) = ops.batch_norm_gradient(
            gradient.to(x.dtype), output, x, statistics, ctx.relu, with_added
        )
        return for_x, for_added if with_added else None, for_gamma, for_beta, *[None] * 5


class _JointBatchNorm(torch.autograd.Function):
    """The same with the statistics of all processes' batches."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        pivot: Tensor,
        eps: float,
        relu: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, C, H, W) twice and (C,) thrice → y, and mean, biased variance (C,) and count () of the statistics"""
        count = _total(gamma.new_tensor(x.numel() // x.shape[1]))
        mean, var = _statistics(x, pivot, count)
        deviation = torch.rsqrt(var + eps)
        scale = gamma * deviation
        y = ops.affine(x, added, scale, beta - mean * scale, relu)
        ctx.save_for_backward(x, count, mean, deviation, scale, *[y] * relu)
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of what was added, of all processes' losses, and of γ and β, of this process's."""
        x, count, mean, deviation, scale, *rectified = ctx.saved_tensors
        gradient, output = gradient.to(x.dtype), rectified[0] if rectified else None
        sums = ops.channel_sums(gradient, output, x, mean)  # Σ g, Σ g (x − mean) of this process
        total, product = _total(sums) / count.clamp(min=1)
        slope = -scale * deviation.square() * product  # through the variance
        offset = -scale * total - slope * mean  # through the mean
        with_added = ctx.needs_input_grad[1]
        for_x, for_added = ops.affine_gradient(gradient, output, x, scale, slope, offset, with_added)
        return for_x, for_added if with_added else None, sums[1] * deviation, sums[0], None, None, None


def _statistics(x: Tensor, pivot: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of the `count` values of each channel, over all processes.

    The sums are taken around `pivot`, a guess of the mean. Where it is so far off that the variance would be a
    small difference of large numbers, they are taken again around the mean just found.
    """
    for _ in range(2):
        sums = _total(ops.channel_sums(None, None, x, pivot))
        shifted, squared = sums / count.clamp(min=1)  # (C,), (C,)
        mean, var = pivot + shifted, (squared - shifted.square()).clamp(min=0)
        if not (shifted.square() > FAR * var).any():
            break
        pivot = mean
    return mean, var


def _several_processes() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def _total(x: Tensor) -> Tensor:
    """The sum over all processes."""
    x = x.clone()
    dist.all_reduce(x)
    return x


NORMS: dict[str, Norm] = {
    "frozen": FrozenBatchNorm2d,
    "group": GroupNorm,
    "batch": BatchNorm2d,
    "sync_batch": SyncBatchNorm2d,
}


def norm_of(name: str, eps: float) -> Norm:
    """One of `NORMS`; batch normalisations divide by √(variance + `eps`)."""
    kind: Any = NORMS[name]
    return kind if name == "group" else partial(kind, eps=eps)


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


def folds(norm: nn.Module) -> bool:
    """Whether a normalisation is, in evaluation, a linear map of each channel."""
    return isinstance(norm, FrozenBatchNorm2d | nn.BatchNorm2d)


@torch.no_grad()
def fold(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """Weights (K, C, k, k) and bias (K,) of the one convolution that does what `conv` and then `norm` do."""
    scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    weight, bias = conv.weight.double() * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def freeze(network: nn.Module, stages: Iterable[str]) -> None:
    """Stop training the named stages of `network` (its attributes, such as ``conv1``, ``conv2_x``).

    Raises UserError for a name that is not a stage.
    """
    known = dict(network.named_children())
    for stage in stages:
        if stage not in known:
            raise UserError(f"model.freeze has the unknown stage {stage!r}: the stages are {', '.join(known)}.")
        known[stage].requires_grad_(False)
