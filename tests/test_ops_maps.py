"""resdet.ops: what surrounds the convolutions of a network that only detects, against literal loops and torch."""

import pytest
import torch

from resdet import ops
from resdet.ops import library

compiled = pytest.mark.skipif("cpu" not in library.DEVICES, reason="the operators were not compiled here")
TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.uint8]


@pytest.fixture(params=[pytest.param(True, marks=compiled), False], ids=["own", "torch"], autouse=True)
def kernels(request, monkeypatch):
    """Our own kernels, and what serves where they are not built."""
    monkeypatch.setattr(library, "DEVICES", {"cpu"} if request.param else set())


def maps(shape, dtype, channels_last=True):
    x = (torch.randn(shape) * 60 + 90).clamp(0, 255).to(dtype)
    return x.to(memory_format=torch.channels_last) if channels_last else x


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 70, 9, 11), (1, 64, 10, 8), (3, 3, 1, 1), (1, 130, 2, 7), (0, 16, 4, 4)])
def test_max_pooling_equals_a_loop(shape, dtype):
    x = maps(shape, dtype)
    if dtype != torch.uint8 and len(x):
        x[0, 0, 0, 0] = float("nan")
    result = ops.max_pool(x)
    count, channels, height, width = shape
    assert result.shape == (count, channels, (height + 1) // 2, (width + 1) // 2) and result.dtype == dtype
    for i in range(result.shape[2]):
        for j in range(result.shape[3]):
            window = x[:, :, max(0, 2 * i - 1) : 2 * i + 2, max(0, 2 * j - 1) : 2 * j + 2].double()
            assert torch.equal(
                result[:, :, i, j].double().nan_to_num(-1), window.amax((2, 3)).nan_to_num(-1)
            )  # of windows with NaN, too


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
def test_means_over_cells_equal_torch_s(dtype, channels_last):
    x = maps((5, 100, 7, 3), dtype, channels_last)
    result = ops.cell_means(x)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(result.double(), x.double().mean((2, 3)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 70, 5, 3), (9, 1000), (0, 3), (1, 3, 400, 300)])
def test_numbers_go_to_the_nearest_of_a_grid(shape, dtype):
    x = torch.randn(shape).to(dtype)
    result = ops.quantize(x, 0.02, 128)
    exact = x.double() / 0.02 + 128
    assert result.dtype == torch.uint8 and result.shape == x.shape
    inside = (exact > 0) & (exact < 255)
    assert (result.double() - exact).abs()[inside].le(0.5 + 1e-4).all()
    assert torch.equal(result.double()[~inside], exact.clamp(0, 255)[~inside])


