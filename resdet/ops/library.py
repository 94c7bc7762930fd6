"""The compiled operators: found, loaded, and given their fake, autograd and autocast rules.

The schemas are in csrc/library.cpp.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OPS = torch.ops.resdet
_COMMON = (torch.float32, torch.float64, torch.bfloat16)
TYPES = {"cpu": _COMMON, "cuda": (*_COMMON, torch.float16)}  # that the operators take, by device
INSTRUCTION_SETS = ("any x86-64 or other processor", "AVX2", "AVX-512")


def _load() -> set[str]:
    """Load what was built → the devices that it serves. The schemas are in the CPU's part."""
    found: set[str] = set()
    for device in ("cpu", "cuda"):
        for file in sorted(Path(__file__).parent.glob(f"_{device}.*so")):
            if device == "cuda" and (torch.version.cuda is None or "cpu" not in found):
                continue
            try:
                torch.ops.load_library(file)
                found.add(device)
            except OSError as error:  # built against a torch that is no longer there
                logging.getLogger("resdet").warning(
                    "%s cannot be loaded (%s): torchvision's operators are used instead; install resdet again.",
                    file,
                    error,
                )
    return found


DEVICES = _load()


@cache
def runs_on_gpu(index: int) -> bool:
    """Whether the CUDA operators were compiled for this GPU; if not, that is said once and torchvision's serve."""
    runs = bool(OPS.runs_on_gpu(index))
    if not runs:
        logging.getLogger("resdet").warning(
            "The CUDA operators were not compiled for GPU %d: torchvision's are used instead. Install resdet again "
            "on this machine, or with TORCH_CUDA_ARCH_LIST set to its compute capability.",
            index,
        )
    return runs


if "cuda" in DEVICES:  # elsewhere nobody asks, and need not wait for torch's compiler
    runs_on_gpu = torch.compiler.assume_constant_result(runs_on_gpu)


def _pooled(size: int, stride: int) -> int:
    return (size + stride - 1) // stride


def _empty(like: Tensor, shape: Any, dtype: torch.dtype | None = None) -> Tensor:
    return like.new_empty(shape, dtype=dtype).to(memory_format=torch.channels_last)


