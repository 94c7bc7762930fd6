"""Augmentation before the resize: boxes against pixels, the rule for cut boxes, seeds, saved pipelines."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resdet.config import SHAPES_CLASSES, DataConfig, DetConfig, ModelConfig, SolverConfig
from resdet.data.augment import MIN_VISIBLE, PRESETS, A, Augmentation, keep_visible, read_augmentation
from resdet.data.build import training_batches
from resdet.data.images import ImageError
from resdet.data.proposals import write_proposals
from resdet.data.transforms import TrainTransform
from resdet.data.voc import read_voc
from resdet.engine.runtime import Runtime
from resdet.types import Target

HEIGHT, WIDTH = 120, 200
ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)


def target(boxes: list[list[float]], labels: list[int] | None = None) -> Target:
    """Boxes with labels 10, 11, … unless others are given, every second difficult."""
    numbers = torch.arange(len(boxes))
    return Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        numbers + 10 if labels is None else torch.tensor(labels),
        numbers % 2 == 1,
    )


def noise(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """An image without two equal parts."""
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def leaves(steps: list[Any]) -> Iterator[Any]:
    """The transforms in compositions of transforms."""
    for step in steps:
        if isinstance(step, A.BaseCompose):
            yield from leaves(step.transforms)
        else:
            yield step


GEOMETRIC = {
    f"{name} {type(step).__name__}": (name, place)
    for name, make in PRESETS.items()
    for place, step in enumerate(leaves(make()))
    if isinstance(step, A.DualTransform)
}


# Boxes and pixels


@pytest.mark.parametrize("name, place", GEOMETRIC.values(), ids=GEOMETRIC.keys())
def test_boxes_follow_the_pixels(name: str, place: int) -> None:
    """A white rectangle on black, moved by each transform of the presets alone: its box is where its pixels are."""
    random = np.random.default_rng(place)
    step = list(leaves(PRESETS[name]()))[place]
    step.p = 1
    augmentation = Augmentation([step], name)
    compared = 0
    for seed in range(40):
        corner = random.integers(0, (WIDTH - 60, HEIGHT - 60))
        (x1, y1), (x2, y2) = corner, corner + random.integers(10, 60, 2)
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[y1:y2, x1:x2] = 255
        moved, found = augmentation(image, target([[x1, y1, x2, y2]]), seed)
        rows, columns = np.nonzero(moved.min(2) > 190)  # what lies beyond the image is grey
        if len(found.boxes):
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(found.boxes[0], extent, atol=1)
            compared += 1
        else:
            assert len(rows) < 0.35 * (x2 - x1) * (y2 - y1) * 2.25, "more than 30 % can be seen, at any scale"
    assert compared > 25


def test_presets_move_boxes_and_lose_few() -> None:
    boxes = [[20.0 * n, 10.0 * n, 20.0 * n + 30, 10.0 * n + 40] for n in range(8)]
    for name, least in (("light", 0.95), ("strong", 0.7)):
        augmentation = read_augmentation(name)
        assert augmentation is not None
        results = [augmentation(noise(), target(boxes), seed)[1] for seed in range(60)]
        kept = sum(len(result.boxes) for result in results)
        assert least * 60 * 8 < kept <= 60 * 8
        assert len({result.boxes.numpy().tobytes() for result in results}) > 20
        for result in results:
            assert (result.difficult == (result.labels % 2 == 1)).all(), "fields stay together"
            assert result.labels.tolist() == sorted(set(result.labels.tolist())), "and in order"


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3), (33, 7)])
def test_presets_take_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    augmentation = read_augmentation(name)
    assert augmentation is not None
    augmentation.check(np.array([size]))
    for seed in range(25):
        for boxes in ([], [[0, 0, size[1], size[0]]]):
            try:
                image, result = augmentation(noise(*size), target(boxes), seed)
            except ImageError:
                assert name == "strong" and min(size) == 1, "whose crops leave nothing"
                continue
            assert image.dtype == np.uint8 and image.shape[2:] == (3,) and min(image.shape) > 0
            assert len(result.boxes) <= len(boxes) and result.boxes.dtype == torch.float32


def test_what_changes_nothing_leaves_all_boxes() -> None:
    boxes = [
        [0, 0, WIDTH, HEIGHT],
        [10, 20, 40, 50],
        [89, 59, 90, 60],
        [0.25, 0.5, 3.75, 59.5],
        [5, 5, 5.25, 5.125],
    ]
    image, result = Augmentation([A.NoOp(p=1)], "nothing")(noise(), target(boxes), 5)
    assert (image == noise()).all()
    torch.testing.assert_close(tuple(result), tuple(target(boxes)), rtol=0, atol=1e-4)


# Boxes that are cut


def crop(*sides: int) -> Any:
    """x1, y1, x2, y2 → the transform that cuts this part out."""
    return A.Crop(*sides, p=1)


# corners in an image of 100×100 of which x < 50 is kept → what is left of the box
CUT = {
    (10, 10, 30, 30): [10, 10, 30, 30],
    (40, 10, 60, 30): [40, 10, 50, 30],
    (44, 10, 64, 30): [44, 10, 50, 30],  # 30 %
    (44.2, 10, 64.2, 30): None,  # 29 %
    (48, 10, 52, 30): [48, 10, 50, 30],
    (48.1, 10, 51, 30): None,  # less than 2 pixels wide
    (20, 10, 20.5, 10.5): [20, 10, 20.5, 10.5],  # not cut
    (50, 0, 60, 10): None,
    (70, 0, 90, 10): None,
}


@pytest.mark.parametrize("box, left", CUT.items())
def test_what_is_left_of_a_cut_box(box: tuple[float, ...], left: list[float] | None) -> None:
    _, result = Augmentation([crop(0, 0, 50, 100)], "half")(noise(100, 100), target([list(box)]), 0)
    expected = torch.tensor([] if left is None else [left], dtype=torch.float32).reshape(-1, 4)
    torch.testing.assert_close(result.boxes, expected)


@pytest.mark.parametrize("nested", [False, True])
def test_two_cuts_are_multiplied(nested: bool) -> None:
    """Half of the width and then half of the height leave a quarter, though each leaves more than 30 %."""
    steps = [crop(0, 0, 50, 100), A.Resize(200, 100, p=1), crop(0, 0, 100, 100)]
    for corner, kept in ((40, False), (35, True)):  # 25 % and 37 %
        box = [[corner, 100 - 2 * (50 - corner), 60, 100], [1, 1, 9, 9]]
        box[0][1] = corner
        box[0][3] = 60
        pipeline = [A.Sequential(steps, p=1)] if nested else steps
        _, result = Augmentation(pipeline, "quarter")(noise(100, 100), target(box), 0)
        assert result.labels.tolist() == ([10, 11] if kept else [11])


def test_what_was_cut_off_does_not_come_back() -> None:
    """A crop, and then a border: the part of the box in the border shows nothing."""
    pipeline = [crop(0, 0, 50, 100), A.Pad(padding=(0, 0, 50, 0), p=1)]
    image, result = Augmentation(pipeline, "border")(noise(100, 100), target([[40, 10, 60, 30]]), 0)
    assert image.shape == (100, 100, 3)
    torch.testing.assert_close(result.boxes, torch.tensor([[40.0, 10, 50, 30]]))


def test_the_rule_against_a_loop() -> None:
    random = np.random.default_rng(0)
    corners = np.sort(random.uniform(-0.5, 1.5, (500, 2, 2)), axis=1).reshape(-1, 4)
    rows = np.column_stack([corners, np.arange(500), random.choice([1, 0.7, 0.31], 500)])
    expected = []
    for x1, y1, x2, y2, number, visible in rows.tolist():
        cut = [max(x1, 0), max(y1, 0), min(x2, 1), min(y2, 1)]
        width, height = cut[2] - cut[0], cut[3] - cut[1]
        if width <= 0 or height <= 0:
            continue
        visible *= width * height / ((x2 - x1) * (y2 - y1))
        if visible > 0.999 or (visible >= MIN_VISIBLE and 20 * width >= 2 and 10 * height >= 2):
            expected.append([*cut, number, visible])
    np.testing.assert_allclose(keep_visible(rows, {"height": 10, "width": 20}), expected)
    assert 50 < len(expected) < 300


def test_what_holes_hide() -> None:
    """A box of which a hole hides more than 70 % is dropped; one of which it hides an end shrinks by that."""
    holes = Augmentation([A.CoarseDropout((1, 1), (0.5, 0.5), (0.5, 0.5), p=1)], "hole")
    compared = 0
    for seed in range(10):
        image, _ = holes(np.full((100, 100, 3), 255, np.uint8), target([]), seed)
        rows, columns = np.nonzero(image[..., 0] == 0)
        x, y = int(columns.min()), int(rows.min())
        if x >= 20:
            hidden = [[x + 2, y + 2, x + 50, y + 50], [x - 10, y + 5, x + 50, y + 14]]
            seen = [[x - 20, y + 5, x + 20, y + 14], [0, 0, 100, 100]]
            _, result = holes(image, target([*hidden, *seen]), seed)
            expected = torch.tensor([[x - 20.0, y + 5, x, y + 14], [0, 0, 100, 100]])
            torch.testing.assert_close(result.boxes, expected, rtol=0, atol=1.01)  # as albumentations rounds them
            compared += 1
    assert compared > 2


# Proposals


def test_proposals_go_along_but_choose_no_crop() -> None:
    """The crop is that of the objects alone, and a proposal that is an object's box stays one."""
    augmentation = Augmentation([A.BBoxSafeRandomCrop(p=1)], "safe")
    boxes = [[60.0, 40, 90, 70], [80, 50, 120, 80]]
    alone = [augmentation(noise(), target(boxes), seed) for seed in range(20)]
    everywhere = [*boxes, [0.0, 0, WIDTH, HEIGHT], boxes[1], [5, 5, 5, 9]]
    together = [augmentation(noise(), target(everywhere, [3, 4, -1, -1, -1]), seed) for seed in range(20)]
    for (image, own), (same, all_of_them) in zip(alone, together, strict=True):
        assert image.shape == same.shape and (image == same).all()
        assert torch.equal(all_of_them.boxes[:2], own.boxes)
        labels = all_of_them.labels.tolist()
        assert labels in ([3, 4, -1, -1], [3, 4, -1]), "without area, or too little of it in the crop"
        assert torch.equal(all_of_them.boxes[-1], own.boxes[1])


