"""resdet.ops: what networks are made of on a CPU, against literal loops and torch."""

import pytest
import torch
import torch.nn.functional as F
from reference import convolution_literal

from resdet import ops
from resdet.models.layers.conv import Conv2d
from resdet.ops import library

compiled = pytest.mark.skipif("cpu" not in library.DEVICES, reason="the operators were not compiled here")
tiles = pytest.mark.skipif(not ops.has_tiles(), reason="this processor has no tile unit (AMX)")
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


SHAPES = [  # maps, input and output channels, height, width, kernel, stride
    (3, 16, 16, 5, 7, 3, 1),
    (2, 16, 32, 33, 32, 3, 2),
    (1, 32, 64, 9, 11, 3, 2),
    (9, 64, 48, 8, 8, 3, 1),
    (2, 144, 80, 7, 7, 3, 1),
    (2, 64, 16, 14, 15, 1, 1),
    (3, 16, 64, 9, 9, 1, 2),
    (4, 16, 16, 1, 1, 3, 1),
    (1, 16, 16, 70, 90, 3, 1),
]


def conv_operands(count, inputs, outputs, height, width, kernel, stride):
    """bfloat16 maps, weights that bfloat16 holds exactly, and a gradient of the result."""
    x = torch.randn(count, inputs, height, width).bfloat16()
    weight = (torch.randn(outputs, inputs, kernel, kernel) * (inputs * kernel**2) ** -0.5).bfloat16().float()
    upstream = torch.randn(count, outputs, -(-height // stride), -(-width // stride)).bfloat16()
    return x, weight, upstream


@tiles
@pytest.mark.parametrize("shape", SHAPES[:6])
def test_the_convolution_equals_the_literal_one(shape):
    x, weight, _ = conv_operands(*shape)
    expected = convolution_literal(x, weight, shape[-1])
    torch.testing.assert_close(ops.conv2d(x, weight, shape[-1]).double(), expected, rtol=1e-2, atol=1e-2)


@tiles
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_convolution_and_its_gradients_equal_torch_s(shape, channels_last):
    x, weight, upstream = conv_operands(*shape)
    if channels_last:
        x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
    kernel, stride = shape[-2:]
    exact = [t.double().requires_grad_() for t in (x, weight)]
    expected = F.conv2d(*exact, stride=stride, padding=kernel // 2)
    given = [t.clone().requires_grad_() for t in (x, weight)]
    result = ops.conv2d(*given, stride)
    assert result.dtype == torch.bfloat16 and result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), expected, rtol=1e-2, atol=1e-2)
    for_x, for_weight = torch.autograd.grad(result, given, upstream)
    exact_x, exact_weight = torch.autograd.grad(expected, exact, upstream.double())
    torch.testing.assert_close(for_x.double(), exact_x, rtol=1e-2, atol=2e-2)
    torch.testing.assert_close(for_weight.double(), exact_weight, rtol=1e-4, atol=1e-4)


@tiles
def test_the_convolution_of_random_shapes_equals_torch_s():
    generator = torch.Generator().manual_seed(0)

    def draw(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    for _ in range(40):
        kernel, stride = (1, 3)[draw(0, 2)], draw(1, 4)
        shape = (draw(1, 6), 16 * draw(1, 7), 16 * draw(1, 7), draw(1, 25), draw(1, 25), kernel, stride)
        x, weight, upstream = conv_operands(*shape)
        x.requires_grad_()
        weight.requires_grad_()
        exact = F.conv2d(x.double(), weight.double(), stride=stride, padding=kernel // 2)
        result = ops.conv2d(x, weight, stride)
        torch.testing.assert_close(result.double(), exact, rtol=1e-2, atol=1e-2)
        gradients = torch.autograd.grad(result, (x, weight), upstream)
        expected = torch.autograd.grad(exact, (x, weight), upstream.double())
        torch.testing.assert_close(gradients[0].float(), expected[0].float(), rtol=1e-2, atol=3e-2)
        torch.testing.assert_close(gradients[1], expected[1], rtol=1e-4, atol=1e-4)


@tiles
def test_the_weights_gradient_does_not_depend_on_the_threads():
    x, weight, upstream = conv_operands(9, 80, 48, 8, 8, 3, 1)
    weight.requires_grad_()
    gradients = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        gradients += torch.autograd.grad(ops.conv2d(x, weight, 1), weight, upstream)
    torch.set_num_threads(1)
    assert torch.equal(*gradients)


@tiles
def test_nothing_that_is_not_finite_spreads_beyond_its_image():
    x, weight, _ = conv_operands(3, 16, 16, 6, 6, 3, 1)
    clean = ops.conv2d(x, weight, 1)
    x[1, :, 5, 5] = float("nan")
    result = ops.conv2d(x, weight, 1)
    assert torch.equal(result[0], clean[0]) and torch.equal(result[2], clean[2]) and result[1].isnan().any()


@tiles
@pytest.mark.parametrize(
    "x, weight, message",
    [
        (torch.zeros(1, 16, 4, 4), torch.zeros(16, 16, 3, 3), "in bfloat16"),
        (torch.zeros(1, 16, 4, 4).bfloat16(), torch.zeros(16, 16, 3, 3).bfloat16(), "in float32"),
        (torch.zeros(1, 16, 4, 4).bfloat16(), torch.zeros(16, 32, 3, 3), "channels are not those"),
        (torch.zeros(1, 16, 4, 4).bfloat16(), torch.zeros(8, 16, 3, 3), "sixteens"),
        (torch.zeros(1, 16, 4, 4).bfloat16(), torch.zeros(16, 16, 5, 5), "1×1 or 3×3"),
        (torch.zeros(16, 4, 4).bfloat16(), torch.zeros(16, 16, 3, 3), "N, C, H, W"),
    ],
)
def test_wrong_operands_of_a_convolution_are_refused(x, weight, message):
    with pytest.raises(RuntimeError, match=message):
        ops.conv2d(x, weight, 1)


@tiles
def test_gradients_of_another_shape_are_refused():
    x, weight = torch.zeros(2, 16, 5, 5).bfloat16(), torch.zeros(32, 16, 3, 3)
    for shape in [(2, 32, 5, 5), (1, 32, 3, 3), (2, 32, 3, 2)]:
        gradient = torch.zeros(shape).bfloat16()
        with pytest.raises(RuntimeError, match="shape of the convolution's result"):
            library.OPS.conv2d_weight_gradient(gradient, x, 3, 2)
        if shape[0] == 2:
            with pytest.raises(RuntimeError, match="shape of the convolution's result"):
                library.OPS.conv2d_input_gradient(gradient, weight, 5, 5, 2)
    with pytest.raises(RuntimeError, match="sixteens"):
        library.OPS.conv2d_weight_gradient(torch.zeros(2, 8, 3, 3).bfloat16(), x, 3, 2)


@tiles
def test_the_convolution_of_nothing():
    weight = torch.randn(32, 16, 3, 3, requires_grad=True)
    x = torch.zeros(0, 16, 7, 7, dtype=torch.bfloat16, requires_grad=True)
    result = ops.conv2d(x, weight, 2)
    result.sum().backward()
    assert result.shape == (0, 32, 4, 4) and x.grad.shape == x.shape and (weight.grad == 0).all()
    for shape in [(2, 16, 5, 0), (2, 16, 0, 5), (2, 0, 5, 5)]:
        for kernel in (1, 3):
            x = torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True)
            weight = torch.randn(32, shape[1], kernel, kernel, requires_grad=True)
            ops.conv2d(x, weight, 1).sum().backward()
            assert x.grad.shape == shape and (weight.grad == 0).all()


@tiles
def test_a_convolution_trains_on_the_tile_unit_where_its_channels_allow():
    for inputs, outputs, kernel, used in [
        (16, 32, 3, True),
        (32, 16, 1, True),
        (3, 16, 3, False),
        (16, 16, 7, False),
    ]:
        conv, x = Conv2d(inputs, outputs, kernel), torch.randn(2, inputs, 9, 9)
        with torch.autocast("cpu", torch.bfloat16):
            y = conv(x)
        assert y.dtype == torch.bfloat16 and ("resdet" in y.grad_fn.name()) == used
        assert "resdet" not in conv(x).grad_fn.name()  # float32 asked for
        torch.testing.assert_close(y.float(), conv(x), rtol=2e-2, atol=2e-2)


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


@tiles
def test_the_registration_of_the_convolution_is_right():
    x, weight, upstream = conv_operands(2, 16, 32, 6, 5, 3, 2)
    torch.library.opcheck(torch.ops.resdet.conv2d.default, (x.requires_grad_(), weight.requires_grad_(), 2))
    (gradient,) = torch.autograd.grad(ops.conv2d(x, weight, 2), x, upstream, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()


# Winograd's convolution


@compiled
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(1, 16, 16, 1, 1), (2, 16, 48, 4, 4), (3, 32, 16, 7, 7), (1, 48, 32, 5, 18), (9, 16, 16, 13, 2)],
    ids=str,
)
def test_winograd_s_convolution_equals_torch_s(shape, channels_last, joined, relu):
    count, inputs, outputs, height, width = shape
    x, weight = torch.randn(count, inputs, height, width), torch.randn(outputs, inputs, 3, 3)
    bias, added = torch.randn(outputs), torch.randn(count, outputs, height, width)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    expected = expected + added.double() if joined else expected
    expected = expected.relu() if relu else expected
    if channels_last:
        x, added = (t.to(memory_format=torch.channels_last) for t in (x, added))
    terms = ops.winograd_weights(weight)
    result = ops.winograd(x, terms, bias, added if joined else None, relu)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-3)


