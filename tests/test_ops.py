"""resdet.ops against literal loops, numeric gradients, and the GPU against the CPU."""

import runpy
from types import SimpleNamespace

import pytest
import torch
import torchvision
from reference import iou_literal, nms_literal, roi_align_literal, roi_pool_literal

from resdet import ops
from resdet.ops import library

SCALE = 1 / 16

# In pixels; the map below is 9 × 11 cells of 16 pixels, an image of 144 × 176.
ROIS = {
    "a whole image": [0.0, 0, 176, 144],
    "within": [20.3, 17.9, 130.2, 99.1],
    "one cell": [33.0, 33, 34, 34],
    "ties: corners at x.5 cells": [8.0, 24, 72, 104],
    "ties that rounding to even takes elsewhere": [40.0, 40, 136, 72],
    "no width": [50.0, 10, 50, 90],
    "no area": [64.0, 64, 64, 64],
    "over the left and upper border": [-40.0, -24, 60, 50],
    "over the right and lower border": [120.0, 100, 230, 190],
    "beyond the border": [300.0, 300, 400, 400],
    "left of the image": [-200.0, -100, -120, -60],
    "narrow": [3.0, 70, 170, 75],
    "corners exchanged": [130.2, 99.1, 20.3, 17.9],
}


@pytest.fixture
def features():
    # Negative numbers too: an empty bin gives 0 and must not be mistaken for a maximum.
    return torch.randn(3, 2, 9, 11) - 0.5


def regions():
    rois = list(ROIS.values())
    return rois, [i % 3 for i in range(len(rois))]


def pooled(op, features, rois, image_index, *args):
    dtype = torch.promote_types(features.dtype, torch.float32)
    return op(features, torch.tensor(rois, dtype=dtype).reshape(-1, 4), torch.tensor(image_index).long(), *args)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_roi_pool_equals_the_literal_loop(features, size):
    rois, image_index = regions()
    expected = roi_pool_literal(features, rois, image_index, size, SCALE)
    assert torch.equal(pooled(ops.roi_pool, features, rois, image_index, size, SCALE), expected)
    assert (expected == 0).any()


def test_roi_pool_rounds_half_a_cell_away_from_zero():
    row = torch.arange(8.0)[None, None, None, :]  # each cell holds its own number

    def last_cell(x):
        return pooled(ops.roi_pool, row, [[0, 0, x, 0]], [0], 1, SCALE).item()

    # 0.5 → 1, 1.5 → 2, 2.5 → 3, 3.5 → 4; rounding to even would give 0, 2, 2, 4
    assert [last_cell(16 * cells) for cells in (0.5, 1.5, 2.5, 3.5)] == [1, 2, 3, 4]
    assert [last_cell(16 * cells - 0.1) for cells in (0.5, 1.5, 2.5, 3.5)] == [0, 1, 2, 3]
    # A box clipped to a side of 600 pixels ends at 37.5 cells.
    row = torch.arange(40.0)[None, None, None, :]
    assert last_cell(600.0) == 38


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
def test_roi_align_equals_the_literal_loop(features, sampling_ratio, aligned):
    rois, image_index = regions()
    expected = roi_align_literal(features, rois, image_index, 3, SCALE, sampling_ratio, aligned)
    result = pooled(ops.roi_align, features, rois, image_index, 3, SCALE, sampling_ratio, aligned)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_roi_align_of_a_plane_that_rises_evenly_reads_the_bins_centres():
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    plane = (3 * y + x)[None, None]
    result = pooled(ops.roi_align, plane, [[64.0, 80, 192, 208]], [0], 4, SCALE)
    # Cells 4 to 12 and 5 to 13 in four bins of two cells; a cell's centre lies at its number plus ½.
    centres = torch.arange(4) * 2 + 1 - 0.5
    torch.testing.assert_close(result[0, 0], 3 * (5 + centres)[:, None] + 4 + centres)


@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
def test_no_region(features, op):
    features.requires_grad_()
    result = pooled(op, features, [], [], 7, SCALE)
    assert result.shape == (0, 2, 7, 7)
    result.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_keep_the_precision_of_the_boxes(op, dtype):
    # At pixel 616 bfloat16 knows multiples of 4 only; the corners below would move by a cell.
    features = (torch.arange(50.0) % 7)[None, None, None, :].expand(1, 2, 3, 50)
    rois = [[601.3, 1, 633.7, 40], [617.9, 1, 663.9, 40], [615.9, 1, 663.9, 40]]
    expected = pooled(op, features, rois, [0, 0, 0], 2, SCALE)
    result = pooled(op, features.to(dtype), rois, [0, 0, 0], 2, SCALE)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected, rtol=2e-2, atol=0)
    rounded = torch.tensor(rois).bfloat16().tolist()
    assert not torch.allclose(pooled(op, features, rounded, [0, 0, 0], 2, SCALE), expected, rtol=2e-2)


