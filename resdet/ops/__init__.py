"""Region operators: `roi_pool`, `roi_align`, `nms`, `batched_nms`; and what networks are made of on a CPU.

Shapes: N images, C channels, (H, W) the feature map, R regions, S the output size, M boxes.
`scale` is the feature map's size over the image's (1/16 for a C4 backbone). They run our own kernels (csrc/), and
torchvision's where those could not be built. Regions and boxes always count in full precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resdet.ops import library
from resdet.ops.library import sums_type as sums_type


def roi_pool(
    features: Tensor, rois: Tensor, image_index: Tensor, size: int, scale: float, stride: int = 1
) -> Tensor:
    """RoI max pooling (Fast R-CNN §2.1).

    A region's corners are rounded to cells, halves away from zero (``floor(x·scale + 0.5)``), the last cell
    included; it is divided into S × S bins whose borders are rounded outwards; an empty bin gives 0. A bin that
    holds NaN gives NaN, as torch's pooling does (torchvision's operator passes over it).

    Args:
        features: (N, C, H, W)
        rois: (R, 4) boxes in image pixels
        image_index: (R,) int64 in [0, N): the image of each region; on a GPU, which cannot look without waiting,
            a region of any other image gives zeros
        size: S, bins along each side
        scale: cells per pixel
        stride: every `stride`-th bin along each side is computed, the others are left out of the result

    Returns:
        (R, C, ⌈S/stride⌉, ⌈S/stride⌉), of the features' type
    """
    if _served(features):
        return library.OPS.roi_pool(_typed(features), rois, image_index, size, scale, stride)[0].to(features.dtype)
    full = _full_precision(features)
    pooled = _torchvision().roi_pool(full, _indexed(rois, image_index, full.dtype), size, scale)
    return pooled[:, :, ::stride, ::stride].to(features.dtype)


def roi_align(
    features: Tensor,
    rois: Tensor,
    image_index: Tensor,
    size: int,
    scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
    stride: int = 1,
) -> Tensor:
    """RoI align: the mean of bilinear samples in each bin (Mask R-CNN §3). Arguments as in `roi_pool`.

    Args:
        sampling_ratio: samples along each side of a bin; 0 takes one for each cell that the bin spans
        aligned: cell centers lie at half-integers; False: at integers, and a region is at least one cell large

    Returns:
        (R, C, ⌈S/stride⌉, ⌈S/stride⌉), of the features' type
    """
    if _served(features):
        how = (size, [scale], sampling_ratio, aligned, stride)
        return library.OPS.roi_align([_typed(features)], rois, image_index, None, *how).to(features.dtype)
    full = _full_precision(features)
    pooled = _torchvision().roi_align(
        full, _indexed(rois, image_index, full.dtype), size, scale, sampling_ratio, aligned
    )
    return pooled[:, :, ::stride, ::stride].to(features.dtype)


def roi_align_levels(
    maps: Sequence[Tensor],
    rois: Tensor,
    image_index: Tensor,
    level: Tensor,
    size: int,
    scales: Sequence[float],
    sampling_ratio: int = 0,
    aligned: bool = True,
    stride: int = 1,
) -> Tensor:
    """`roi_align` of each region from one of several maps, of which each has its scale.

    Args:
        maps: (N, C, H, W) each
        level: (R,) int64, the map of each region

    Returns:
        (R, C, ⌈S/stride⌉, ⌈S/stride⌉), of the type of the maps
    """
    if _served(maps[0]):
        typed, how = [_typed(map_) for map_ in maps], (size, list(scales), sampling_ratio, aligned, stride)
        return library.OPS.roi_align(typed, rois, image_index, level, *how).to(maps[0].dtype)
    pooled = maps[0].new_empty((len(rois), maps[0].shape[1], *[-(-size // stride)] * 2))
    for n, (map_, scale) in enumerate(zip(maps, scales, strict=True)):
        own = (level == n).nonzero()[:, 0]
        values = roi_align(map_, rois[own], image_index[own], size, scale, sampling_ratio, aligned, stride)
        pooled = pooled.index_copy(0, own, values)
    return pooled.contiguous(memory_format=torch.channels_last)


def roi_align_quantized(
    maps: Sequence[Tensor],
    zeros: Sequence[int],
    factors: Sequence[float],
    offset: Tensor,
    rois: Tensor,
    image_index: Tensor,
    level: Tensor,
    size: int,
    scales: Sequence[float],
    sampling_ratio: int = 0,
    aligned: bool = True,
    stride: int = 1,
) -> Tensor:
    """`roi_align_levels` of maps of whole numbers, on a CPU: pooled(map − zero)·factor + offset, rounded.

    Args:
        maps: (N, C, H, W) uint8 each
        zeros: of each map, the number that stands for 0
        factors: of each map
        offset: (C,)

    Returns:
        (R, C, ⌈S/stride⌉, ⌈S/stride⌉) uint8; what is below 0 or above 255 becomes 0 or 255
    """
    how = rois, image_index, level, size, list(scales), sampling_ratio, aligned, stride
    if "cpu" in library.DEVICES:
        return library.OPS.roi_align_quantized(maps, list(zeros), list(factors), offset, *how)
    signed = [(map_.float() - zero) * factor for map_, zero, factor in zip(maps, zeros, factors, strict=True)]
    pooled = roi_align_levels(signed, *how) + offset[:, None, None]
    return pooled.round_().clamp_(0, 255).byte()


def quantize(x: Tensor, scale: float, zero: int) -> Tensor:
    """x / scale + zero, rounded to the nearest whole number from 0 to 255: uint8 of x's shape; on a CPU."""
    if has_native_kernel(x) and x.dtype != torch.float64:
        return library.OPS.quantize(x, scale, zero)
    return (x.float() * (1 / scale) + zero).round_().clamp_(0, 255).byte()


