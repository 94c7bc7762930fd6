"""resdet.ops: what networks are made of on a CPU, against literal loops and torch."""

import pytest
import torch
import torch.nn.functional as F
from reference import batch_norm_literal, winograd_gradient_literal, winograd_weights_literal

from resdet import ops
from resdet.ops import library

compiled = pytest.mark.skipif("cpu" not in library.DEVICES, reason="the operators were not compiled here")
CHECKS = ("test_schema", "test_faketensor")  # there is no gradient to check
TYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.fixture(params=[pytest.param(True, marks=compiled), False], ids=["own", "torch"])
def kernels(request, monkeypatch):
    """Our own kernels, and what serves where they are not built."""
    monkeypatch.setattr(library, "DEVICES", {"cpu"} if request.param else set())


def maps(channels, dtype, count=1):
    tensors = [torch.randn(7, channels, 5, 6).to(dtype) for _ in range(count)]
    return tensors if count > 1 else tensors[0]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 3, 16, 48, 64, 100, 192])
@pytest.mark.parametrize("given", ["nothing", "gradient", "gradient and output"])
def test_channel_sums_equal_their_definition(given, channels, dtype):
    x, gradient, output = maps(channels, dtype, 3)
    x, pivot = x + 3, torch.full((channels,), 2.5)
    centered = x.double() - 2.5
    first = centered if given == "nothing" else gradient.double()
    if given == "gradient and output":
        first = first * (output > 0)
    result = ops.channel_sums(
        None if given == "nothing" else gradient, output if given == "gradient and output" else None, x, pivot
    )
    expected = torch.stack([first.sum((0, 2, 3)), (first * centered).sum((0, 2, 3))])
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 3, 16, 100, 192])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_added", [False, True])
def test_the_affine_map_and_its_gradient_equal_autograd(with_added, relu, channels, dtype):
    x, added, upstream = maps(channels, dtype, 3)
    scale, shift, slope, offset = torch.randn(4, channels, dtype=torch.promote_types(dtype, torch.float32))
    exact = [t.double().requires_grad_() for t in (x, added)]
    expected = exact[0] * scale.double()[:, None, None] + shift.double()[:, None, None]
    expected = expected + exact[1] if with_added else expected
    expected = expected.relu() if relu else expected
    y = ops.affine(x, added if with_added else None, scale, shift, relu)
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected.detach(), **tolerance)

    output = expected.detach().to(dtype) if relu else None  # rounding must not move the ReLU's border
    gradients = torch.autograd.grad(expected, exact[: 1 + with_added], upstream.double())
    for_x, for_added = ops.affine_gradient(upstream, output, None, scale, with_added=with_added)
    torch.testing.assert_close(for_x.double(), gradients[0], **tolerance)
    if with_added:
        torch.testing.assert_close(for_added.double(), gradients[1], **tolerance)
    for_x, _ = ops.affine_gradient(upstream, output, x, scale, slope, offset)
    expected = gradients[0] + x.double() * slope.double()[:, None, None] + offset.double()[:, None, None]
    torch.testing.assert_close(for_x.double(), expected, **tolerance)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", [(2, 0, 3, 3), (0, 5, 3, 3), (2, 5, 0, 3), (0, 0, 0, 0)])
def test_what_follows_a_convolution_of_nothing(shape):
    x, scale = torch.zeros(shape), torch.ones(shape[1])
    assert torch.equal(ops.channel_sums(None, None, x, scale), torch.zeros(2, shape[1]))
    assert ops.affine(x, x, scale, scale, True).shape == shape
    for_x, for_added = ops.affine_gradient(x, x, x, scale, scale, scale, True)
    assert for_x.shape == for_added.shape == shape


@pytest.mark.usefixtures("kernels")
def test_where_a_relu_gave_nan_the_gradient_goes_on():
    output, gradient = torch.tensor([float("nan"), 0.0, 2.0, -0.0]), torch.tensor([1.0, float("inf"), 3.0, 4.0])
    shape, one = (1, 1, 2, 2), torch.ones(1)
    for_x, for_added = ops.affine_gradient(gradient.view(shape), output.view(shape), None, one, with_added=True)
    assert for_x.flatten().tolist() == for_added.flatten().tolist() == [1, 0, 3, 0]
    sums = ops.channel_sums(gradient.view(shape), output.view(shape), torch.zeros(shape), torch.zeros(1))
    assert sums.flatten().tolist() == [4, 0]


