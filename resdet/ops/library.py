"""The compiled operators: found, loaded, and given their fake, autograd and autocast rules.

The schemas are in csrc/library.cpp.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OPS = torch.ops.resdet
TYPES = (torch.float32, torch.float64, torch.bfloat16)  # of the CPU's operators
INSTRUCTION_SETS = ("any x86-64 or other processor", "AVX2", "AVX-512")


def _load() -> bool:
    """Load what was built → whether there is anything."""
    for file in sorted(Path(__file__).parent.glob("_cpu.*so")):
        try:
            torch.ops.load_library(file)
            return True
        except OSError as error:  # built against a torch that is no longer there
            logging.getLogger("resdet").warning(
                "%s cannot be loaded (%s): torchvision's operators serve; install resdet again.", file, error
            )
    return False


COMPILED = _load()


def _pooled(size: int, stride: int) -> int:
    return (size + stride - 1) // stride


def _empty(like: Tensor, shape: Any, dtype: torch.dtype | None = None) -> Tensor:
    return like.new_empty(shape, dtype=dtype).to(memory_format=torch.channels_last)


def _roi_align_fake(
    features: Tensor,
    rois: Tensor,
    image_index: Tensor,
    size: int,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
    stride: int,
) -> Tensor:
    side = _pooled(size, stride)
    return _empty(features, (rois.shape[0], features.shape[1], side, side))


def _roi_align_backward_fake(gradient: Tensor, rois: Tensor, image_index: Tensor, shape: Any, *rest: Any) -> Tensor:
    return _empty(gradient, shape)


def _roi_pool_fake(
    features: Tensor, rois: Tensor, image_index: Tensor, size: int, scale: float, stride: int
) -> tuple[Tensor, Tensor]:
    side = _pooled(size, stride)
    shape = (rois.shape[0], features.shape[1], side, side)
    return _empty(features, shape), _empty(features, shape, torch.int32)


def _roi_pool_backward_fake(gradient: Tensor, cells: Tensor, image_index: Tensor, shape: Any) -> Tensor:
    return _empty(gradient, shape)


def _channel_sums_fake(a: Tensor | None, b: Tensor, pivot: Tensor) -> Tensor:
    return b.new_empty((2, b.shape[1]), dtype=torch.float64 if b.dtype == torch.float64 else torch.float32)


def _nms_fake(boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float, max_output: int) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def _save_for_align(ctx: Any, inputs: Any, output: Any) -> None:
    features, rois, image_index, *ctx.rest = inputs
    ctx.shape = features.shape
    ctx.save_for_backward(rois, image_index)


def _align_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    rois, image_index = ctx.saved_tensors
    return OPS.roi_align_backward(gradient, rois, image_index, ctx.shape, *ctx.rest), *[None] * 7


def _save_for_pool(ctx: Any, inputs: Any, output: Any) -> None:
    features, _, image_index = inputs[:3]
    ctx.shape = features.shape
    ctx.save_for_backward(output[1], image_index)
    ctx.mark_non_differentiable(output[1])


def _pool_gradient(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    cells, image_index = ctx.saved_tensors
    return OPS.roi_pool_backward(gradient, cells, image_index, ctx.shape), *[None] * 5


def _refuse(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError("RoI align and RoI pooling have no second derivative here.")


def _register() -> None:
    library = torch.library
    library.register_fake("resdet::roi_align", _roi_align_fake)
    library.register_fake("resdet::roi_align_backward", _roi_align_backward_fake)
    library.register_fake("resdet::roi_pool", _roi_pool_fake)
    library.register_fake("resdet::roi_pool_backward", _roi_pool_backward_fake)
    library.register_fake("resdet::channel_sums", _channel_sums_fake)
    library.register_fake("resdet::nms", _nms_fake)
    library.register_autograd("resdet::roi_align", _align_gradient, setup_context=_save_for_align)
    library.register_autograd("resdet::roi_pool", _pool_gradient, setup_context=_save_for_pool)
    for name in ("roi_align_backward", "roi_pool_backward"):
        library.register_autograd(f"resdet::{name}", _refuse)
    # No autocast rule: every operator takes features of any type beside regions of full precision.


if COMPILED:
    _register()
