"""Spatial pyramids, warped regions, and the pooler that chooses among them."""

import math

import pytest
import torch

from resdet import ops
from resdet.models.poolers import RoIPooler, pyramid_pool, warp
from resdet.types import FeatureMaps


@pytest.mark.parametrize("stride", [16, 8])
def test_the_pooler_pools_one_map_as_its_kind_says(random_boxes, stride):
    map_, rois, index = torch.randn(2, 3, 12, 16), random_boxes(6, 96, 128, 30), torch.arange(6) % 2
    kinds = {
        "pool": ops.roi_pool(map_, rois, index, 4, 1 / stride),
        "align": ops.roi_align(map_, rois, index, 4, 1 / stride, aligned=False),
        "align_v2": ops.roi_align(map_, rois, index, 4, 1 / stride, aligned=True),
        "pyramid": pyramid_pool(map_, rois, index, levels=(3, 1), scale=1 / stride),
        "warp": warp(map_, rois, index, size=4),
    }
    for kind, expected in kinds.items():
        pooler = RoIPooler(kind, 4, (3, 1))
        assert torch.equal(pooler(FeatureMaps([map_], [stride]), rois, index), expected)
        assert pooler.bins == (10 if kind == "pyramid" else 16)
        if kind in ("pool", "align", "align_v2"):
            some = pooler(FeatureMaps([map_], [stride]), rois, index, 2)
            torch.testing.assert_close(some, expected[:, :, ::2, ::2])


def test_a_pyramid_is_the_largest_value_of_each_bin_of_each_level(random_boxes):
    features, rois, image_index = torch.randn(2, 3, 12, 16), random_boxes(6, 96, 128, 30), torch.arange(6) % 2
    pooled = pyramid_pool(features, rois, image_index, levels=(4, 2, 1), scale=1 / 8)
    assert pooled.shape == (6, 3, 21)
    for region in range(6):
        x1, y1, x2, y2 = (math.floor(c / 8 + 0.5) for c in rois[region].tolist())
        height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        expected = []
        for n in (4, 2, 1):
            for row in range(n):
                for column in range(n):
                    top, bottom = y1 + math.floor(row * height / n), y1 + math.ceil((row + 1) * height / n)
                    left, right = x1 + math.floor(column * width / n), x1 + math.ceil((column + 1) * width / n)
                    part = features[image_index[region], :, max(top, 0) : bottom, max(left, 0) : right]
                    expected.append(part.amax((1, 2)) if part.numel() else torch.zeros(3))
        torch.testing.assert_close(pooled[region], torch.stack(expected, 1))


def test_a_warped_region_is_the_image_around_it(random_boxes):
    """At a size of 227, one output pixel for each of the image, with 16 of context at each side; zero beyond it."""
    image = torch.randn(1, 3, 300, 320)
    region = torch.tensor([[60.0, 40, 60 + 195, 40 + 195], [-5, -5, 190, 190]])
    warped = warp(image, region, torch.tensor([0, 0]), size=227)
    torch.testing.assert_close(warped[0], image[0, :, 24 : 24 + 227, 44 : 44 + 227], atol=1e-5, rtol=1e-5)
    assert (warped[1, :, :20] == 0).all() and (warped[1, :, :, :20] == 0).all()
    torch.testing.assert_close(warped[1, :, 22:, 22:], image[0, :, 1:206, 1:206], atol=1e-5, rtol=1e-5)
    small = warp(image, random_boxes(3, 300, 320, 30), torch.zeros(3, dtype=torch.int64), size=32)
    assert small.shape == (3, 3, 32, 32)