@compiled
@pytest.mark.parametrize("dtype", TYPES)
def test_the_registrations_of_batch_normalisation_are_right(dtype):
    """Schema, fake tensors, torch.compile with dynamic shapes: torch's own checks."""
    x, gradient, output = maps(5, dtype, 3)
    scale, slope, offset = torch.randn(3, 5)
    check = torch.library.opcheck
    check(torch.ops.resdet.channel_sums.default, (gradient, output, x, scale))
    check(torch.ops.resdet.affine.default, (x, gradient, scale, slope, True))
    check(torch.ops.resdet.affine_gradient.default, (gradient, output, x, scale, slope, offset, True))
    check(torch.ops.resdet.affine_gradient.default, (gradient, None, None, scale, None, None, False))


# Batch normalisation in one operator


def batch_norm_operands(channels, dtype, joined):
    """x and what is added, γ, β and running statistics."""
    x, added = maps(channels, dtype, 2)
    own = torch.float64 if dtype == torch.float64 else torch.float32
    gamma, beta, mean = torch.randn(3, channels, dtype=own)
    return x * 2 + 1, added if joined else None, gamma, beta, mean, torch.rand(channels, dtype=own) + 0.5


@compiled
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 3, 16, 32, 48, 100])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("joined", [False, True])
def test_batch_normalisation_and_its_gradients_equal_the_literal_loop(joined, relu, channels, dtype):
    x, added, gamma, beta, *running = batch_norm_operands(channels, dtype, joined)
    exact = [None if t is None else t.double().requires_grad_() for t in (x, added, gamma, beta)]
    expected = batch_norm_literal(*exact, 1e-5, relu)
    before = [t.clone() for t in running]
    y, statistics = ops.batch_norm(x, added, gamma, beta, *running, 0.25, 1e-5, 100.0, relu)
    digits = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(y.double(), expected.detach(), **digits)
    var, mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    for row, true in zip(statistics[:3], (mean, var, (var + 1e-5).rsqrt()), strict=True):
        torch.testing.assert_close(row.double(), true, rtol=1e-5, atol=1e-5)
    count = x.numel() // channels
    for now, was, batch in zip(running, before, (mean, var * count / (count - 1)), strict=True):
        torch.testing.assert_close(now.double(), 0.75 * was.double() + 0.25 * batch, rtol=1e-5, atol=1e-5)

    upstream = torch.randn_like(x)
    wanted = [t for t in exact if t is not None]
    for_x, for_added, for_parameters = ops.batch_norm_gradient(
        upstream, y if joined and relu else None, x, statistics, relu, joined
    )
    found = [for_x, *[for_added] * joined, *for_parameters]
    true = torch.autograd.grad(expected, wanted, upstream.double())
    assert for_added.numel() == joined * x.numel()
    flips = (y <= 0) != (expected <= 0) if relu else torch.zeros_like(y, dtype=torch.bool)
    for ours, theirs in zip(found, true, strict=True):
        if dtype == torch.bfloat16:  # the numbers of which rounding decides the ReLU are few
            assert (ours.double() - theirs).abs().mean() < 2e-2 * theirs.abs().mean() + 1e-2 * flips.double().mean()
        else:
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-4)


@compiled
def test_batch_normalisation_of_one_value_or_none_leaves_the_running_statistics_alone():
    for shape in ((1, 5, 1, 1), (0, 5, 3, 3), (2, 5, 0, 3)):
        x, (gamma, mean), (beta, var) = torch.randn(shape), torch.randn(2, 5), torch.rand(2, 5)
        before = mean.clone(), var.clone()
        y, statistics = ops.batch_norm(x, x, gamma, beta, mean, var, 0.5, 1e-5, 100.0, True)
        assert y.shape == shape and mean.equal(before[0]) and var.equal(before[1])
        gradients = ops.batch_norm_gradient(y, y, x, statistics, True, True)
        assert gradients[0].shape == gradients[1].shape == shape and gradients[2].shape == (2, 5)


@compiled
def test_the_registration_of_batch_normalisation_in_one_operator_is_right():
    for joined, relu in ((True, True), (False, True), (True, False)):
        x, added, gamma, beta, *running = batch_norm_operands(16, torch.float32, joined)
        torch.library.opcheck(
            library.OPS.batch_norm, (x, added, gamma, beta, *running, 0.1, 1e-5, 100.0, relu), test_utils=CHECKS
        )
        y, statistics = ops.batch_norm(x, added, gamma, beta, *running, 0.1, 1e-5, 100.0, relu)
        torch.library.opcheck(
            library.OPS.batch_norm_gradient,
            (torch.randn_like(x), y if joined and relu else None, x, statistics, relu, joined),
            test_utils=CHECKS,
        )