def cell_means(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, C), the mean over the cells: float64 for float64 and float32 for everything else.

    No gradient flows through it.
    """
    if _served_on_cpu(x):
        return library.OPS.cell_means(x)
    return x.mean((2, 3), dtype=sums_type(x))


def max_pool(x: Tensor) -> Tensor:
    """The largest number in each window of 3×3 cells at stride 2, with padding: what follows conv1 of a ResNet.

    No gradient flows through it.

    Args:
        x: (N, C, H, W); on a CPU also uint8

    Returns:
        (N, C, ⌈H/2⌉, ⌈W/2⌉)
    """
    if _served_on_cpu(x):
        return library.OPS.max_pool(x)
    return F.max_pool2d(x.float() if x.dtype == torch.uint8 else x, 3, 2, 1).to(x.dtype)


def look_up(images: Tensor, table: Tensor, sizes: Tensor, height: int, width: int) -> Tensor:
    """What a table has for each pixel, on a CPU; beyond an image, what stands for zero: 128 of uint8, else 0.

    Args:
        images: (N, 3, H, W) uint8
        table: (3, 256) for each channel, of uint8, bfloat16 or float32
        sizes: (N, 2) int64, heights and widths of the images without padding
        height, width: of the result, which has more or less padding than the images

    Returns:
        (N, 3, height, width) of the table's type
    """
    if "cpu" in library.DEVICES:
        return library.OPS.look_up(images, table, sizes, height, width)
    found = torch.full((len(images), 3, height, width), 128 if table.dtype == torch.uint8 else 0, dtype=table.dtype)
    found = found.to(memory_format=torch.channels_last)
    for image, to, (h, w) in zip(images, found, sizes.tolist(), strict=True):
        for channel in range(3):
            to[channel, :h, :w] = table[channel][image[channel, :h, :w].long()]
    return found


def nms(boxes: Tensor, scores: Tensor, threshold: float, max_output: int | None = None) -> Tensor:
    """Greedy non-maximum suppression: a box goes if a better one overlaps it by IoU > `threshold`.

    Args:
        boxes: (M, 4)
        scores: (M,)
        max_output: boxes that are wanted; the search ends with them

    Returns:
        (K,) int64 indices of the boxes that stay, best first
    """
    boxes = _full_precision(boxes)
    if _served(boxes):
        return library.OPS.nms(boxes, scores.to(boxes.dtype), None, threshold, _limit(max_output))
    return _torchvision().nms(boxes, scores.to(boxes.dtype), threshold)[:max_output]


def batched_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, max_output: int | None = None
) -> Tensor:
    """`nms` among the boxes of each label (M,) separately; indices of all that stay, best first."""
    if _served(boxes):
        boxes = _full_precision(boxes)
        return library.OPS.nms(boxes, scores.to(boxes.dtype), labels, threshold, _limit(max_output))
    # torchvision moves each label's boxes apart, which holds only for coordinates from 0 up; float64 moves exactly.
    origin = boxes.min() if boxes.numel() else 0
    return _torchvision().batched_nms(boxes.double() - origin, scores.double(), labels, threshold)[:max_output]


def channel_sums(gradient: Tensor | None, output: Tensor | None, x: Tensor, pivot: Tensor) -> Tensor:
    """Σ a and Σ a·(x − pivot) over all but the channels: the sums of batch normalisation and of its gradient.

    Args:
        gradient: (N, C, H, W), which is a; nothing stands for x − pivot
        output: (N, C, H, W): where a rectified output is zero, the gradient does not count
        x: (N, C, H, W), of the same type
        pivot: (C,)

    Returns:
        (2, C), float64 for float64 and float32 for everything else; no gradient flows through it
    """
    if has_native_kernel(x):
        return library.OPS.channel_sums(gradient, output, x, pivot)
    centered = _full_precision(x) - pivot[:, None, None]
    a = centered if gradient is None else _full_precision(_masked(gradient, output))
    return torch.stack([a.sum((0, 2, 3)), (a * centered).sum((0, 2, 3))])


def affine(x: Tensor, added: Tensor | None, scale: Tensor, shift: Tensor, relu: bool) -> Tensor:
    """x·scale + shift + added, rectified or not: all that follows a convolution, in one pass over memory.

    Args:
        x: (N, C, H, W)
        added: (N, C, H, W), of the same type, or nothing
        scale: (C,)
        shift: (C,)
        relu: rectify

    Returns:
        (N, C, H, W); no gradient flows through it
    """
    if has_native_kernel(x):
        return library.OPS.affine(x, added, scale, shift, relu)
    y = _full_precision(x) * scale[:, None, None] + shift[:, None, None]
    y = y if added is None else y + added
    return (y.relu() if relu else y).to(x.dtype)


def affine_gradient(
    gradient: Tensor,
    output: Tensor | None,
    x: Tensor | None,
    scale: Tensor,
    slope: Tensor | None = None,
    offset: Tensor | None = None,
    with_added: bool = False,
) -> tuple[Tensor, Tensor]:
    """The gradients of `affine`: of x, g·scale + x·slope + offset, and of `added`, g.

    Args:
        gradient: (N, C, H, W) of the output; g is what is left of it by the ReLU
        output: (N, C, H, W) if it was rectified
        x: (N, C, H, W) if scale and shift depend on it, as batch statistics do; else g·scale is all
        scale: (C,)
        slope: (C,), with x
        offset: (C,), with x
        with_added: the second gradient is wanted; else it is empty
    """
    if has_native_kernel(gradient):
        return library.OPS.affine_gradient(gradient, output, x, scale, slope, offset, with_added)
    g = _masked(gradient, output)
    result = _full_precision(g) * scale[:, None, None]
    if x is not None and slope is not None and offset is not None:
        result = result + _full_precision(x) * slope[:, None, None] + offset[:, None, None]
    return result.to(gradient.dtype), g if with_added else gradient.new_empty(0)


def batch_norm(
    x: Tensor,
    added: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    share: float,
    eps: float,
    far: float,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """Batch normalisation with the batch's own statistics, shortcut and ReLU; needs `has_native_kernel`.

    The running statistics move towards the batch's, unless a channel has one value or none. The sums are taken
    around the running mean. Where it is so far off that the variance would be a small difference of large numbers,
    they are taken again around the mean just found.

    Args:
        x: (N, C, H, W)
        added: (N, C, H, W), of the same type, or nothing
        gamma, beta: (C,)
        running_mean, running_var: (C,) of `sums_type`, which change
        share: how far they move, from 0 to 1
        eps: added to the variance
        far: (mean − running mean)² over the variance beyond which the running mean is too far off
        relu: rectify

    Returns:
        (N, C, H, W), and (5, C): mean, biased variance, 1 / √(variance + ε), γ / √(variance + ε), and what is added
        to x times that. No gradient flows through them.
    """
    return library.OPS.batch_norm(x, added, gamma, beta, running_mean, running_var, share, eps, far, relu)


def batch_norm_gradient(
    gradient: Tensor, output: Tensor | None, x: Tensor, statistics: Tensor, relu: bool, with_added: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `batch_norm`: of x, of `added`, which is empty unless it is wanted, and (2, C), of γ and β.

    Args:
        gradient: (N, C, H, W) of the output
        output: (N, C, H, W), if it was rectified and something was added
        x: (N, C, H, W)
        statistics: (5, C) of `batch_norm`
        relu: the output was rectified
        with_added: the second gradient is wanted
    """
    return library.OPS.batch_norm_gradient(gradient, output, x, statistics, relu, with_added)