def test_what_is_not_finite_stays_on_the_grid():
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.5, 1.5, 2.5]])
    assert ops.quantize(x, 1.0, 0)[0, 1:].tolist() == [255, 0, 255, 0, 0, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous", "flipped"])
def test_pixels_are_looked_up(layout, dtype):
    images, table = torch.randint(0, 256, (2, 3, 9, 13), dtype=torch.uint8), (torch.randn(3, 256) * 90).to(dtype)
    images = images.to(memory_format=torch.channels_last) if layout == "channels_last" else images
    images = images.flip(1) if layout == "flipped" else images
    sizes = torch.tensor([[9, 11], [4, 13]])
    for height, width in [(9, 13), (12, 16)]:
        result = ops.look_up(images, table, sizes, height, width)
        expected = torch.full((2, 3, height, width), 128 if dtype == torch.uint8 else 0, dtype=dtype)
        for n, (h, w) in enumerate(sizes.tolist()):
            for c in range(3):
                for y in range(h):
                    for x in range(w):
                        expected[n, c, y, x] = table[c, int(images[n, c, y, x])]
        assert torch.equal(result, expected) and result.dtype == dtype


def regions(count=30):
    corner = torch.rand(count, 2) * 300 - 40
    rois = torch.cat([corner, corner + torch.rand(count, 2) * 250], 1)
    return rois, torch.randint(0, 2, (count,)), torch.randint(0, 2, (count,))


@pytest.mark.parametrize("zeros", [(0, 0), (128, 128), (128, 0)])
@pytest.mark.parametrize("aligned, sampling_ratio, stride", [(True, 0, 1), (False, 2, 2)])
def test_maps_of_whole_numbers_are_pooled_as_what_they_stand_for(aligned, sampling_ratio, stride, zeros):
    whole = [torch.randint(0, 256, (2, 70, 20, 30), dtype=torch.uint8)]
    whole.append(torch.randint(0, 256, (2, 70, 10, 15), dtype=torch.uint8))
    (rois, images, level), offset, factors = regions(), torch.randn(70) * 20 + 100, [0.7, 1.3]
    how = (7, [1 / 8, 1 / 16], sampling_ratio, aligned, stride)
    result = ops.roi_align_quantized(whole, zeros, factors, offset, rois, images, level, *how)
    stands_for = [(m.double() - zero) * f for m, zero, f in zip(whole, zeros, factors, strict=True)]
    exact = ops.roi_align_levels(stands_for, rois.double(), images, level, *how) + offset.double()[:, None, None]
    assert result.dtype == torch.uint8 and (result.double() - exact.clamp(0, 255)).abs().max() < 0.5 + 1e-3


@compiled
def test_the_registrations_are_right():
    check, own = torch.library.opcheck, library.OPS
    x, whole = maps((2, 5, 6, 7), torch.float32), maps((2, 5, 6, 7), torch.uint8)
    for given in (x, whole):
        check(own.max_pool, (given,))
        check(own.cell_means, (given,))
    check(own.quantize, (x, 0.5, 128))
    (rois, images, level), offset = regions(), torch.zeros(5)
    how = (rois, images, level, 3, [1 / 8, 1 / 8], 0, True, 1)
    check(own.roi_align_quantized, ([whole, whole], [0, 128], [1.0, 0.5], offset, *how))
    pixels = torch.zeros(1, 3, 5, 5, dtype=torch.uint8)
    check(own.look_up, (pixels, torch.zeros(3, 256), torch.tensor([[5, 5]]), 5, 5))


@compiled
def test_wrong_operands_are_refused():
    own, pixels, table = library.OPS, torch.zeros(1, 3, 5, 5, dtype=torch.uint8), torch.zeros(3, 256)
    sizes = torch.tensor([[5, 5]])
    for wrong, message in [
        ((pixels[:, :2], table, sizes, 5, 5), "3, H, W"),
        ((pixels.float(), table, sizes, 5, 5), "uint8"),
        ((pixels, table[:, :9], sizes, 5, 5), "3, 256"),
        ((pixels, table.double(), sizes, 5, 5), "must be uint8, bfloat16 or float32"),
        ((pixels, table, sizes + 1, 9, 9), "larger than what it lies in"),
        ((pixels, table, sizes, 4, 5), "larger than what it lies in"),
        ((pixels, table, -sizes, 5, 5), "larger than what it lies in"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            own.look_up(*wrong)
    whole = torch.zeros(1, 4, 5, 5, dtype=torch.uint8)
    rois, index = torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64)
    how = (rois, index, None, 3, [1.0], 0, True, 1)
    with pytest.raises(RuntimeError, match="must be uint8"):
        own.roi_align_quantized([whole.float()], [0], [1.0], torch.zeros(4), *how)
    with pytest.raises(RuntimeError, match="offset for each channel"):
        own.roi_align_quantized([whole], [0], [1.0], torch.zeros(3), *how)
    with pytest.raises(RuntimeError, match="zero and a factor"):
        own.roi_align_quantized([whole], [0, 1], [1.0], torch.zeros(4), *how)
    with pytest.raises(RuntimeError, match="can be quantized"):
        own.quantize(torch.zeros(3).double(), 1.0, 0)
    with pytest.raises(RuntimeError, match="with cells"):
        own.cell_means(torch.zeros(1, 4, 0, 5))
