"""resdet.ops against torch and torchvision on whatever a caller may hand over.

Random shapes, empty ones among them, types, strides, and values: NaN, infinite and denormal ones too. What goes in
comes out as torch's own operators would have it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
import torchvision
from reference import roi_pool_literal
from torch import Tensor

from resdet import ops
from resdet.ops import library

pytestmark = pytest.mark.skipif("cpu" not in library.DEVICES, reason="the operators were not compiled here")
CASES = 60
TYPES = (torch.float32, torch.float64, torch.bfloat16)
SPECIAL = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0)


class Draw:
    """One case: everything about it follows from its number."""

    def __init__(self, case: int) -> None:
        self.random = random.Random(case)
        torch.manual_seed(case)

    def side(self, most: int) -> int:
        """0 now and then, 1 often."""
        return self.random.choice([0, 1, 1, *range(1, most + 1), *range(2, most + 1)])

    def laid_out(self, x: Tensor) -> Tensor:
        """The same values, the elements lying in memory in another way."""
        kind = self.random.randrange(5)
        if x.dim() == 4 and kind == 1:
            return x.contiguous(memory_format=torch.channels_last)
        if x.dim() == 4 and kind == 2:  # channels-last, starting at any element
            rows = torch.empty(x.numel() + 3, dtype=x.dtype)[self.random.randrange(4) :][: x.numel()]
            view = rows.view(x.shape[0], x.shape[2], x.shape[3], x.shape[1]).permute(0, 3, 1, 2)
            return view.copy_(x)
        if kind == 3:  # every second of a longer last dimension
            wide = torch.empty(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
            return wide[..., ::2].copy_(x)
        if kind == 4:  # dimensions in the opposite order
            order = tuple(reversed(range(x.dim())))
            return x.permute(order).contiguous().permute(order)
        return x

    def values(self, *shape: int, dtype: torch.dtype = torch.float32, special: bool | None = None) -> Tensor:
        """Normal, denormal or tiny numbers, with some special ones among them or none."""
        x = torch.randn(shape, dtype=torch.float64) * self.random.choice([1, 1, 100, 1e-40])
        if special if special is not None else self.random.random() < 0.5:
            chosen = torch.tensor(SPECIAL, dtype=torch.float64)[torch.randint(0, len(SPECIAL), shape)]
            x = torch.where(torch.rand(shape) < self.random.choice([0.01, 0.1]), chosen, x)
        return self.laid_out(x.to(dtype))

    def boxes(self, count: int, width: float, height: float) -> Tensor:
        """Boxes in, at and beyond an image: narrow, wide, without area, and with exchanged corners."""
        extent = torch.tensor([width, height])
        corner = torch.rand(count, 2) * extent * 1.6 - 0.3 * extent
        boxes = torch.cat([corner, corner + torch.rand(count, 2) * extent * self.random.choice([0.1, 0.6, 2])], 1)
        kind = torch.randint(0, 6, (count,))
        boxes[kind == 0] = boxes[kind == 0][:, [2, 3, 0, 1]]
        boxes[kind == 1, 2:] = boxes[kind == 1, :2]
        boxes[kind == 2] = boxes[kind == 2].round()
        boxes[kind == 3, 3] = boxes[kind == 3, 1]
        return boxes


def agree(found: Tensor, expected: Tensor, dtype: torch.dtype, scale: Tensor | float = 1.0) -> None:
    """Finite where torch's is, and near it there; `scale` is that of the numbers that were added."""
    assert found.shape == expected.shape and found.dtype == dtype
    assert torch.equal(found.isfinite(), expected.isfinite())
    precision = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    denormal = 1e-40 if dtype == torch.bfloat16 else 1e-42  # some of the smallest numbers of the type
    finite = expected.isfinite()
    error = (found.double() - expected.double())[finite].abs()
    assert (error <= precision * (expected.double()[finite].abs() + scale) + denormal).all(), error.max()


def largest(*tensors: Tensor | None) -> float:
    """The largest finite magnitude in `tensors`."""
    flat = torch.cat([x.detach().double().flatten() for x in tensors if x is not None])
    return float(flat[flat.isfinite()].abs().max()) if flat.isfinite().any() else 0.0


