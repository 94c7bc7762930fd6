"""Reading COCO's files: what lands in the arrays, and every broken file that a user may have."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resdet.data.annotations import Annotations
from resdet.data.coco import read_coco

HEIGHT, WIDTH = 40, 60
PICTURE = cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes()
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "cow"}]


class CocoFolder:
    """A data set with one split, ``train``, that a test writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content: dict[str, Any] = {"images": [], "annotations": [], "categories": list(CATEGORIES)}

    def image(self, number: object, folder: str = "train", **changes: object) -> None:
        """An image and its file."""
        item = {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH} | changes
        self.content["images"].append({key: value for key, value in item.items() if value is not None})
        path = self.root / folder / str(item["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURE)

    def box(self, image: object, category: object, bbox: object, **more: object) -> None:
        """An annotation."""
        own = {"id": len(self.content["annotations"]) + 1, "image_id": image, "category_id": category, "bbox": bbox}
        self.content["annotations"].append(own | more)

    def write(self, place: str = "annotations/instances_train.json") -> Path:
        """Its JSON file."""
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.content))
        return path

    def read(self, splits: str = "train", classes: tuple[str, ...] = (), **options: Any) -> Annotations:
        """The split, written first."""
        self.write()
        return read_coco(self.root, splits, classes, **options)


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    """An empty data set."""
    return CocoFolder(tmp_path / "set")


@pytest.fixture
def two(coco: CocoFolder) -> CocoFolder:
    """Two images, three boxes, in no order."""
    coco.image(20)
    coco.image(10)
    coco.box(10, 7, [5, 6, 10, 20])
    coco.box(20, 3, [1.5, 2, 3.25, 4], area=6.5)
    coco.box(10, 3, [0, 0, 60, 40], iscrowd=1)
    return coco


