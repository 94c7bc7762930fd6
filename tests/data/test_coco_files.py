"""Where COCO's files and images are looked for, what of an annotation counts, and what messages tell."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_read_coco import HEIGHT, PICTURE, WIDTH, CocoFolder

from resdet.data import records
from resdet.data.coco import read_coco


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    """An empty data set."""
    return CocoFolder(tmp_path / "set")


@pytest.fixture
def one(coco: CocoFolder) -> CocoFolder:
    """One image without boxes."""
    coco.image(20)
    return coco


# Files


def test_the_places_of_the_file_in_their_order(coco: CocoFolder) -> None:
    places = ("train/_annotations.coco.json", "train.json", "annotations/train.json")
    for number, place in enumerate((*places, "annotations/instances_train.json"), 1):
        coco.content["images"] = []
        coco.image(number)
        coco.write(place)
        assert read_coco(coco.root, "train").id(0) == str(number)
    for number, place in enumerate(places, 1):  # a path names the one file
        assert read_coco(coco.root, place).id(0) == str(number)


@pytest.mark.parametrize("split", ["train", "annotations/instances_train.json"])
@pytest.mark.parametrize("folder", ["annotations", "train", "images/train", "images", ".", "train/images"])
def test_the_places_of_an_image(coco: CocoFolder, folder: str, split: str) -> None:
    coco.image(1, folder)
    assert Path(coco.read(split).file(0)) == coco.root / folder / "1.png"


def test_the_places_of_an_image_in_their_order(coco: CocoFolder) -> None:
    """Beside the JSON file, then as COCO has it, then elsewhere."""
    for folder in (".", "train/images", "images", "images/train", "train", "annotations"):
        coco.content["images"] = []
        coco.image(1, folder)
        assert Path(coco.read().file(0)) == coco.root / folder / "1.png"


def test_images_in_several_places(coco: CocoFolder) -> None:
    """Each is looked for everywhere, first where the image before it was found."""
    for number, folder in ((1, "images"), (2, "train"), (3, "images"), (4, "."), (5, "images/train")):
        coco.image(number, folder)
    for folder in ("images", "images/train", "train"):
        coco.image(6, folder)
    del coco.content["images"][-2:]
    coco.content["images"].append({"id": 7, "file_name": "deep/none.png", "height": 1, "width": 1})
    read = coco.read()
    places = [str(Path(read.file(index)).relative_to(coco.root)) for index in range(len(read))]
    assert places == [
        "images/1.png",
        "train/2.png",
        "images/3.png",
        "4.png",
        "images/train/5.png",
        "images/train/6.png",
    ]
    assert len(read.skipped) == 1 and "deep/none.png" in read.skipped[0]


def test_splits_may_have_spaces_around_them(coco: CocoFolder) -> None:
    coco.image(1)
    coco.write()
    coco.content["images"] = []
    coco.image(2, "val")
    coco.write("annotations/instances_val.json")
    read = read_coco(coco.root, " val + train")
    assert [read.id(0), read.id(1)] == ["2", "1"]


@pytest.mark.parametrize("good", [True, False])
def test_reading_leaves_the_garbage_collector_as_it_was(one: CocoFolder, good: bool) -> None:
    path = one.write()
    if not good:
        path.write_text("[")
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            read_coco(one.root, "train", ("cat",))
        except Exception:
            assert not good
        left = gc.isenabled()
        gc.enable()
        assert left == enabled


# Annotations


@pytest.mark.parametrize("area", [None, "x", float("nan"), float("inf"), [5], True, -3, 0])
def test_an_area_that_is_no_number_is_that_of_the_box(one: CocoFolder, area: object) -> None:
    one.box(20, 3, [1, 2, 4, 5], area=area)
    one.box(20, 3, [1, 2, 4, 5], area=7)
    one.box(20, 3, [50, 2, 20, 5])  # of all of it, though half lies outside
    assert one.read().areas.tolist() == [20, 7, 100]


@pytest.mark.parametrize(
    ("flag", "crowd"), [(1, True), (True, True), ("1", True), (0, False), (None, False), (2, False), ("no", False)]
)
def test_only_a_flag_of_1_makes_a_crowd(one: CocoFolder, flag: object, crowd: bool) -> None:
    one.box(20, 3, [1, 2, 4, 5], iscrowd=flag)
    assert one.read().difficult.tolist() == [crowd]


def test_a_box_that_leaves_its_image_in_part_is_kept_as_annotated(one: CocoFolder) -> None:
    boxes = [[-5, -5, 6, 6], [59, 39, 10, 10], [-1, -1, 100, 100], [45, 1, 5, 5], [1, 30, 5, 5]]
    for box in boxes:
        one.box(20, 3, box)
    outside = [[-5, 1, 5, 5], [1, -5, 5, 5], [WIDTH, 1, 5, 5], [1, HEIGHT, 5, 5], [45, HEIGHT, 5, 5]]
    for box in outside:
        one.box(20, 3, box)
    read = one.read()
    assert read.boxes.tolist() == [[x, y, x + w, y + h] for x, y, w, h in boxes]
    assert len(read.skipped) == len(outside)


def test_an_image_that_is_left_out_takes_its_boxes_along(one: CocoFolder) -> None:
    """One sentence for it, none for its boxes; the others keep theirs."""
    one.image(10)
    one.image(30)
    (one.root / "train/20.png").unlink()
    for image, box in (
        (30, [1, 1, 2, 2]),
        (20, [9, 9, 0, 0]),
        (10, [1, 2]),
        (10, [9, 9, 0, 0]),
        (20, [5, 5, 5, 5]),
    ):
        one.box(image, 7, box)
    read = one.read()
    assert [read.id(0), read.id(1)] == ["10", "30"] and read.offsets.tolist() == [0, 0, 1]
    assert read.boxes.tolist() == [[1, 1, 3, 3]] and read.left_out == (1, 4)
    path = one.root / "annotations/instances_train.json"
    assert read.skipped == (
        f"The image 20.png of {path} is missing; its 2 objects are left out too.",
        f"{path}: the annotation 3 of 10.png has no box of four numbers, and no mask.",
        f"{path}: annotation 4, a box of 'dog' with no area inside the image 10.png.",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"height": None},
        {"width": 0},
        {"height": -40},
        {"width": "wide"},
        {"width": 2**31},
        {"height": True},
    ],
)
def test_a_size_that_is_none_is_that_of_the_file(coco: CocoFolder, changes: dict[str, Any]) -> None:
    coco.image(1, **changes)
    assert coco.read().sizes.tolist() == [[HEIGHT, WIDTH]]


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({"height": "40"}, True),
        ({"width": 60.5}, True),
        ({"height": 41, "width": 59}, True),
        ({"height": 42}, False),
    ],
)
def test_an_image_of_another_size_than_stated_is_left_out(one: CocoFolder, changes: dict, good: bool) -> None:
    one.image(1, **changes)
    read = one.read()
    assert read.sizes.tolist() == [[HEIGHT, WIDTH]] * (1 + good) and len(read.skipped) == 1 - good
    assert good or f"{WIDTH}×42" in read.skipped[0]


def test_of_very_many_images_only_a_sample_is_opened(one: CocoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others are opened too if one of these is not as stated; an image that is listed twice never is."""
    monkeypatch.setattr(records, "MANY_IMAGES", 3)
    monkeypatch.setattr(records, "SAMPLE", 1)
    for number in (1, 2, 3):
        one.image(number)
    one.image(3)
    (one.root / "train/2.png").write_bytes(b"not looked at")
    read = one.read()
    assert len(read) == 4 and len(read.skipped) == 1 and "twice" in read.skipped[0]
    assert read.sizes.tolist() == [[HEIGHT, WIDTH]] * 4
    (one.root / "train/20.png").write_bytes(b"looked at")
    read = one.read()
    assert [Path(read.file(index)).name for index in range(len(read))] == ["1.png", "3.png"]
    (one.root / "train/20.png").write_bytes(PICTURE)
    (one.root / "train/2.png").unlink()
    assert len(one.read().skipped) == 2