def pooling_cases(types: tuple[torch.dtype, ...]) -> Iterator[tuple[Draw, Tensor, Tensor, Tensor, int, float]]:
    """Maps, regions, the image of each, bins along a side and cells per pixel."""
    for case in range(CASES):
        draw = Draw(case)
        shape = draw.random.randint(1, 3), draw.side(70), draw.side(9), draw.side(9)
        maps = draw.values(*shape, dtype=draw.random.choice(types))
        count, scale = draw.side(8), draw.random.choice([1 / 16, 1 / 4, 0.37, 1.0])
        rois = draw.boxes(count, max(shape[3], 1) / scale, max(shape[2], 1) / scale)
        index = draw.laid_out(torch.randint(0, shape[0], (count,)))
        yield draw, maps, draw.laid_out(rois), index, draw.random.randint(1, 9), scale


def test_roi_align_agrees_with_torchvision() -> None:
    for draw, maps, rois, index, size, scale in pooling_cases(TYPES):
        ratio, aligned = draw.random.choice([0, 1, 2, 5]), draw.random.random() < 0.5
        rois = rois + 0.01 * torch.rand(rois.shape)  # no sample exactly on a border, where rounding decides
        maps[:, :, :1, :1] = 1  # which torchvision multiplies by 0 for samples beyond the map
        maps.requires_grad_()
        found = ops.roi_align(maps, rois, index, size, scale, ratio, aligned)
        upstream = draw.values(*found.shape, dtype=maps.dtype)
        (gradient,) = torch.autograd.grad(found, maps, upstream)
        exact = maps.detach().float().requires_grad_() if maps.dtype == torch.bfloat16 else maps
        indexed = torch.cat([index[:, None].to(exact.dtype), rois.to(exact.dtype)], 1)
        if exact.numel() == 0:
            assert torch.equal(found, torch.zeros(len(rois), maps.shape[1], size, size, dtype=maps.dtype))
            assert gradient.shape == maps.shape
            continue
        expected = torchvision.ops.roi_align(exact, indexed, size, scale, ratio, aligned)
        agree(found, expected, maps.dtype, largest(maps))
        (expected,) = torch.autograd.grad(expected, exact, upstream.to(exact.dtype))
        gradient[:, :, 0, 0] = expected[:, :, 0, 0] = 0
        agree(gradient, expected, maps.dtype, 20 * largest(upstream))


def test_roi_pool_agrees_with_the_literal_loop() -> None:
    """NaN is the largest number, as in torch's own pooling; torchvision's operator passes over it."""
    for _, maps, rois, index, size, scale in pooling_cases(TYPES):
        maps = maps[:, :3].clone().requires_grad_()
        found = ops.roi_pool(maps, rois, index, size, scale)
        single = torch.tensor(scale).item()  # the product of a box and the scale in float32, as the kernels take it
        doubled = maps.dtype == torch.float64
        corners = rois.double() * scale if doubled else (rois * single).double()
        expected = roi_pool_literal(maps.detach(), corners.tolist(), index.tolist(), size, 1.0)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_roi_pool_s_gradient_agrees_with_torchvision() -> None:
    for draw, maps, rois, index, size, scale in pooling_cases((torch.float32, torch.float64)):
        maps = torch.randn(maps.shape, dtype=maps.dtype).requires_grad_()
        found = ops.roi_pool(maps, rois, index, size, scale)
        upstream = draw.values(*found.shape, dtype=maps.dtype)
        (gradient,) = torch.autograd.grad(found, maps, upstream)
        assert gradient.shape == maps.shape
        if maps.numel() == 0:
            continue
        indexed = torch.cat([index[:, None].to(maps.dtype), rois.to(maps.dtype)], 1)
        (expected,) = torch.autograd.grad(torchvision.ops.roi_pool(maps, indexed, size, scale), maps, upstream)
        agree(gradient, expected, maps.dtype, 20 * largest(upstream))