@compiled
def test_winograd_s_convolution_works_in_chunks():
    """So many channels that the tiles of four images do not fit in one."""
    x, weight = torch.randn(4, 1024, 33, 30), torch.randn(16, 1024, 3, 3) / 100
    expected = F.conv2d(x, weight, padding=1)
    result = ops.winograd(x, ops.winograd_weights(weight), torch.zeros(16), None, False)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)


def test_winograd_s_weights_are_those_of_the_paper():
    """Of a filter that is one in its centre: the middle column of G, times itself."""
    weight = torch.zeros(16, 16, 3, 3)
    weight[0, 0, 1, 1] = 1
    middle = torch.tensor([0, -1 / 6, 1 / 6, 1 / 12, -1 / 12, 0])
    torch.testing.assert_close(ops.winograd_weights(weight)[:, 0, 0], torch.outer(middle, middle).flatten())


@compiled
@pytest.mark.parametrize(
    "x, terms, bias, added, message",
    [
        (torch.zeros(1, 16, 4, 4), torch.zeros(36, 32, 16), torch.zeros(16), None, r"\(36, C, K\)"),
        (torch.zeros(1, 8, 4, 4), torch.zeros(36, 8, 16), torch.zeros(16), None, "sixteens"),
        (torch.zeros(1, 16, 4, 4), torch.zeros(36, 16, 16), torch.zeros(8), None, "one bias"),
        (torch.zeros(1, 16, 4, 4).double(), torch.zeros(36, 16, 16), torch.zeros(16), None, "float32"),
        (
            torch.zeros(1, 16, 4, 4),
            torch.zeros(36, 16, 16),
            torch.zeros(16),
            torch.zeros(1, 16, 4, 3),
            "shape of the",
        ),
    ],
)
def test_wrong_operands_of_winograd_s_convolution_are_refused(x, terms, bias, added, message):
    with pytest.raises(RuntimeError, match=message):
        ops.winograd(x, terms, bias, added, True)


@compiled
def test_winograd_s_convolution_of_nothing_and_its_registration():
    terms, bias = torch.randn(36, 16, 32), torch.randn(32)
    assert ops.winograd(torch.zeros(0, 16, 5, 5), terms, bias, None, True).shape == (0, 32, 5, 5)
    assert ops.winograd(torch.zeros(2, 0, 5, 5), terms[:, :0], bias, None, False)[0, :, 1, 1].equal(bias)
    assert ops.winograd(torch.zeros(2, 0, 5, 5), terms[:, :0, :0], bias[:0], None, True).shape == (2, 0, 5, 5)
    x, added = torch.randn(2, 16, 5, 5), torch.randn(2, 32, 5, 5)
    torch.library.opcheck(library.OPS.winograd, (x, terms, bias, added, True))