def winograd(x: Tensor, weights: Tensor, bias: Tensor, added: Tensor | None, relu: bool) -> Tensor:
    """ReLU(conv3×3(x) + bias + added) at stride 1 with padding, with a quarter of the multiplications; on a CPU.

    Needs `has_native_kernel`. Lavin and Gray 2016, F(4×4, 3×3). No gradient flows through it. An input that is NaN
    or infinite makes NaN of every output in the tiles of 4×4 whose windows hold it, not of the nine around it only.

    Args:
        x: (N, C, H, W) float32, or bfloat16, with which it calculates in float32 too
        weights: (36, C, K), of `winograd_weights`
        bias: (K,) float32
        added: (N, K, H, W) of the type of x, or nothing
        relu: rectify

    Returns:
        (N, K, H, W) of the type of x
    """
    return library.OPS.winograd(x, weights, bias, added, relu)


def winograd_weights(weight: Tensor, turned: bool = False) -> Tensor:
    """(K, C, 3, 3) float32 → (36, C, K): G g Gᵀ of each filter, as `winograd` takes them; C, K: multiples of 16.

    Args:
        turned: for the convolution that is the gradient of the input, (36, K, C): each filter by half a turn
    """
    terms = library.OPS.winograd_weights(weight, turned)
    return terms if turned else terms.transpose(1, 2)


