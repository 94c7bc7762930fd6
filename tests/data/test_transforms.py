"""Resizing, flipping, colours: boxes against literal arithmetic, and the same result for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resdet.data.resize import fit_size, resize
from resdet.data.transforms import TestTransform as ValTransform  # pytest collects what is called Test…
from resdet.data.transforms import TrainTransform
from resdet.types import Target

HEIGHT, WIDTH = 60, 90
BOXES = [[0, 0, WIDTH, HEIGHT], [10, 20, 40, 50], [89, 59, 90, 60], [0.25, 0.5, 3.75, 59.5], [30, 0, 31, 60]]


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A picture that differs from its mirror image."""
    y, x = np.mgrid[:height, :width]
    return np.stack([200 * x // width, 200 * y // height, np.full_like(x, 40)], axis=-1).astype(np.uint8)


def target(boxes: list[list[float]] = BOXES) -> Target:
    """Boxes with labels 10, 11, …, every second difficult."""
    numbers = torch.arange(len(boxes))
    return Target(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), numbers + 10, numbers % 2 == 1)


def assert_targets_equal(a: Target, b: Target) -> None:
    """To a thousandth of a pixel."""
    torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=1e-3)
    assert a.labels.tolist() == b.labels.tolist() and a.difficult.tolist() == b.difficult.tolist()


def scaled(by: Target, x: float, y: float) -> Target:
    """Box by box, number by number."""
    boxes = [[x1 * x, y1 * y, x2 * x, y2 * y] for x1, y1, x2, y2 in by.boxes.tolist()]
    return by._replace(boxes=torch.tensor(boxes).reshape(-1, 4))


def mirrored(by: Target, width: int) -> Target:
    """Box by box, number by number."""
    boxes = [[width - x2, y1, width - x1, y2] for x1, y1, x2, y2 in by.boxes.tolist()]
    return by._replace(boxes=torch.tensor(boxes).reshape(-1, 4))


# (height, width, short side, longest side) → (height, width)
SIZES = {
    (375, 500, 600, 1000): (600, 800),
    (500, 375, 600, 1000): (800, 600),
    (300, 600, 600, 1000): (500, 1000),  # the longer side rules
    (600, 300, 600, 1000): (1000, 500),
    (600, 1000, 600, 1000): (600, 1000),
    (1200, 1600, 600, 1000): (600, 800),  # smaller, too
    (333, 500, 600, 1000): (600, 901),
    (1, 1, 600, 1000): (600, 600),
    (1, 5000, 600, 1000): (1, 1000),  # never 0
}


@pytest.mark.parametrize("given, expected", SIZES.items())
def test_fit_size(given: tuple[int, int, int, int], expected: tuple[int, int]) -> None:
    assert fit_size(*given) == expected


def test_resize_has_that_size() -> None:
    assert resize(picture(), 30, 100).shape == (30, 45, 3)
    assert resize(picture(), 30, 40).shape == (27, 40, 3)


def test_the_test_transform_only_resizes() -> None:
    image, result = ValTransform(120, 1000)(picture(), target(), seed=3)
    assert image.shape == (120, 180, 3) and image.dtype == np.uint8
    assert_targets_equal(result, scaled(target(), 2, 2))
    image, result = ValTransform(120, 100)(picture(), target([]), seed=3)
    assert image.shape == (67, 100, 3) and result.boxes.shape == (0, 4)


def test_boxes_follow_the_rounded_size() -> None:
    """67 / 60 and 100 / 90 are not the same factor."""
    for transform in (ValTransform(120, 100), TrainTransform((120,), 100, flip=0, photometric=0)):
        _, result = transform(picture(), target(), seed=0)
        assert_targets_equal(result, scaled(target(), 100 / 90, 67 / 60))


@pytest.mark.parametrize("side", [60, 47, 233])
def test_a_flip_mirrors_image_and_boxes(side: int) -> None:
    plain, boxes = TrainTransform((side,), 1000, flip=0, photometric=0)(picture(), target(), seed=5)
    flipped, mirror = TrainTransform((side,), 1000, flip=1, photometric=0)(picture(), target(), seed=5)
    assert (plain == resize(picture(), side, 1000)).all()
    assert (flipped == plain[:, ::-1]).all()
    assert_targets_equal(boxes, scaled(target(), plain.shape[1] / WIDTH, plain.shape[0] / HEIGHT))
    assert_targets_equal(mirror, mirrored(boxes, plain.shape[1]))