@compiled
def test_running_statistics_of_another_type_are_refused():
    x, added, gamma, beta, mean, var = batch_norm_operands(16, torch.bfloat16, False)
    with pytest.raises(RuntimeError, match="type of the sums"):
        ops.batch_norm(x, added, gamma, beta, mean.bfloat16(), var, 0.1, 1e-5, 100.0, False)
    with pytest.raises(RuntimeError, match="one number for each channel"):
        ops.batch_norm(x, added, gamma, beta[1:], mean, var, 0.1, 1e-5, 100.0, False)
    with pytest.raises(RuntimeError, match="those of batch_norm"):
        ops.batch_norm_gradient(x, None, x, torch.zeros(4, 16), False, False)


# Winograd's convolution

SHAPES = [(1, 16, 16, 1, 1), (2, 16, 48, 4, 4), (3, 32, 16, 7, 7), (1, 48, 32, 5, 18), (9, 16, 16, 13, 2)]
FEW = {torch.float32: {"rtol": 1e-4, "atol": 1e-3}, torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2}}  # digits


def winograd_operands(shape, dtype, channels_last):
    """Maps, weights, bias and what is added, of (N, C, K, H, W)."""
    count, inputs, outputs, height, width = shape
    x, added = (torch.randn(count, c, height, width).to(dtype) for c in (inputs, outputs))
    if channels_last:
        x, added = (t.to(memory_format=torch.channels_last) for t in (x, added))
    return x, torch.randn(outputs, inputs, 3, 3), torch.randn(outputs), added


@compiled
@pytest.mark.parametrize("dtype", FEW)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_winograd_s_convolution_equals_torch_s(shape, channels_last, joined, relu, dtype):
    x, weight, bias, added = winograd_operands(shape, dtype, channels_last)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    expected = expected + added.double() if joined else expected
    expected = expected.relu() if relu else expected
    result = ops.winograd(x, ops.winograd_weights(weight), bias, added if joined else None, relu)
    assert result.is_contiguous(memory_format=torch.channels_last) and result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, **FEW[dtype])


@compiled
@pytest.mark.parametrize("dtype", FEW)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_winograd_s_gradients_equal_autograd(shape, channels_last, dtype):
    x, weight, _, upstream = winograd_operands(shape, dtype, channels_last)
    exact = [t.double().requires_grad_() for t in (x, weight)]
    for_x, for_weight = torch.autograd.grad(F.conv2d(*exact, padding=1), exact, upstream.double())
    found = ops.winograd_weight_gradient(upstream, x)
    assert found.shape == weight.shape and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), for_weight, **FEW[torch.float32])
    turned = ops.winograd_weights(weight, turned=True)
    found = ops.winograd(upstream, turned, torch.zeros(weight.shape[1]), None, False)
    torch.testing.assert_close(found.double(), for_x, **FEW[dtype])


@compiled
def test_winograd_s_convolution_works_in_chunks():
    """So many channels that the tiles of four images do not fit in one, and the last one has fewer."""
    x, weight = torch.randn(4, 1024, 33, 30), torch.randn(16, 1024, 3, 3) / 100
    expected = F.conv2d(x, weight, padding=1)
    result = ops.winograd(x, ops.winograd_weights(weight), torch.zeros(16), None, False)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)
    upstream = torch.randn_like(result) / 100
    expected = torch.nn.grad.conv2d_weight(x, weight.shape, upstream, padding=1)
    torch.testing.assert_close(ops.winograd_weight_gradient(upstream, x), expected, rtol=1e-3, atol=1e-3)


@compiled
@pytest.mark.parametrize("channels_last", [False, True])
def test_winograd_s_weights_are_those_of_the_paper(channels_last):
    """G g Gᵀ, of the filters as they are, and of those of the input's gradient."""
    weight = torch.randn(32, 16, 3, 3)
    laid = weight.to(memory_format=torch.channels_last) if channels_last else weight
    torch.testing.assert_close(ops.winograd_weights(laid), winograd_weights_literal(weight))
    backwards = weight.flip(2, 3).transpose(0, 1)
    torch.testing.assert_close(ops.winograd_weights(laid, turned=True), winograd_weights_literal(backwards))


@compiled
def test_winograd_s_gradient_of_the_weights_is_that_of_the_paper_s_sums():
    x, upstream = torch.randn(2, 16, 6, 5), torch.randn(2, 32, 6, 5)
    expected = winograd_gradient_literal(upstream, x)
    torch.testing.assert_close(ops.winograd_weight_gradient(upstream, x), expected, rtol=1e-4, atol=1e-4)