def test_proposals_reach_the_batch(shapes_root: Path, tmp_path: Path) -> None:
    annotations = read_voc(shapes_root, "train", SHAPES_CLASSES)
    ids, given = ([part(index) for index in range(6)] for part in (annotations.id, annotations.target))
    path = tmp_path / "proposals.npz"
    write_proposals(path, ids, [own.boxes.numpy() for own in given])
    data = DataConfig(workers=0, proposals=(str(path),), difficult=True, augmentation="strong")
    config = DetConfig(data=data, model=ModelConfig(proposals="given"), solver=SolverConfig(steps=9, batch_size=2))
    lost = 0
    for batch in training_batches(annotations, config, ALONE, 0):
        assert batch.proposals is not None
        for own, proposals, index in zip(batch.targets, batch.proposals, batch.indices, strict=True):
            torch.testing.assert_close(own.boxes, proposals)
            lost += len(given[index].boxes) - len(own.boxes)
    assert lost


# Seeds


def outcomes(augmentation: Augmentation, seeds: list[int]) -> dict[int, bytes]:
    results = ((seed, *augmentation(noise(), target([[50, 40, 90, 70]]), seed)) for seed in seeds)
    return {seed: image.tobytes() + result.boxes.numpy().tobytes() for seed, image, result in results}