def winograd_weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weights of a 3×3 convolution at stride 1, by `winograd`'s algorithm.

    Args:
        gradient: (N, K, H, W) of the convolution's result, of the type of x
        x: (N, C, H, W) float32 or bfloat16

    Returns:
        (K, C, 3, 3) float32
    """
    return library.OPS.winograd_weight_gradient(gradient, x)


def has_native_kernel(x: Tensor) -> bool:
    """Whether our own kernels for the layers of networks serve this tensor."""
    return x.device.type == "cpu" and _served(x) and x.dtype in library.TYPES["cpu"]


def _served(x: Tensor) -> bool:
    """Whether our own region operators serve this tensor's device."""
    return x.device.type in library.DEVICES and (x.device.type != "cuda" or library.runs_on_gpu(x.device.index))


def _served_on_cpu(x: Tensor) -> bool:
    """Whether our own kernels for maps, of whole numbers too, serve this tensor."""
    return x.device.type == "cpu" and "cpu" in library.DEVICES and x.dtype in (*library.TYPES["cpu"], torch.uint8)


def _typed(x: Tensor) -> Tensor:
    """A type that our own kernels know."""
    return x if x.dtype in library.TYPES[x.device.type] else x.float()


def _masked(gradient: Tensor, output: Tensor | None) -> Tensor:
    """The gradient, where a rectified output is above zero, or is NaN."""
    return gradient if output is None else gradient.masked_fill(output <= 0, 0)


def _limit(max_output: int | None) -> int:
    return -1 if max_output is None else max_output


def _full_precision(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def _torchvision() -> Any:
    """torchvision's operators; only they wait for its import, which takes longer than torch's."""
    import torchvision.ops

    return torchvision.ops


def _indexed(rois: Tensor, image_index: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, 5): image index and box, as torchvision's kernels take them.

    `dtype` is never a half type: bfloat16 would place a corner at pixel 600 two pixels off.
    """
    return torch.cat([image_index[:, None].to(dtype), rois.to(dtype)], dim=1)
