"""The CUDA kernels, run on a CPU by an emulation of blocks and threads, against the CPU's operators."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from resdet import ops
from resdet.ops import library

TESTS = Path(__file__).parent
KERNELS = TESTS.parent / "resdet/ops/csrc/cuda"
pytestmark = [
    pytest.mark.skipif("cpu" not in library.DEVICES, reason="the operators were not compiled here"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The emulation, compiled."""
    path = tmp_path_factory.mktemp("cuda") / "kernels.so"
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", f"-I{KERNELS}"]
    subprocess.run(["g++", *flags, str(TESTS / "cuda_on_cpu.cpp"), "-o", str(path)], check=True, timeout=120)
    return ctypes.CDLL(str(path))


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def regions(count: int) -> tuple[Tensor, Tensor]:
    """Regions of two images of 10 × 8 cells of 16 pixels: wide ones, and some that are no boxes."""
    corner = torch.rand(count, 2) * 140 - 20
    rois = torch.cat([corner, corner + torch.rand(count, 2) * 90], 1)
    rois[1] = torch.tensor([400.0, 400, 500, 500])
    rois[2, 2:] = rois[2, :2]
    rois[3, 0] = float("nan")
    rois[4] = torch.tensor([-1e30, -1e30, 1e30, 1e30])
    rois[5] = torch.tensor([-3e8, -3e8, 3e8, 3e8])
    rois[6] = rois[6].flip(0)  # corners exchanged
    return rois, torch.arange(count) % 2


@pytest.mark.parametrize("align", [True, False], ids=["align", "pool"])
@pytest.mark.parametrize("channels, packs", [(8, True), (5, False)])
@pytest.mark.parametrize(
    "size, stride, ratio, aligned", [(7, 1, 0, True), (14, 2, 2, False), (2, 1, 1, True), (60, 1, 0, True)]
)
def test_pooling_equals_the_cpu_s(
    kernels: ctypes.CDLL,
    align: bool,
    channels: int,
    packs: bool,
    size: int,
    stride: int,
    ratio: int,
    aligned: bool,
) -> None:
    torch.manual_seed(size + channels)
    maps, (rois, image) = torch.randn(2, channels, 10, 8), regions(12)
    maps[0, :, 3, 3] = float("nan")
    maps[1, :, 0, 5] = -float("inf")
    maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
    if align:
        expected = ops.roi_align(maps, rois, image, size, 1 / 16, ratio, aligned, stride)
    else:
        expected = ops.roi_pool(maps, rois, image, size, 1 / 16, stride)
    upstream = torch.randn(expected.shape).contiguous(memory_format=torch.channels_last)
    (expected_gradient,) = torch.autograd.grad(expected, maps, upstream)

    pooled, gradient = torch.empty_like(expected), torch.empty_like(maps)
    cells = torch.empty_like(expected, dtype=torch.int32)
    shape = torch.tensor(maps.shape)
    flags = (ctypes.c_bool(align), ctypes.c_bool(packs), pointer(rois), pointer(image), pointer(shape))
    numbers = (*map(ctypes.c_int64, (len(rois), size, stride)), ctypes.c_float(1 / 16), ctypes.c_int64(ratio))
    results = (pointer(maps), pointer(pooled), pointer(cells), pointer(upstream), pointer(gradient))
    kernels.pool_on_cpu(*flags, *numbers, ctypes.c_bool(aligned), pointer(None), *results)
    torch.testing.assert_close(pooled, expected.detach(), rtol=1e-5, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


def test_regions_of_other_levels_are_passed_over(kernels: ctypes.CDLL) -> None:
    maps, (rois, image) = torch.randn(2, 8, 10, 8), regions(12)
    maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
    level = torch.arange(12) % 3
    own = level == 1
    expected = ops.roi_align(maps, rois[own], image[own], 7, 1 / 16)
    pooled = torch.full((12, 8, 7, 7), 5.0).contiguous(memory_format=torch.channels_last)
    upstream, gradient = torch.randn_like(pooled), torch.empty_like(maps)
    (expected_gradient,) = torch.autograd.grad(expected, maps, upstream[own])
    shape = torch.tensor(maps.shape)
    kernels.pool_on_cpu(
        *(ctypes.c_bool(True), ctypes.c_bool(True), *map(pointer, (rois, image, shape))),
        *(*map(ctypes.c_int64, (12, 7, 1)), ctypes.c_float(1 / 16), ctypes.c_int64(0), ctypes.c_bool(True)),
        *map(pointer, (level, maps, pooled, None, upstream, gradient)),
    )
    torch.testing.assert_close(pooled[own], expected.detach(), rtol=1e-5, atol=1e-5, equal_nan=True)
    assert (pooled[~own] == 5).all()
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("limit", [200, 20])
@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("count", [1, 64, 200])
def test_suppression_equals_the_cpu_s(kernels: ctypes.CDLL, count: int, with_labels: bool, limit: int) -> None:
    torch.manual_seed(count)
    corner = torch.rand(count, 2) * 100
    boxes = torch.cat([corner, corner + torch.rand(count, 2) * 60], 1)
    scores = (torch.rand(count) * 50).round()
    labels = torch.randint(0, 3, (count,)) if with_labels else None
    order, kept = scores.argsort(descending=True, stable=True), torch.zeros(count + 1, dtype=torch.int64)
    limit = min(limit, count)
    kernels.nms_on_cpu(
        *map(pointer, (boxes, labels, order)),
        ctypes.c_int64(count),
        ctypes.c_float(0.4),
        ctypes.c_int64(limit),
        pointer(kept),
    )
    if labels is None:
        expected = ops.nms(boxes, scores, 0.4, limit)
    else:
        expected = ops.batched_nms(boxes, scores, labels, 0.4, limit)
    assert kept[: kept[-1]].tolist() == expected.tolist()