@pytest.mark.parametrize("name", PRESETS)
def test_a_result_depends_on_the_seed_alone(name: str) -> None:
    first, second = read_augmentation(name), read_augmentation(name)
    assert first is not None and second is not None
    seeds = list(range(0, 2**32, 2**32 // 40))
    expected = outcomes(first, seeds)
    np.random.seed(1)
    assert outcomes(second, seeds[::-1]) == expected
    assert outcomes(pickle.loads(pickle.dumps(second)), seeds[::3]) == {seed: expected[seed] for seed in seeds[::3]}
    assert len(set(expected.values())) > 20


def test_workers_do_not_change_the_batches(shapes_root: Path) -> None:
    annotations = read_voc(shapes_root, "train", SHAPES_CLASSES)
    batches = []
    for workers in (0, 2):
        data = DataConfig(workers=workers, short_sides=(64,), max_side=90, augmentation="strong", photometric=0.5)
        config = DetConfig(data=data, solver=SolverConfig(steps=5, batch_size=2))
        batches.append(list(training_batches(annotations, config, ALONE, 0)))
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)
        assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(one.targets, other.targets, strict=True))


def test_steps_draw_independently() -> None:
    """Two steps of probability ½ are applied to all four combinations, and colours not just to mirrored images."""
    pipeline = Augmentation([A.InvertImg(p=0.5), A.Transpose(p=0.5)], "two")
    seen = {(bool(image[0, 0, 0]), image.shape[0]) for image, _ in (
        pipeline(np.zeros((20, 30, 3), np.uint8), target([]), seed) for seed in range(60)
    )}  # fmt: skip
    assert len(seen) == 4
    ramp = np.tile(np.arange(30, 90, dtype=np.uint8)[None, :, None], (60, 1, 3))
    transform = TrainTransform((60,), 60, flip=0.5, photometric=0.5)
    images = [transform(ramp, target([]), seed)[0] for seed in range(80)]
    counts = np.zeros((2, 2), int)
    for image in images:
        mirrored = image[0, 0, 0] > image[0, -1, 0]
        counts[int(mirrored), int(not np.array_equal(image[:, ::-1] if mirrored else image, ramp))] += 1
    assert counts.min() > 8, counts


