"""resdet.models.anchors against a literal loop and the paper's figures."""

import pytest
import torch
from reference import anchors_literal
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchorGenerator
from torchvision.models.detection.image_list import ImageList

from resdet.models.anchors import ANCHOR_OFFSETS, AnchorGenerator, base_anchors, grid_anchors

SCALES, RATIOS = (128, 256, 512), (0.5, 1, 2)


def test_nine_anchors_of_the_paper():
    base = base_anchors(SCALES, RATIOS)
    assert base.shape == (9, 4) and base.dtype == torch.float32
    assert torch.equal(base[:, :2], -base[:, 2:])  # centred on the origin
    width, height = (base[:, 2:] - base[:, :2]).unbind(1)
    # Ratio-major: three scales of the first ratio, then of the next.
    torch.testing.assert_close(height / width, torch.tensor([0.5] * 3 + [1.0] * 3 + [2.0] * 3))
    torch.testing.assert_close((width * height).sqrt(), torch.tensor([128.0, 256, 512] * 3))
    # Table 1 of Faster R-CNN: 128², 256², 512² at 2:1, 1:1, 1:2
    assert base[4].tolist() == [-128, -128, 128, 128]


@pytest.mark.parametrize("height, width, stride", [(3, 5, 16), (1, 1, 16), (2, 2, 8), (0, 4, 16)])
def test_grid_equals_the_literal_loop(height, width, stride):
    anchors = grid_anchors(base_anchors(SCALES, RATIOS), height, width, stride)
    assert anchors.shape == (height * width * 9, 4)
    expected = torch.tensor(anchors_literal(SCALES, RATIOS, height, width, stride)).reshape(-1, 4)
    torch.testing.assert_close(anchors, expected, rtol=1e-6, atol=1e-4)


def test_the_first_and_the_last_anchor_s_centre():
    anchors = grid_anchors(base_anchors((32,), (1,)), 4, 6, 16)
    assert anchors[0].tolist() == [8 - 16, 8 - 16, 8 + 16, 8 + 16]
    assert anchors[1].tolist() == [24 - 16, 8 - 16, 24 + 16, 8 + 16]  # the next column first
    assert anchors[-1].tolist() == [88 - 16, 56 - 16, 88 + 16, 56 + 16]


def test_anchors_at_the_cells_corners():
    base = base_anchors((32, 64), (0.5, 1))
    at_corners, at_centres = grid_anchors(base, 2, 3, 16, offset=0.0), grid_anchors(base, 2, 3, 16)
    torch.testing.assert_close(at_corners, at_centres - 8)
    assert at_corners[3].tolist() == [-32, -32, 32, 32]


def test_the_places_of_an_anchor_in_its_cell():
    """The centre, and detectron2's upper left corner."""
    base = base_anchors((32,), (1,))
    first = {name: grid_anchors(base, 1, 1, 16, offset)[0].tolist() for name, offset in ANCHOR_OFFSETS.items()}
    assert first == {"cell": [-8, -8, 24, 24], "corner": [-16, -16, 16, 16]}


def test_a_ratio_is_height_over_width():
    assert base_anchors((32,), (4,)).tolist() == [[-8, -32, 8, 32]]
    assert base_anchors((32, 64), (0.25,)).tolist() == [[-32, -8, 32, 8], [-64, -16, 64, 16]]


SHAPES = [(8, 12), (4, 6), (2, 3)]  # of an image of 32 × 48 pixels


def test_each_level_has_its_share_of_the_scales():
    generator = AnchorGenerator((8, 12, 16, 24, 32, 48), RATIOS, "corner", 3)
    levels = generator(SHAPES, [4, 8, 16])
    assert len(generator) == 6
    for scales, shape, stride, anchors in zip(
        ((8, 12), (16, 24), (32, 48)), SHAPES, (4, 8, 16), levels, strict=True
    ):
        assert torch.equal(anchors, grid_anchors(base_anchors(scales, RATIOS), *shape, stride, 0.0))


@pytest.mark.parametrize("shapes", [SHAPES, [(8, 12), (4, 6), (2, 3), (1, 2)]], ids=len)
def test_rounded_anchors_are_torchvision_s(shapes):
    """The last map of 1 × 2 cells has 32 pixels from row to row, and 24 from column to column."""
    scales = tuple(9 * 2**n for n in range(len(shapes)))
    theirs = TorchvisionAnchorGenerator(tuple((scale,) for scale in scales), (RATIOS,) * len(shapes))
    images = ImageList(torch.zeros(1, 3, 32, 48), [(32, 48)])
    (expected,) = theirs(images, [torch.zeros(1, 1, *shape) for shape in shapes])
    ours = AnchorGenerator(scales, RATIOS, "corner", len(shapes), rounded=True)
    assert torch.equal(torch.cat(ours(shapes, [4 * 2**n for n in range(len(shapes))])), expected)