def test_an_image_of_no_known_size_that_cannot_be_read_is_left_out(one: CocoFolder) -> None:
    one.image(1, width=None)
    (one.root / "train/1.png").write_bytes(b"no picture")
    read = one.read()
    assert len(read) == 1 and len(read.skipped) == 1 and "train/1.png" in read.skipped[0]


def test_other_classes_matter_only_where_they_have_a_box(one: CocoFolder, refuses: Callable[..., Any]) -> None:
    one.box(20, 7, [1, 1, 0, 5])
    one.box(20, 3, [1, 1, 5, 5])
    assert one.read(classes=("cat",)).labels.tolist() == [0]
    one.box(20, 90, [2, 2, 5, 5])
    one.box(20, 7, [2, 2, 5, 5])
    with refuses("instances_train.json", "'cow'", "(cat)"):
        one.read(classes=("cat",))


def test_classes_keep_the_order_of_the_caller(one: CocoFolder) -> None:
    for category in (7, 3, 90):
        one.box(20, category, [1, 1, 5, 5])
    read = one.read(classes=("cow", "dog", "cat"))
    assert read.classes == ("cow", "dog", "cat") and read.category_ids.tolist() == [90, 7, 3]
    assert read.labels.tolist() == [1, 2, 0]


def test_what_is_left_out_of_several_files(one: CocoFolder) -> None:
    one.box(20, 3, [1, 1, 0, 0])
    one.box(20, 3, [1, 1, 5, 5])
    one.write()
    other = CocoFolder(one.root)
    other.image(5, "val")
    other.box(5, 90, [2, 2, 0, 5])
    other.box(5, 90, [2, 2, 5, 5], iscrowd=1, area=3)
    other.write("annotations/instances_val.json")
    read = read_coco(one.root, "train+val")
    assert [Path(read.file(index)).name for index in range(2)] == ["20.png", "5.png"]
    assert ["instances_train" in read.skipped[0], "instances_val" in read.skipped[1]] == [True, True]
    assert read.labels.tolist() == [0, 2] and read.difficult.tolist() == [False, True]
    assert read.areas.tolist() == [25, 3] and read.sizes.tolist() == [[HEIGHT, WIDTH]] * 2