def test_an_augmentation_does_not_change_the_flips() -> None:
    settings = ((60,), 1000, 0.5, 0.0)
    plain, augmented = TrainTransform(*settings), TrainTransform(*settings, Augmentation([A.ToGray(p=0.5)], "grey"))
    ramp = np.tile(np.arange(90, dtype=np.uint8)[None, :, None], (60, 1, 3))
    for seed in range(20):
        assert (plain(ramp, target([]), seed)[0] == augmented(ramp, target([]), seed)[0]).all()


# Saved pipelines


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Write a pipeline, or what a file holds, to a file."""

    def write(content: Any, form: str = "json") -> str:
        path = tmp_path / f"mine.{form}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content)
        elif isinstance(content, dict):
            path.write_text(json.dumps(content))
        else:
            A.save(content, path, form)
        return str(path)

    return write


def loaded(file: str) -> Augmentation:
    augmentation = read_augmentation(file)
    assert augmentation is not None
    return augmentation


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_same_when_saved_and_loaded(name: str, form: str, saved: Callable[..., str]) -> None:
    """An inner Compose with the probability 1 draws a number, hence the one around the preset."""
    preset = Augmentation([A.Compose(PRESETS[name]())], name)
    seeds = list(range(30))
    assert outcomes(loaded(saved(A.Compose(PRESETS[name]()), form)), seeds) == outcomes(preset, seeds)


@pytest.mark.filterwarnings("ignore:ShiftScaleRotate")
def test_a_pipeline_of_every_composition(saved: Callable[..., str]) -> None:
    steps = [
        A.OneOf([A.HorizontalFlip(p=0.2), A.Sequential([A.VerticalFlip(p=1), A.Blur(p=0.5)], p=0.7)], p=0.9),
        A.SomeOf([A.RandomRotate90(), A.RandomGamma(), A.Compose([A.Rotate(20)], p=0.8)], n=2, replace=False),
        A.RandomOrder([A.ShiftScaleRotate(), A.Perspective()], n=2),
        A.OneOrOther(A.ToGray(), A.ToSepia()),
    ]
    seeds = list(range(40))
    assert outcomes(loaded(saved(A.Compose(steps))), seeds) == outcomes(
        Augmentation([A.Compose(steps)], "steps"), seeds
    )


def test_boxes_are_treated_in_one_way(saved: Callable[..., str]) -> None:
    """A pipeline's own parameters of boxes, targets and seeds do not count, at any depth."""
    inner = A.Compose([crop(0, 0, 50, 100)], bbox_params=A.BboxParams("coco", ["kind"], min_visibility=0.9))
    outer = A.Compose(
        [inner], bbox_params=A.BboxParams("yolo", min_area=1e6), keypoint_params=A.KeypointParams("xy")
    )
    _, result = loaded(saved(outer))(noise(100, 100), target([[40, 10, 60, 30], [70, 0, 90, 9]]), 0)
    torch.testing.assert_close(result.boxes, torch.tensor([[40.0, 10, 50, 30]]))
    assert result.labels.tolist() == [10]