@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
def test_a_float64_map_is_pooled_in_float64(features, op):
    features = features.double() + torch.rand(features.shape).double() * 1e-9  # what float32 would lose
    rois, image_index = regions()
    literal = roi_pool_literal if op is ops.roi_pool else roi_align_literal
    settings = () if op is ops.roi_pool else (2, True)
    expected = literal(features, rois, image_index, 2, SCALE, *settings)
    result = pooled(op, features, rois, image_index, 2, SCALE, *settings)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
def test_gradients_equal_numeric_ones(op):
    features = torch.randperm(2 * 2 * 4 * 5).double().reshape(2, 2, 4, 5).requires_grad_()  # no ties
    rois = [[3.0, 5, 70, 60], [8, 8, 40, 24], [-30, 20, 30, 90], [16, 16, 16, 16], [500, 500, 600, 600]]
    assert torch.autograd.gradcheck(lambda x: pooled(op, x, rois, [0, 1, 1, 0, 1], 3, SCALE), features)


@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
def test_memory_format_does_not_matter(features, op):
    rois, image_index = regions()
    last = features.to(memory_format=torch.channels_last)
    expected = pooled(op, features, rois, image_index, 3, SCALE)
    assert torch.equal(pooled(op, last, rois, image_index, 3, SCALE), expected)


# ------------------------------------------------------------ several levels

LEVELS = [(12, 14), (6, 7), (3, 4)]
LEVEL_SCALES = [1 / 8, 1 / 16, 1 / 32]


def of_levels(dtype=torch.float32, channels=3):
    """Maps of three levels, regions, their images and their levels, one of which has no region."""
    maps = [torch.randn(2, channels, *shape).to(dtype) for shape in LEVELS]
    corner = torch.rand(9, 2) * 80 - 10
    rois = torch.cat([corner, corner + torch.rand(9, 2) * 60], 1).to(torch.promote_types(dtype, torch.float32))
    return maps, rois, torch.arange(9) % 2, torch.tensor([0, 2, 0, 2, 2, 0, 0, 2, 0])