def literal(content: dict[str, Any], classes: tuple[str, ...]) -> list[list[tuple[object, ...]]]:
    """For each image: corners, class, crowd, area of each object, as the file says it."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = []
    for image in content["images"]:
        found = []
        for item in content["annotations"]:
            x, y, width, height = item["bbox"]
            has_area = min(x + width, image["width"]) > max(x, 0) and min(y + height, image["height"]) > max(y, 0)
            if item["image_id"] == image["id"] and has_area and names[item["category_id"]] in classes:
                area = item["area"] if "area" in item else (x + width - x) * (y + height - y)  # in float64, as read
                found.append(
                    (x, y, x + width, y + height, names[item["category_id"]], item.get("iscrowd") == 1, area)
                )
        images.append(found)
    return images


def listed(annotations: Annotations) -> list[list[tuple[object, ...]]]:
    """The same of what was read."""
    rows = [
        (*corners, annotations.classes[label], crowd, area)
        for corners, label, crowd, area in zip(
            annotations.boxes.tolist(),
            annotations.labels.tolist(),
            annotations.difficult.tolist(),
            annotations.areas.tolist(),
            strict=True,
        )
    ]
    return [rows[start:end] for start, end in pairwise(annotations.offsets)]


# What is read


def test_the_arrays_hold_what_the_file_says(two: CocoFolder) -> None:
    read = two.read()
    assert read.classes == ("cat", "dog", "cow") and read.category_ids.tolist() == [3, 7, 90]
    assert [read.id(0), read.id(1)] == ["20", "10"] and read.file(1) == str(two.root / "train/10.png")
    assert read.sizes.tolist() == [[HEIGHT, WIDTH]] * 2 and read.offsets.tolist() == [0, 1, 3] and not read.skipped
    assert read.boxes.tolist() == [[1.5, 2, 4.75, 6], [5, 6, 15, 26], [0, 0, 60, 40]]
    assert read.labels.tolist() == [0, 1, 0] and read.difficult.tolist() == [False, False, True]
    assert read.areas.tolist() == [6.5, 200, 2400]


@pytest.mark.parametrize("seed", range(20))
def test_many_random_files_against_a_loop(coco: CocoFolder, seed: int) -> None:
    random = np.random.default_rng(seed)
    numbers = random.permutation(100)[: random.integers(1, 8)].tolist()
    for number in numbers:
        coco.image(number)
    for _ in range(random.integers(0, 30)):
        corner, sides = random.uniform(-10, 70, 2).round(1), random.uniform(0, 30, 2).round(1)
        extra = [{}, {"iscrowd": 1}, {"iscrowd": 0, "area": 3.5}][random.integers(3)]
        category = CATEGORIES[random.integers(3)]["id"]
        coco.box(int(random.choice(numbers)), category, [*corner.tolist(), *sides.tolist()], **extra)
    coco.box(numbers[0], 90, [1, 2, 3, 4.5])  # one at least is in its image
    assert listed(coco.read()) == literal(coco.content, ("dog", "cat", "cow"))
    some = ("cow", "cat")
    assert listed(coco.read(classes=some, other_classes="ignore")) == literal(coco.content, some)


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_train.json", "train"),
        ("annotations/train.json", "images"),
        ("train.json", "images/train"),
        ("train/_annotations.coco.json", "train"),
        ("annotations/train.json", "."),
    ],
)
def test_usual_places(coco: CocoFolder, file: str, folder: str) -> None:
    coco.image(1, folder)
    coco.write(file)
    assert len(read_coco(coco.root, "train")) == 1
    assert len(read_coco(coco.root, file)) == 1


def test_several_files_are_joined(two: CocoFolder, tmp_path: Path) -> None:
    two.write()
    other = CocoFolder(two.root)
    other.content["categories"] = [CATEGORIES[0], {"id": 4, "name": "hen"}]
    other.image(5, "val")
    other.box(5, 4, [1, 1, 2, 2])
    other.write("annotations/instances_val.json")
    read = read_coco(two.root, "train+val")
    assert read.classes == ("cat", "hen", "dog", "cow") and read.category_ids.tolist() == [3, 4, 7, 90]
    assert [read.id(index) for index in range(3)] == ["20", "10", "5"] and read.labels.tolist() == [0, 2, 0, 1]
    assert read.offsets.tolist() == [0, 1, 3, 4]


def test_images_that_look_empty_can_be_left_out(two: CocoFolder) -> None:
    two.image(30)
    two.image(40)
    two.box(40, 7, [1, 1, 5, 5], iscrowd=1)
    read = two.read().without_empty()
    assert [read.id(index) for index in range(len(read))] == ["20", "10"]


def test_sizes_are_probed_where_the_file_has_none(coco: CocoFolder) -> None:
    coco.image(1, height=None)
    coco.image(2, width=0)
    assert coco.read().sizes.tolist() == [[HEIGHT, WIDTH]] * 2


# What is left out


def test_a_missing_image_is_left_out_and_named(two: CocoFolder, assert_sentence: Callable[..., None]) -> None:
    (two.root / "train/10.png").unlink()
    read = two.read()
    assert len(read) == 1 and read.boxes.tolist() == [[1.5, 2, 4.75, 6]]
    assert read.left_out == (1, 2)
    assert_sentence(read.skipped[0], "10.png", "instances_train.json", "missing", "its 2 objects")


@pytest.mark.parametrize(
    "bbox", [None, [], [1, 2, 3], [1, 2, "x", 4], {"x": 1}, "1 2 3 4", [1, 2, float("nan"), 4], [1, 2, True, 4]]
)
def test_an_object_with_a_broken_box_is_left_out(two: CocoFolder, bbox: object, assert_sentence) -> None:
    two.box(20, 3, bbox)
    read = two.read()
    assert len(read) == 2 and len(read.boxes) == 3 and read.left_out == (0, 1)
    assert_sentence(read.skipped[0], "instances_train.json", "annotation 4", "20.png")


@pytest.mark.parametrize("bbox", [[3, 3, 0, 5], [3, 3, 5, -1], [60, 1, 5, 5], [-9, -9, 9, 30]])
def test_a_box_without_area_in_its_image_is_left_out(two: CocoFolder, bbox: list[int], assert_sentence) -> None:
    two.box(20, 3, bbox)
    read = two.read()
    assert len(read) == 2 and len(read.boxes) == 3 and read.left_out == (0, 1)
    assert_sentence(read.skipped[0], "instances_train.json", "annotation 4", "20.png", "no area")


# What is refused


def test_a_missing_data_set_and_a_missing_split(coco: CocoFolder, refuses: Callable[..., Any]) -> None:
    with refuses(coco.root, "ask Anna"):
        read_coco(coco.root, "train", source="ask Anna")
    coco.image(1)
    coco.write()
    with refuses("'val'", "instances_train.json"):
        read_coco(coco.root, "val")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "{}", '{"images": [], "annotations": 3, "categories": []}', '{"images": [1]}']
)
def test_what_is_no_file_of_instances(coco: CocoFolder, text: str, refuses: Callable[..., Any]) -> None:
    path = coco.write()
    path.write_text(text)
    with refuses(path):
        read_coco(coco.root, "train")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("image_id", 99, "image 99"), ("image_id", None, "image None"), ("category_id", 1, "category 1")],
)
def test_annotations_that_point_nowhere_are_left_out(
    two: CocoFolder, field: str, value: object, words: str, assert_sentence: Callable[..., None]
) -> None:
    two.box(20, 3, [1, 1, 2, 2], **{field: value})
    read = two.read()
    assert len(read) == 2 and len(read.boxes) == 3 and read.left_out == (0, 1)
    assert_sentence(read.skipped[0], "instances_train.json", "annotation 4", words, "does not list")


@pytest.mark.parametrize(
    "kinds", [(str, str), (float, float), (str, int), (float, str), (lambda n: n * 10**21, lambda n: n * 10**21)]
)
def test_numbers_of_other_kinds(two: CocoFolder, kinds: tuple[Callable[[int], Any], Callable[[int], Any]]) -> None:
    """1, 1.0 and "1" are one number; huge ones are numbers too."""
    read = two.read()
    own, other = kinds
    for part, keys in (("images", ["id"]), ("categories", ["id"]), ("annotations", ["image_id", "category_id"])):
        kind = other if part == "annotations" else own
        two.content[part] = [item | {key: kind(item[key]) for key in keys} for item in two.content[part]]
    again = two.read()
    assert listed(again) == listed(read) and again.classes == read.classes and not again.skipped


def test_names_as_identifiers(two: CocoFolder) -> None:
    two.content["images"] = [item | {"id": f"im{item['id']}"} for item in two.content["images"]]
    two.content["annotations"] = [
        item | {"image_id": f"im{item['image_id']}"} for item in two.content["annotations"]
    ]
    read = two.read()
    assert [read.id(0), read.id(1)] == ["im20", "im10"] and len(read.boxes) == 3 and not read.skipped


def test_numbers_that_occur_twice(two: CocoFolder, refuses: Callable[..., Any]) -> None:
    """Of categories they are refused; of two images of one number the first is taken."""
    two.content["categories"].append({"id": 3, "name": "ox"})
    with refuses("instances_train.json", "two categories", "'cat'", "'ox'"):
        two.read()
    two.content["categories"][-1] = {"id": 4, "name": "cat"}
    two.box(20, 4, [1, 1, 2, 2])
    read = two.read()
    assert read.classes == ("cat", "dog", "cow") and read.labels.tolist() == [0, 0, 1, 0]
    assert "two categories 'cat'" in read.notes[0]
    two.image(10, file_name="other.png")
    read = two.read()
    assert [Path(read.file(index)).name for index in range(len(read))] == ["20.png", "10.png"]
    assert read.left_out == (1, 0) and "image number 10 is there twice, as 10.png and other.png" in read.skipped[0]


def test_several_files_may_use_the_same_numbers(two: CocoFolder) -> None:
    """The images are then known by their files."""
    two.write()
    other = CocoFolder(two.root)
    other.image(20, "val")
    other.box(20, 90, [1, 1, 2, 2])
    other.write("annotations/instances_val.json")
    read = read_coco(two.root, "train+val")
    assert [read.id(index) for index in range(3)] == ["train/20", "10", "val/20"]
    assert read.offsets.tolist() == [0, 1, 3, 4] and read.labels.tolist() == [0, 1, 0, 2]


def test_files_that_disagree(two: CocoFolder, refuses: Callable[..., Any]) -> None:
    two.write()
    other = CocoFolder(two.root)
    other.content["categories"] = [{"id": 1, "name": "cat"}]
    other.image(5)
    other.write("annotations/instances_again.json")
    with refuses("'cat'", "3", "1"):
        read_coco(two.root, "train+again")


def test_classes_are_strict(two: CocoFolder, refuses: Callable[..., Any]) -> None:
    with refuses("'Cat'", "did you mean 'cat'"):
        two.read(classes=("Cat", "dog"))
    with refuses("'dog'", "other-classes"):
        two.read(classes=("cat",))
    with refuses("twice"):
        two.read(classes=("cat", "cat"))
    assert two.read(classes=("cat",), other_classes="ignore").labels.tolist() == [0, 0]


def test_no_image_at_all(coco: CocoFolder, refuses: Callable[..., Any]) -> None:
    with refuses(coco.root, "train"):
        coco.read()
    coco.image(1)
    (coco.root / "train/1.png").unlink()
    with refuses(coco.root, "1.png", "missing"):
        coco.read()