def test_suppression_agrees_with_torchvision() -> None:
    for case in range(CASES):
        draw = Draw(case)
        count, dtype = draw.side(90), draw.random.choice([torch.float32, torch.float64])
        boxes = draw.boxes(count, 100, 80).to(dtype) * draw.random.choice([1, 1, 1e-22, 1e18])
        hit = torch.rand(count, 4) < draw.random.choice([0, 0.05])
        boxes = torch.where(hit, torch.tensor(SPECIAL)[torch.randint(0, 5, (count, 4))].to(dtype), boxes)
        scores = (torch.rand(count) * 20).round().to(dtype)
        scores[torch.rand(count) < 0.1] = draw.random.choice(SPECIAL)
        boxes, scores = draw.laid_out(boxes), draw.laid_out(scores)
        for threshold in (-0.5, 0.0, 0.3, 0.7, 1.0, float("nan")):
            order = scores.argsort(descending=True, stable=True)
            ranks = -torch.arange(count).to(dtype)
            expected = order[torchvision.ops.nms(boxes[order], ranks, threshold)]
            assert ops.nms(boxes, scores, threshold).tolist() == expected.tolist()


def layer_cases() -> Iterator[tuple[Draw, torch.dtype, list[Tensor], Tensor]]:
    """Four maps of one shape, the second an output of a ReLU, and four rows of numbers for the channels."""
    for case in range(2 * CASES):
        draw = Draw(case)
        shape, dtype = (draw.side(5), draw.side(140), draw.side(9), draw.side(9)), draw.random.choice(TYPES)
        maps = [draw.values(*shape, dtype=dtype) for _ in range(4)]
        maps[1] = maps[1].relu()
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        yield draw, dtype, maps, draw.values(4, shape[1], dtype=precise, special=False)


def test_the_affine_map_and_its_gradient_agree_with_torch() -> None:
    for draw, dtype, (x, output, gradient, added), (scale, shift, slope, offset) in layer_cases():
        relu, with_added = draw.random.random() < 0.5, draw.random.random() < 0.5
        given = added if with_added else None
        y = ops.affine(x, given, scale, shift, relu)
        expected = x.double() * scale.double()[:, None, None] + shift.double()[:, None, None]
        expected = expected + added.double() if with_added else expected
        expected = expected.relu() if relu else expected
        size = largest(x) * largest(scale) + largest(shift, given)
        agree(y, expected, dtype, size)

        masked = output if relu else None
        for_x, for_added = ops.affine_gradient(gradient, masked, None, scale, with_added=True)
        g = gradient.double()
        g = torch.ops.aten.threshold_backward(g, output.double(), 0) if relu else g
        agree(for_added, g, dtype)
        agree(for_x, g * scale.double()[:, None, None], dtype, largest(gradient) * largest(scale))
        for_x, _ = ops.affine_gradient(gradient, masked, x, scale, slope, offset)
        expected = g * scale.double()[:, None, None] + x.double() * slope.double()[:, None, None]
        size = largest(gradient) * largest(scale) + largest(x) * largest(slope) + largest(offset)
        agree(for_x, expected + offset.double()[:, None, None], dtype, size)


def test_the_sums_of_channels_agree_with_torch() -> None:
    for draw, dtype, (x, output, gradient, _), (pivot, *_) in layer_cases():
        kind = draw.random.randrange(3)
        sums = ops.channel_sums(gradient if kind else None, output if kind == 2 else None, x, pivot)
        centered = x.double() - pivot.double()[:, None, None]
        g = gradient.double() if kind else centered
        g = torch.ops.aten.threshold_backward(g, output.double(), 0) if kind == 2 else g
        expected = torch.stack([g.sum((0, 2, 3)), (g * centered).sum((0, 2, 3))])
        count = x.numel() / max(x.shape[1], 1)
        scale = count * (largest(gradient, x, pivot) + 1e-300) * max(1.0, largest(x, pivot))
        agree(sums, expected, torch.float64 if dtype == torch.float64 else torch.float32, scale)