# Messages


def test_a_missing_split_names_the_json_files_there(coco: CocoFolder, refuses: Callable[..., Any]) -> None:
    coco.root.mkdir(parents=True)
    with refuses("'train'", "annotations/instances_train.json", "found: none"):
        read_coco(coco.root, "train")
    for name in "cabdefghi":
        coco.write(f"deep/{name}.json")
    with refuses("'train'", "deep/a.json, deep/b.json, deep/c.json", "deep/h.json and 1 more."):
        read_coco(coco.root, "train")
    with refuses("nowhere", "datasets/README.md"):
        read_coco(coco.root / "nowhere", "train")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, 3, [3], [{}, "x"]])
def test_each_list_of_a_file_must_hold_records(
    one: CocoFolder, key: str, value: object, refuses: Callable[..., Any]
) -> None:
    one.content[key] = value
    with refuses("instances_train.json", "not a COCO instances file"):
        one.read()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 3, b'{"images": '])
def test_a_file_that_is_no_json(one: CocoFolder, content: bytes, refuses: Callable[..., Any]) -> None:
    one.write().write_bytes(content)
    with refuses("instances_train.json", "cannot be read as JSON", "copy it again"):
        read_coco(one.root, "train")


@pytest.mark.parametrize(
    ("key", "field", "value", "words"),
    [
        ("images", "id", True, ["image number 1", "id True"]),
        ("images", "id", None, ["image number 1", "id None"]),
        ("images", "id", [2], ["image number 1", "id [2]"]),
        ("categories", "id", None, ["category number 1", "id None"]),
        ("categories", "id", 1.5, ["category number 1", "id 1.5"]),
        ("categories", "name", None, ["category number 1", "name None"]),
        ("categories", "name", " ", ["category number 1", "name ' '"]),
    ],
)
def test_a_field_of_another_kind(
    one: CocoFolder, key: str, field: str, value: object, words: list[str], refuses: Callable[..., Any]
) -> None:
    one.image(10)
    one.content[key] = [dict(item) for item in one.content[key]]
    one.content[key][1][field] = value
    with refuses("instances_train.json", *words):
        one.read()


@pytest.mark.parametrize("name", [None, 5, ""])
def test_an_image_without_a_file_name_is_missing(one: CocoFolder, name: object) -> None:
    one.image(10)
    one.content["images"][1]["file_name"] = name
    read = one.read()
    assert len(read) == 1 and "image number 10" in read.skipped[0] and "missing" in read.skipped[0]


def test_the_first_trouble_of_a_data_set_without_images(one: CocoFolder, refuses: Callable[..., Any]) -> None:
    one.box(20, 3, [1, 2])
    with refuses(f"No object of {one.root}, train, can be used", "annotation 1 of 20.png has no box"):
        one.read()
    (one.root / "train/20.png").unlink()
    with refuses(f"No image of {one.root}, train, can be used", "20.png", "is missing."):
        one.read()
    one.content = json.loads(json.dumps(one.content)) | {"images": [], "annotations": []}
    with refuses("it lists none."):
        one.read()


def test_a_class_that_no_category_has(one: CocoFolder, refuses: Callable[..., Any]) -> None:
    with refuses("no category 'unicorn': name", "its 3 in data.classes"):
        one.read(classes=("cat", "unicorn"))
    with refuses("no category 'cows', did you mean 'cow'"):
        one.read(classes=("cows",))