def sums_type(x: Tensor) -> torch.dtype:
    """The type of sums of x's numbers: float64 for float64 and float32 for everything else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _roi_align_fake(
    maps: Sequence[Tensor],
    rois: Tensor,
    image_index: Tensor,
    level: Tensor | None,
    size: int,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    stride: int,
) -> Tensor:
    side = _pooled(size, stride)
    return _empty(maps[0], (rois.shape[0], maps[0].shape[1], side, side))


def _roi_align_backward_fake(
    gradient: Tensor, rois: Tensor, image_index: Tensor, level: Tensor | None, sides: Any, *rest: Any
) -> list[Tensor]:
    images, channels, *cells = sides
    return [_empty(gradient, (images, channels, *cells[n : n + 2])) for n in range(0, len(cells), 2)]


def _roi_pool_fake(
    features: Tensor, rois: Tensor, image_index: Tensor, size: int, scale: float, stride: int
) -> tuple[Tensor, Tensor]:
    side = _pooled(size, stride)
    shape = (rois.shape[0], features.shape[1], side, side)
    return _empty(features, shape), _empty(features, shape, torch.int32)


def _roi_pool_backward_fake(
    gradient: Tensor, cells: Tensor, rois: Tensor, image_index: Tensor, shape: Any, *rest: Any
) -> Tensor:
    return _empty(gradient, shape)


def _channel_sums_fake(gradient: Tensor | None, output: Tensor | None, x: Tensor, pivot: Tensor) -> Tensor:
    return x.new_empty((2, x.shape[1]), dtype=sums_type(x))


def _affine_fake(x: Tensor, *rest: Any) -> Tensor:
    return _empty(x, x.shape)


def _affine_gradient_fake(gradient: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    added = _empty(gradient, gradient.shape) if rest[-1] else gradient.new_empty(0)
    return _empty(gradient, gradient.shape), added


def _batch_norm_fake(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _empty(x, x.shape), x.new_empty((5, x.shape[1]), dtype=sums_type(x))


def _batch_norm_gradient_fake(
    gradient: Tensor, output: Tensor | None, x: Tensor, statistics: Tensor, relu: bool, with_added: bool
) -> tuple[Tensor, Tensor, Tensor]:
    added = _empty(x, x.shape) if with_added else x.new_empty(0)
    return _empty(x, x.shape), added, x.new_empty((2, x.shape[1]), dtype=sums_type(x))


def _winograd_fake(x: Tensor, weights: Tensor, bias: Tensor, added: Tensor | None, relu: bool) -> Tensor:
    return _empty(x, (x.shape[0], weights.shape[2], *x.shape[2:]))


def _winograd_weights_fake(weight: Tensor, turned: bool) -> Tensor:
    return weight.new_empty((36, *weight.shape[:2]))


def _winograd_weight_gradient_fake(gradient: Tensor, x: Tensor) -> Tensor:
    return _empty(x, (gradient.shape[1], x.shape[1], 3, 3), torch.float32)


def _quantize_fake(x: Tensor, scale: float, zero: int) -> Tensor:
    return _empty(x, x.shape, torch.uint8) if x.dim() == 4 else x.new_empty(x.shape, dtype=torch.uint8)


def _roi_align_quantized_fake(maps: Any, zeros: Any, factors: Any, offset: Tensor, *how: Any) -> Tensor:
    return _roi_align_fake(maps, *how)


def _cell_means_fake(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2], dtype=sums_type(x))


def _max_pool_fake(x: Tensor) -> Tensor:
    return _empty(x, (*x.shape[:2], *(_pooled(side, 2) for side in x.shape[2:])))


def _look_up_fake(images: Tensor, table: Tensor, sizes: Tensor, height: int, width: int) -> Tensor:
    return _empty(images, (len(images), 3, height, width), table.dtype)


def _nms_fake(boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float, max_output: int) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def _save_for_align(ctx: Any, inputs: Any, output: Any) -> None:
    maps, rois, image_index, level, *ctx.rest = inputs
    ctx.sides = [*maps[0].shape[:2], *(side for map_ in maps for side in map_.shape[2:])]
    ctx.save_for_backward(rois, image_index, *[] if level is None else [level])


def _align_gradient(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    rois, image_index, *level = ctx.saved_tensors
    regions = (rois, image_index, level[0] if level else None)
    return OPS.roi_align_backward(gradient, *regions, ctx.sides, *ctx.rest), *[None] * 8


def _save_for_pool(ctx: Any, inputs: Any, output: Any) -> None:
    features, rois, image_index, *ctx.rest = inputs
    ctx.shape = features.shape
    ctx.save_for_backward(output[1], rois, image_index)
    ctx.mark_non_differentiable(output[1])


def _pool_gradient(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    cells, rois, image_index = ctx.saved_tensors
    return OPS.roi_pool_backward(gradient, cells, rois, image_index, ctx.shape, *ctx.rest), *[None] * 5


def _refuse(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError("This operator has no second derivative.")


def _register() -> None:
    library = torch.library
    library.register_fake("resdet::roi_align", _roi_align_fake)
    library.register_fake("resdet::roi_align_backward", _roi_align_backward_fake)
    library.register_fake("resdet::roi_pool", _roi_pool_fake)
    library.register_fake("resdet::roi_pool_backward", _roi_pool_backward_fake)
    library.register_fake("resdet::channel_sums", _channel_sums_fake)
    library.register_fake("resdet::affine", _affine_fake)
    library.register_fake("resdet::affine_gradient", _affine_gradient_fake)
    library.register_fake("resdet::batch_norm", _batch_norm_fake)
    library.register_fake("resdet::batch_norm_gradient", _batch_norm_gradient_fake)
    library.register_fake("resdet::winograd", _winograd_fake)
    library.register_fake("resdet::winograd_weights", _winograd_weights_fake)
    library.register_fake("resdet::winograd_weight_gradient", _winograd_weight_gradient_fake)
    library.register_fake("resdet::quantize", _quantize_fake)
    library.register_fake("resdet::roi_align_quantized", _roi_align_quantized_fake)
    library.register_fake("resdet::cell_means", _cell_means_fake)
    library.register_fake("resdet::max_pool", _max_pool_fake)
    library.register_fake("resdet::look_up", _look_up_fake)
    library.register_fake("resdet::nms", _nms_fake)
    library.register_autograd("resdet::roi_align", _align_gradient, setup_context=_save_for_align)
    library.register_autograd("resdet::roi_pool", _pool_gradient, setup_context=_save_for_pool)
    for name in ("roi_align_backward", "roi_pool_backward"):
        library.register_autograd(f"resdet::{name}", _refuse)
    # No autocast rule: every operator takes features of any type beside regions of full precision.


if DEVICES:
    _register()