def test_batch_normalisation_agrees_with_its_parts() -> None:
    """Where one process trains, one operator each way does what several do where there are more."""
    for draw, _, (x, added, gradient, _), (gamma, beta, mean, *_) in layer_cases():
        if not x.isfinite().all():
            continue
        joined, relu, own = draw.random.random() < 0.5, draw.random.random() < 0.5, ops.sums_type(x)
        gamma, beta, mean = (t.nan_to_num(0, 1, -1).clamp(-9, 9).to(own) for t in (gamma, beta, mean))
        added = added.nan_to_num(0, 1, -1) if joined else None
        running = mean.clone(), torch.ones_like(mean)
        y, statistics = ops.batch_norm(x, added, gamma, beta, *running, 0.5, 1e-5, 100.0, relu)
        expected = ops.affine(x, added, statistics[3], statistics[4], relu)
        assert torch.equal(y, expected)
        output = y if relu else None
        # Of numbers that are rounded to zero, the gradient counts or not.
        gradient = gradient.masked_fill(
            (y == 0) & (ops.affine(x, added, statistics[3], statistics[4], False) >= 0), 0
        )
        for_x, for_added, (for_gamma, for_beta) = ops.batch_norm_gradient(
            gradient, output if joined else None, x, statistics, relu, joined
        )
        sums = ops.channel_sums(gradient, output, x, statistics[0])
        masked = ops.affine_gradient(gradient, output, None, torch.ones_like(gamma), with_added=True)[1]
        if joined:
            assert torch.equal(for_added.nan_to_num(), masked.nan_to_num())
        assert for_x.shape == x.shape
        agree(for_beta, sums[0].double(), own, largest(gradient) * x.numel())
        scale = largest(gradient) * (largest(x) + largest(statistics[0])) * x.numel() * largest(statistics[2])
        agree(for_gamma, (sums[1] * statistics[2]).double(), own, scale)


def spread(mask: Tensor) -> Tensor:
    """(N, 1, H, W) bool → the 4×4 tiles whose windows of 6×6 hold one of it."""
    height, width = mask.shape[2:]
    padded = F.pad(mask.float(), (1, 8, 1, 8))
    tiles = F.max_pool2d(padded, 6, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return tiles[:, :, :height, :width].bool()


def test_winograd_s_convolution_agrees_with_torch() -> None:
    """What is not finite is so in all of its tile; every other tile is untouched."""
    for case in range(CASES):
        draw = Draw(case)
        count, inputs, outputs = draw.side(3), 16 * draw.side(3), 16 * draw.side(3)
        height, width, dtype = draw.side(14), draw.side(14), draw.random.choice([torch.float32, torch.bfloat16])
        x = draw.values(count, inputs, height, width, dtype=dtype)
        weight, bias = draw.laid_out(torch.randn(outputs, inputs, 3, 3)), draw.values(outputs, special=False)
        added = draw.values(count, outputs, height, width, dtype=dtype, special=False)
        relu, joined = draw.random.random() < 0.5, draw.random.random() < 0.5
        found = ops.winograd(x, ops.winograd_weights(weight), bias, added if joined else None, relu)
        assert found.shape == added.shape
        if found.numel() == 0:
            continue
        expected = bias.double()[None, :, None, None].expand(found.shape)
        if inputs:
            expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
        expected = expected + added.double() if joined else expected
        expected = expected.relu() if relu else expected
        wild = spread(~x.isfinite().all(1, keepdim=True)) if inputs else torch.zeros(count, 1, height, width).bool()
        wild = wild.expand(found.shape)
        assert not found[wild & ~expected.isfinite()].isfinite().any()
        scale = 9 * 10 * max(inputs, 1) * largest(x) * largest(weight) + largest(bias, added)
        agree(found[~wild], expected[~wild], dtype, scale)


def test_winograd_s_gradient_of_the_weights_agrees_with_torch() -> None:
    for case in range(CASES):
        draw = Draw(case)
        count, inputs, outputs = draw.side(3), 16 * draw.side(3), 16 * draw.side(3)
        height, width, dtype = draw.side(14), draw.side(14), draw.random.choice([torch.float32, torch.bfloat16])
        x = draw.values(count, inputs, height, width, dtype=dtype, special=False)
        gradient = draw.values(count, outputs, height, width, dtype=dtype, special=False)
        found = ops.winograd_weight_gradient(gradient, x)
        if x.numel() == 0 or gradient.numel() == 0:
            assert found.shape == (outputs, inputs, 3, 3) and not found.any()
            continue
        expected = torch.nn.grad.conv2d_weight(x.double(), found.shape, gradient.double(), padding=1)
        scale = 100 * count * height * width * largest(x) * largest(gradient)
        agree(found, expected, torch.float32, scale)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("relu", [True, False])
def test_winograd_s_convolution_does_not_hide_a_weight_that_is_not_finite(value: float, relu: bool) -> None:
    x, weight = torch.rand(1, 16, 9, 9), torch.rand(16, 16, 3, 3)
    weight[3, 5, 1, 2] = value
    result = ops.winograd(x, ops.winograd_weights(weight), torch.zeros(16), None, relu)
    assert not result[:, 3].isfinite().any() and result[:, :3].isfinite().all()