def test_half_of_the_images_are_flipped() -> None:
    transform = TrainTransform((60,), 1000, flip=0.5, photometric=0)
    flips = sum(bool(transform(picture(), target([]), seed)[0][0, 0, 0] > 100) for seed in range(400))
    assert 150 < flips < 250


def test_a_result_depends_on_the_seed_alone() -> None:
    settings = dict(short_sides=(40, 60, 80), max_side=1000, flip=0.5, photometric=0.5)
    one, other = TrainTransform(**settings), TrainTransform(**settings)
    seeds = list(range(30))
    forwards = {seed: one(picture(), target(), seed) for seed in seeds}
    for seed in reversed(seeds):
        np.random.seed(seed)  # what the process drew before does not matter
        image, result = other(picture(), target(), seed)
        assert (image == forwards[seed][0]).all()
        assert torch.equal(result.boxes, forwards[seed][1].boxes)
    assert len({image.tobytes() for image, _ in forwards.values()}) > 10


def test_every_short_side_is_drawn_as_often() -> None:
    transform = TrainTransform((20, 30, 40), 1000, flip=0.5, photometric=0)
    seeds = np.random.SeedSequence((0, 0)).generate_state(300)
    sides = [transform(picture(), target([]), int(seed))[0].shape[0] for seed in seeds]
    assert set(sides) == {20, 30, 40}
    assert all(70 < sides.count(side) < 130 for side in (20, 30, 40))


def test_the_short_side_does_not_decide_the_flip() -> None:
    transform = TrainTransform((60, 80), 1000, flip=0.5, photometric=0)
    seen = set()
    for seed in range(60):
        image, _ = transform(picture(), target([]), seed)
        seen.add((image.shape[0], bool(image[0, 0, 0] > 100)))
    assert len(seen) == 4


def test_colours_change_and_boxes_stay() -> None:
    plain, boxes = TrainTransform((60,), 1000, flip=0, photometric=0)(picture(), target(), seed=1)
    coloured, same = TrainTransform((60,), 1000, flip=0, photometric=1)(picture(), target(), seed=1)
    assert coloured.shape == plain.shape and coloured.dtype == np.uint8
    assert (coloured != plain).mean() > 0.5
    assert_targets_equal(same, boxes)


@pytest.mark.parametrize("transform", [TrainTransform((45,), 1000, 0.5, 0.5), ValTransform(45, 1000)])
def test_an_image_without_boxes(transform: TrainTransform | ValTransform) -> None:
    for seed in range(4):
        image, result = transform(picture(), target([]), seed)
        assert image.shape[0] == 45
        assert result.boxes.shape == (0, 4) and result.boxes.dtype == torch.float32
        assert result.labels.shape == (0,) and result.labels.dtype == torch.int64
        assert result.difficult.shape == (0,) and result.difficult.dtype == torch.bool


def test_boxes_stay_inside_keep_their_area_and_their_labels() -> None:
    """Odd factors and boxes at the borders, where rounding could push a corner out."""
    generator = np.random.default_rng(0)
    for seed in range(100):
        height, width = (int(n) for n in generator.integers(30, 700, 2))
        corners = np.sort(generator.uniform(0, 1, (6, 2, 2)), axis=1) * (width, height)
        corners[0] = (0, 0), (width, height)
        corners[1] = (width - 1, height - 1), (width, height)
        given = target(corners.reshape(6, 4).tolist())
        side = int(generator.integers(20, 300))
        image, result = TrainTransform((side,), 333, flip=0.5, photometric=0)(picture(height, width), given, seed)
        assert result.labels.tolist() == given.labels.tolist(), "no box is lost"
        x1, y1, x2, y2 = result.boxes.unbind(1)
        assert (x2 > x1).all() and (y2 > y1).all()
        assert min(x1.min(), y1.min()) >= 0 and x2.max() <= image.shape[1] and y2.max() <= image.shape[0]


def test_a_box_of_a_fraction_of_a_pixel_is_not_lost() -> None:
    """One pixel of a large image, much reduced."""
    given = target([[100, 100, 101, 101], [0, 0, 4000, 3000]])
    _, result = TrainTransform((60,), 100, flip=0.5, photometric=0)(picture(3000, 4000), given, seed=0)
    assert result.labels.tolist() == [10, 11]


def test_the_input_is_not_changed() -> None:
    image, given = picture(), target()
    TrainTransform((HEIGHT,), 1000, flip=1, photometric=1)(image, given, seed=0)
    assert (image == picture()).all() and torch.equal(given.boxes, target().boxes)