@pytest.mark.parametrize("served", [True, False], ids=["own", "torchvision"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("ratio, aligned, stride", [(0, True, 1), (2, False, 1), (0, True, 2)])
def test_roi_align_of_levels_is_that_of_each_region_s_own(dtype, ratio, aligned, stride, served, monkeypatch):
    if not served:
        monkeypatch.setattr(ops, "_served", lambda x: False)
    maps, rois, index, level = of_levels(dtype)
    result = ops.roi_align_levels(maps, rois, index, level, 3, LEVEL_SCALES, ratio, aligned, stride)
    assert result.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
    for r, n in enumerate(level.tolist()):
        one = (rois[r : r + 1], index[r : r + 1], 3, LEVEL_SCALES[n], ratio, aligned, stride)
        assert torch.equal(result[r : r + 1], ops.roi_align(maps[n], *one))


@pytest.mark.parametrize("served", [True, False], ids=["own", "torchvision"])
def test_gradients_of_levels_equal_numeric_ones(served, monkeypatch):
    if not served:
        monkeypatch.setattr(ops, "_served", lambda x: False)
    maps, rois, index, level = of_levels(torch.float64, 1)
    maps = [map_.requires_grad_() for map_ in maps]
    assert torch.autograd.gradcheck(
        lambda *own: ops.roi_align_levels(own, rois, index, level, 2, LEVEL_SCALES, 2), maps
    )


def test_no_region_of_any_level():
    maps, *_ = of_levels()
    nothing = torch.zeros(0, dtype=torch.int64)
    assert ops.roi_align_levels(maps, torch.zeros(0, 4), nothing, nothing, 7, LEVEL_SCALES).shape == (0, 3, 7, 7)


# ------------------------------------------------------------ non-maximum suppression


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_nms_equals_the_greedy_loop(random_boxes, threshold):
    boxes = random_boxes(120)
    scores = torch.randint(0, 30, (120,)) / 30  # with ties: the first box wins
    expected = nms_literal(boxes.tolist(), scores.tolist(), threshold)
    assert ops.nms(boxes, scores, threshold).tolist() == expected
    assert len(expected) < 120 or threshold == 1.0


def test_nms_keeps_a_box_whose_overlap_is_the_threshold():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU ½
    assert ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.49).tolist() == [0]


def test_nms_of_equal_boxes_keeps_the_first_of_the_best():
    boxes = torch.tensor([[1.0, 2, 30, 40]] * 5)
    assert ops.nms(boxes, torch.full((5,), 0.5), 0.5).tolist() == [0]
    assert ops.nms(boxes, torch.tensor([0.1, 0.5, 0.9, 0.9, 0.2]), 0.5).tolist() == [2]


def test_nms_of_nothing():
    empty = torch.zeros(0, 4)
    assert ops.nms(empty, torch.zeros(0), 0.5).tolist() == []
    kept = ops.batched_nms(empty, torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5)
    assert kept.tolist() == [] and kept.dtype == torch.int64


@pytest.mark.parametrize("count, classes, shift", [(150, 4, 0), (150, 4, -60), (150, 80, 2000), (1100, 3, -60)])
def test_batched_nms_is_nms_within_each_class(random_boxes, count, classes, shift):
    """With negative coordinates and with over 4000 numbers, where torchvision's kernel takes another way."""
    boxes, labels = random_boxes(count) + shift, torch.randint(0, classes, (count,))
    scores = torch.randperm(count) / count
    expected = []
    for label in range(classes):
        own = (labels == label).nonzero()[:, 0]
        expected += own[ops.nms(boxes[own], scores[own], 0.3)].tolist()
    expected.sort(key=lambda i: -scores[i])
    assert ops.batched_nms(boxes, scores, labels, 0.3).tolist() == expected


def test_batched_nms_never_mixes_classes():
    boxes = torch.tensor([[5.0, 5, 50, 50]] * 3)
    scores = torch.tensor([0.2, 0.9, 0.5])
    assert ops.batched_nms(boxes, scores, torch.tensor([0, 1, 2]), 0.1).tolist() == [1, 2, 0]
    # Moved apart by a class, these two would meet if coordinates below zero were not taken care of.
    apart = torch.tensor([[0.0, 0, 100, 100], [-101, -101, -1, -1]])
    assert ops.batched_nms(apart, scores[1:], torch.tensor([0, 1]), 0.1).tolist() == [0, 1]


def test_the_loops_agree_with_each_other():
    """Two boxes of IoU ⅓, so that the twins themselves are held to a number worked out by hand."""
    a, b = [0, 0, 10, 10], [5, 0, 15, 10]
    assert iou_literal(a, b) == pytest.approx(1 / 3)
    assert nms_literal([a, b], [0.5, 0.9], 0.33) == [1]
    assert nms_literal([a, b], [0.5, 0.9], 0.34) == [1, 0]


# The compiled operators

compiled = pytest.mark.skipif("cpu" not in library.DEVICES, reason="the operators were not compiled here")


def wild_regions(count: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Regions of two images of 160×128 pixels, some of them beyond the border, without area, or no numbers."""
    corner = torch.rand(count, 2) * 140 - 20
    rois = torch.cat([corner, corner + torch.rand(count, 2) * 90], 1)
    rois[1] = torch.tensor([400.0, 400.0, 500.0, 500.0])
    rois[2, 2:] = rois[2, :2]
    rois[3, 0] = float("nan")
    rois[4] = torch.tensor([-1e30, -1e30, 1e30, 1e30])
    return rois, torch.randint(0, 2, (count,))


@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("size", [7, 14])
def test_a_stride_leaves_bins_out(op, size, stride):
    features, (rois, index) = torch.randn(2, 5, 10, 8), wild_regions()
    whole = op(features, rois, index, size, 1 / 16)
    some = op(features, rois, index, size, 1 / 16, stride=stride)
    torch.testing.assert_close(some, whole[:, :, ::stride, ::stride], equal_nan=True)


@compiled
@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
def test_regions_that_are_no_boxes_give_zeros(op):
    features, (rois, index) = torch.randn(2, 5, 10, 8), wild_regions()
    assert (op(features, rois, index, 7, 1 / 16)[[1, 3]] == 0).all()


@compiled
@pytest.mark.parametrize("channels", [1, 16, 63, 64, 130])
@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
def test_bfloat16_is_float32_rounded(op, channels):
    features, (rois, index) = torch.randn(2, channels, 10, 8).bfloat16(), wild_regions()
    exact = op(features.float(), rois, index, 7, 1 / 16)
    assert torch.equal(op(features, rois, index, 7, 1 / 16), exact.bfloat16())


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["roi_align", "levels", "roi_pool", "nms"])
def test_the_registrations_are_right(name, dtype):
    """Schema, fake tensors, autograd, torch.compile with dynamic shapes: torch's own checks."""
    features, (rois, index) = torch.randn(2, 5, 10, 8).to(dtype), wild_regions()
    rois[3, 0] = 0  # the checks compare results, and nan differs from itself
    rest = {
        "roi_align": ([features.requires_grad_()], rois, index, None, 7, [1 / 16], 0, True, 1),
        "levels": ([features.requires_grad_()] * 2, rois, index, index, 7, [1 / 16, 1 / 16], 2, False, 2),
        "roi_pool": (features.requires_grad_(), rois, index, 7, 1 / 16, 1),
        "nms": (rois, torch.rand(9), index, 0.5, 3),
    }
    operator = getattr(torch.ops.resdet, "roi_align" if name == "levels" else name).default
    torch.library.opcheck(operator, rest[name])


@compiled
@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
def test_there_is_no_second_derivative(op):
    features, (rois, index) = torch.randn(2, 5, 10, 8, requires_grad=True), wild_regions()
    (gradient,) = torch.autograd.grad(
        op(features, rois, index, 7, 1 / 16).square().sum(), features, create_graph=True
    )
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()


@compiled
@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
def test_gradients_do_not_depend_on_the_threads(op):
    features, (rois, index) = torch.randn(2, 70, 10, 8, requires_grad=True), wild_regions()
    upstream = torch.randn(9, 70, 7, 7)
    gradients = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        gradients += torch.autograd.grad(op(features, rois, index, 7, 1 / 16), features, upstream)
    torch.set_num_threads(1)
    assert torch.equal(*gradients)


@compiled
@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
@pytest.mark.parametrize(
    "rois, index, message",
    [
        (torch.zeros(2, 4), torch.tensor([0, 2]), "image index"),
        (torch.zeros(2, 5), torch.tensor([0, 1]), r"\(R, 4\)"),
        (torch.zeros(2, 4), torch.tensor([0]), "one image index for each"),
        (torch.zeros(2, 4), torch.tensor([0, 1], dtype=torch.int32), "int64"),
    ],
)
def test_wrong_regions_are_refused(op, rois, index, message):
    with pytest.raises(RuntimeError, match=message):
        op(torch.zeros(2, 3, 4, 4), rois, index, 7, 1 / 16)


@pytest.mark.parametrize("max_output", [0, 1, 5, 1000])
def test_a_limited_suppression_is_the_start_of_the_whole(max_output):
    corner = torch.rand(300, 2) * 100
    boxes = torch.cat([corner, corner + 10 + torch.rand(300, 2) * 40], 1)
    scores, labels = torch.rand(300), torch.randint(0, 4, (300,))
    assert torch.equal(ops.nms(boxes, scores, 0.5, max_output), ops.nms(boxes, scores, 0.5)[:max_output])
    whole = ops.batched_nms(boxes, scores, labels, 0.5)
    assert torch.equal(ops.batched_nms(boxes, scores, labels, 0.5, max_output), whole[:max_output])
    assert len(whole) > 20


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count, spread", [(0, 1), (1, 1), (500, 50), (3000, 400), (700, 0)])
def test_suppression_equals_torchvision(count, spread, dtype):
    corner = torch.rand(count, 2) * spread
    boxes = torch.cat([corner, corner + torch.rand(count, 2) * 40], 1).to(dtype)
    scores = (torch.rand(count) * 50).round().to(dtype)  # ties keep their order
    for threshold in (0.0, 0.3, 0.7, 1.0):
        order = scores.argsort(descending=True, stable=True)
        expected = order[torchvision.ops.nms(boxes[order], -torch.arange(count).to(dtype), threshold)]
        assert torch.equal(ops.nms(boxes, scores, threshold), expected)


@compiled
@pytest.mark.parametrize("shape", [(2, 0, 5, 5), (2, 3, 0, 0), (2, 3, 0, 4), (2, 3, 4, 0)])
@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
def test_pooling_of_a_map_without_channels_or_cells_gives_zeros(op, shape):
    features = torch.zeros(shape, requires_grad=True)
    result = op(features, torch.tensor([[0.0, 0, 50, 50], [300, 300, 9, 9]]), torch.tensor([0, 1]), 2, SCALE)
    assert torch.equal(result, torch.zeros(2, shape[1], 2, 2))
    result.sum().backward()
    assert features.grad.shape == shape


@compiled
def test_a_nan_between_the_samples_of_a_wide_bin_does_not_count():
    features = torch.ones(1, 1, 1, 16)
    features[..., 7] = float("nan")  # samples at 3.5 and 11.5 read cells 3, 4, 11 and 12
    wide = torch.tensor([[0.0, 0, 256, 16]])
    assert ops.roi_align(features, wide, torch.tensor([0]), 1, SCALE, 2).item() == 1
    features[..., 4] = float("nan")
    assert ops.roi_align(features, wide, torch.tensor([0]), 1, SCALE, 2).isnan()


@compiled
def test_roi_pooling_s_gradient_refuses_cells_of_another_type_or_map():
    gradient, rois = torch.ones(1, 3, 2, 2), torch.tensor([[0.0, 0, 60, 60]])
    arguments = (rois, torch.tensor([0]), [1, 3, 4, 4], 2, SCALE, 1)
    with pytest.raises(RuntimeError, match="int32"):
        library.OPS.roi_pool_backward(gradient, torch.zeros(1, 3, 2, 2).long(), *arguments)
    for cell in (16, 1 << 30, -2):
        with pytest.raises(RuntimeError, match="not on the feature map"):
            library.OPS.roi_pool_backward(gradient, torch.full((1, 3, 2, 2), cell).int(), *arguments)


@compiled
def test_levels_that_there_are_not_are_refused():
    maps, rois, index, level = of_levels()
    for wrong in (level + 1, level - 1):
        with pytest.raises(RuntimeError, match="of no level"):
            ops.roi_align_levels(maps, rois, index, wrong, 3, LEVEL_SCALES)
    with pytest.raises(RuntimeError, match="a scale for each level"):
        ops.roi_align_levels(maps, rois, index, level, 3, LEVEL_SCALES[:2])
    for wrong in (level[:-1], level.int(), level.float()):
        with pytest.raises(RuntimeError, match="one int64 level for each region"):
            ops.roi_align_levels(maps, rois, index, wrong, 3, LEVEL_SCALES)
    with pytest.raises(RuntimeError, match="same images, channels"):
        ops.roi_align_levels([maps[0], maps[1][:, :2], maps[2]], rois, index, level, 3, LEVEL_SCALES)


@compiled
def test_too_many_samples_are_refused():
    with pytest.raises(RuntimeError, match="at most 1024"):
        ops.roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4), torch.tensor([0]), 2, SCALE, 1 << 40)