def test_a_single_transform_is_a_pipeline(saved: Callable[..., str]) -> None:
    image, _ = loaded(saved(A.Transpose(p=1)))(noise(), target([]), 0)
    assert (image == noise().transpose(1, 0, 2)).all()


FLIP = A.HorizontalFlip(p=1).to_dict_private()
REFUSED = {
    "a misspelled preset": (None, ["stong", "No such file", "none, light, strong"]),
    "not text": (b"\xff\xfe\x00", ["mine.json", "none, light, strong"]),
    "no JSON": ('{"transform": ', ["mine.json", "neither JSON nor YAML"]),
    "no YAML": ("a: [", ["mine.json", "neither JSON nor YAML"]),
    "YAML that makes objects": ("transform: !!python/object/apply:os.system [ls]", ["neither JSON nor YAML"]),
    "empty": ("", ["is not a pipeline of albumentations"]),
    "something else": ({"images": []}, ["is not a pipeline of albumentations"]),
    "not a step": ({"transform": 5}, ["a step without a class"]),
    "no class": ({"transform": {"p": 1}}, ["a step without a class"]),
    "not a step inside": ({"transform": {"__class_fullname__": "Compose", "transforms": [1]}}, ["without a class"]),
    "no chance": (
        {"transform": {"__class_fullname__": "OneOf", "transforms": [FLIP | {"p": 0}]}}, ["OneOf", "cannot be used"]
    ),
    "steps that are none": ({"transform": {"__class_fullname__": "Compose", "transforms": 5}}, ["Compose"]),
    "a wrong probability": ({"transform": FLIP | {"p": 2}}, ["HorizontalFlip", "cannot be used", "p: "]),
    "an unknown setting": ({"transform": FLIP | {"q": 2}}, ["HorizontalFlip", "cannot be used", "'q'"]),
    "a missing setting": ({"transform": {"__class_fullname__": "Resize"}}, ["Resize", "height: "]),
    "nobody's class": ({"transform": {"__class_fullname__": "os.system"}}, ["os.system", "leave it out"]),
    "a function": ({"transform": {"__class_fullname__": "from_dict"}}, ["from_dict", "leave it out"]),
    "a base class": ({"transform": {"__class_fullname__": "DualTransform"}}, ["DualTransform"]),
    "Lambda": (
        {"transform": {"__class_fullname__": "Lambda", "__name__": "f"}}, ["Lambda", "leave it out"]
    ),
    "replays": ({"transform": {"__class_fullname__": "ReplayCompose", "transforms": [FLIP]}}, ["ReplayCompose"]),
    "numbers that are no bytes": (A.Compose([A.HorizontalFlip(), A.Normalize(p=0.01)]), ["Normalize"]),
    "floats": (A.ToFloat(p=0.1), ["ToFloat"]),
    "one channel": (A.ToGray(num_output_channels=1), ["ToGray"]),
    "a transform of volumes": (A.Pad3D(padding=1), ["Pad3D"]),
    "a transform that needs masks": (A.MaskDropout(), ["MaskDropout"]),
    "a transform without boxes": (A.OverlayElements(), ["OverlayElements"]),
    "a transform that needs other images": (A.Mosaic(), ["Mosaic"]),
}  # fmt: skip


@pytest.mark.parametrize("content, words", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_pipeline_for_boxes_is_refused(
    content: Any, words: list[str], saved: Callable[..., str], refuses: Callable[..., Any]
) -> None:
    file = "stong" if content is None else saved(content)
    with refuses(*words, file):
        read_augmentation(file)


def test_a_pipeline_that_images_are_too_small_for(
    shapes_root: Path, saved: Callable[..., str], refuses: Callable[..., Any]
) -> None:
    """Before the training if the smallest image is too small, else when it comes."""
    file = saved(A.RandomCrop(900, 900, p=1))
    annotations = read_voc(shapes_root, "train", SHAPES_CLASSES)
    with refuses(file, f"×{annotations.sizes.min()} pixels", "change the pipeline"):
        training_batches(annotations, DetConfig(data=DataConfig(workers=0, augmentation=file)), ALONE, 0)
    with pytest.raises(ImageError, match="200×120"):
        loaded(file)(noise(), target([]), 0)