@compiled
def test_winograd_s_gradient_of_the_weights_does_not_depend_on_the_threads():
    x, upstream = torch.randn(5, 64, 30, 30), torch.randn(5, 64, 30, 30)
    found = [ops.winograd_weight_gradient(upstream, x)]
    torch.set_num_threads(3)
    try:
        found.append(ops.winograd_weight_gradient(upstream, x))
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-4)


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


@compiled
@pytest.mark.parametrize(
    "x, terms, bias, added, message",
    [
        (zeros(1, 16, 4, 4), zeros(36, 32, 16), zeros(16), None, r"\(36, C, K\)"),
        (zeros(1, 8, 4, 4), zeros(36, 8, 16), zeros(16), None, "sixteens"),
        (zeros(1, 16, 4, 4), zeros(36, 16, 16), zeros(8), None, "one bias"),
        (zeros(1, 16, 4, 4, dtype=torch.float64), zeros(36, 16, 16), zeros(16), None, "float32 or bfloat16"),
        (zeros(1, 16, 4, 4), zeros(36, 16, 16, dtype=torch.bfloat16), zeros(16), None, "must be float32"),
        (zeros(1, 16, 4, 4), zeros(36, 16, 16), zeros(16), zeros(1, 16, 4, 3), "shape of the"),
        (zeros(1, 16, 4, 4, dtype=torch.bfloat16), zeros(36, 16, 16), zeros(16), zeros(1, 16, 4, 4), "type of the"),
    ],
)
def test_wrong_operands_of_winograd_s_convolution_are_refused(x, terms, bias, added, message):
    with pytest.raises(RuntimeError, match=message):
        ops.winograd(x, terms, bias, added, True)


@compiled
@pytest.mark.parametrize("weight", [zeros(16, 16, 5, 5), zeros(16, 16, 3), zeros(16, 16, 3, 3).double()])
def test_winograd_s_weights_are_of_3x3_filters_in_float32(weight):
    with pytest.raises(RuntimeError, match=r"\(K, C, 3, 3\) in float32"):
        ops.winograd_weights(weight)


@compiled
@pytest.mark.parametrize(
    "gradient, x, message",
    [
        (zeros(1, 16, 4, 4), zeros(1, 16, 4, 5), r"\(N, K, H, W\)"),
        (zeros(2, 16, 4, 4), zeros(1, 16, 4, 4), r"\(N, K, H, W\)"),
        (zeros(1, 16, 4, 4), zeros(1, 16, 4), r"\(N, C, H, W\)"),
        (zeros(1, 16, 4, 4), zeros(1, 8, 4, 4), "sixteens"),
        (zeros(1, 16, 4, 4), zeros(1, 16, 4, 4).bfloat16(), "one type"),
        (zeros(1, 16, 4, 4).double(), zeros(1, 16, 4, 4).double(), "float32 or bfloat16"),
    ],
)
def test_wrong_operands_of_winograd_s_gradient_are_refused(gradient, x, message):
    with pytest.raises(RuntimeError, match=message):
        ops.winograd_weight_gradient(gradient, x)


@compiled
def test_winograd_s_convolution_of_nothing_and_its_registration():
    terms, bias = torch.randn(36, 16, 32), torch.randn(32)
    assert ops.winograd(zeros(0, 16, 5, 5), terms, bias, None, True).shape == (0, 32, 5, 5)
    assert ops.winograd(zeros(2, 0, 5, 5), terms[:, :0], bias, None, False)[0, :, 1, 1].equal(bias)
    assert ops.winograd(zeros(2, 0, 5, 5), terms[:, :0, :0], bias[:0], None, True).shape == (2, 0, 5, 5)
    assert ops.winograd_weights(zeros(16, 0, 3, 3)).shape == (36, 0, 16)
    for shape in ((0, 16, 5, 5), (2, 16, 0, 5), (2, 0, 5, 5)):
        gradient = ops.winograd_weight_gradient(torch.randn(shape[0], 32, *shape[2:]), torch.randn(shape))
        assert gradient.shape == (32, shape[1], 3, 3) and not gradient.any()
    x, added = torch.randn(2, 16, 5, 5), torch.randn(2, 32, 5, 5)
    torch.library.opcheck(library.OPS.winograd, (x, terms, bias, added, True))
    torch.library.opcheck(library.OPS.winograd_weights, (torch.randn(32, 16, 3, 3), True))
    torch.library.opcheck(library.OPS.winograd_weight_gradient, (added, x))