def test_operators_of_another_gpu_architecture_are_left_aside(monkeypatch, caplog):
    built_for = SimpleNamespace(runs_on_gpu=lambda index: index == 1)
    monkeypatch.setattr(library, "OPS", built_for)
    monkeypatch.setattr(library, "DEVICES", {"cpu", "cuda"})
    library.runs_on_gpu.cache_clear()
    served = [ops._served(SimpleNamespace(device=torch.device("cuda", index))) for index in (0, 0, 1)]
    library.runs_on_gpu.cache_clear()
    assert served == [False, False, True]
    assert caplog.text.count("not compiled for GPU 0") == 1


def test_the_module_says_what_was_compiled(capsys):
    runpy.run_module("resdet.ops", run_name="__main__")
    out = capsys.readouterr().out
    assert ("own operators" in out) == ("cpu" in library.DEVICES) and torch.__version__ in out


# ------------------------------------------------------------ GPU


def gpu_test(function):
    """A test that runs where there is a GPU."""
    skipped = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    return pytest.mark.gpu(skipped(function))


@gpu_test
@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
@pytest.mark.parametrize("size, stride", [(7, 1), (14, 2)])
@pytest.mark.parametrize("channels", [1, 16, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_pooling_on_the_gpu_equals_the_cpu(op, size, stride, channels, dtype):
    maps, (rois, index) = torch.randn(2, channels, 10, 8).to(dtype), wild_regions(40)
    results = []
    for device in ("cpu", "cuda"):
        # float16 counts in float32 on the CPU
        x = maps.to(device, torch.float32 if device == "cpu" and dtype == torch.float16 else dtype).requires_grad_()
        y = op(x, rois.to(device), index.to(device), size, SCALE, stride=stride)
        torch.manual_seed(0)
        upstream = torch.randn(y.shape).to(dtype)
        y.backward(upstream.to(device, y.dtype))
        results.append((y.detach().cpu().double(), x.grad.cpu().double()))
    exact = dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(*results, rtol=1e-4 if exact else 2e-2, atol=1e-4 if exact else 5e-2)


@gpu_test
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_levels_on_the_gpu_equal_the_cpu(dtype):
    maps, rois, index, level = of_levels(dtype, 32)
    results = []
    for device in ("cpu", "cuda"):
        own = [map_.to(device, copy=True).requires_grad_() for map_ in maps]
        y = ops.roi_align_levels(own, rois.to(device), index.to(device), level.to(device), 7, LEVEL_SCALES)
        y.double().square().sum().backward()
        results.append([y.detach().cpu().double(), *(map_.grad.cpu().double() for map_ in own)])
    tolerance = 5e-2 if dtype == torch.bfloat16 else 1e-3
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@gpu_test
@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
def test_gradients_on_the_gpu_are_the_same_every_time(op):
    maps, (rois, index) = torch.randn(2, 64, 10, 8).cuda().requires_grad_(), wild_regions(300)
    y = op(maps, rois.cuda(), index.cuda(), 7, SCALE)
    upstream = torch.randn_like(y)
    first, second = (torch.autograd.grad(y, maps, upstream, retain_graph=True)[0] for _ in range(2))
    assert "cuda" not in library.DEVICES or torch.equal(first, second)


@gpu_test
@pytest.mark.parametrize("max_output", [None, 0, 40])
@pytest.mark.parametrize("count", [0, 1, 64, 65, 5000])
def test_nms_on_the_gpu_equals_the_cpu(random_boxes, count, max_output):
    boxes, labels, scores = random_boxes(count), torch.randint(0, 5, (count,)), torch.randperm(count) / (count or 1)
    on_cpu = ops.nms(boxes, scores, 0.5, max_output)
    assert torch.equal(ops.nms(boxes.cuda(), scores.cuda(), 0.5, max_output).cpu(), on_cpu)
    on_cpu = ops.batched_nms(boxes, scores, labels, 0.5, max_output)
    assert torch.equal(ops.batched_nms(boxes.cuda(), scores.cuda(), labels.cuda(), 0.5, max_output).cpu(), on_cpu)


built_for_gpus = pytest.mark.skipif(
    "cuda" not in library.DEVICES, reason="the CUDA operators were not compiled here"
)


@gpu_test
@built_for_gpus
def test_tensors_elsewhere_are_refused_on_the_gpu():
    maps, (rois, index), scores = torch.randn(2, 8, 10, 8).cuda(), wild_regions(), torch.rand(9)
    for op in (ops.roi_align, ops.roi_pool):
        for wrong in ((rois, index.cuda()), (rois.cuda(), index)):
            with pytest.raises(RuntimeError, match="same GPU"):
                op(maps, *wrong, 7, SCALE)
    with pytest.raises(RuntimeError, match="same GPU"):
        ops.nms(rois.cuda(), scores, 0.5)
    with pytest.raises(RuntimeError, match="same GPU"):
        ops.batched_nms(rois.cuda(), scores.cuda(), index, 0.5)


@gpu_test
@pytest.mark.parametrize("op", [ops.roi_pool, ops.roi_align])
def test_a_map_may_start_anywhere_in_the_gpu_s_memory(op):
    maps, (rois, index) = torch.randn(2, 10, 8, 8).cuda(), wild_regions()
    view = torch.empty(maps.numel() + 1, device="cuda")[1:].view_as(maps).copy_(maps).permute(0, 3, 1, 2)
    whole = maps.permute(0, 3, 1, 2).contiguous()
    found, expected = (op(x, rois.cuda(), index.cuda(), 7, SCALE) for x in (view, whole))
    torch.testing.assert_close(found, expected, equal_nan=True)


@gpu_test
@built_for_gpus
def test_warping_many_regions_takes_little_memory_beside_its_result():
    image, corner = torch.randn(1, 3, 600, 1000).cuda(), torch.rand(2000, 2).cuda() * 500
    rois = torch.cat([corner, corner + 90], 1)
    torch.cuda.reset_peak_memory_stats()
    warped = ops.roi_align(image, rois, torch.zeros(2000, dtype=torch.int64).cuda(), 224, 1.0)
    assert torch.cuda.max_memory_allocated() < warped.numel() * 4 + (1 << 28)
