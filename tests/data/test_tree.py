"""Which files below a folder are a data set's, which split they are of, and which of them belong together."""

from __future__ import annotations

import os
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resdet.data.tree import Partners, Tree, is_hidden, listing, split_word, split_words, stem, unique_names


def grow(root: Path, *names: str) -> Tree:
    """A folder of empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return Tree(root)


def below(tree: Tree, paths: list[Path]) -> list[str]:
    """As they are called from the root."""
    return [path.relative_to(tree.root).as_posix() for path in paths]


# Files


def test_files_are_sorted_and_images_known_by_their_endings(tmp_path: Path) -> None:
    tree = grow(tmp_path, "b/2.JPG", "b/10.webp", "a.xml", "c.txt", "b/deep/x.Tif", "d.jpg.txt")
    assert below(tree, tree.files) == ["a.xml", "c.txt", "d.jpg.txt", "b/10.webp", "b/2.JPG", "b/deep/x.Tif"]
    assert below(tree, tree.images) == ["b/10.webp", "b/2.JPG", "b/deep/x.Tif"]
    assert below(tree, tree.ending(".txt", ".xml")) == ["a.xml", "c.txt", "d.jpg.txt"]


def test_hidden_files_are_left_out_and_hidden_images_counted(tmp_path: Path) -> None:
    names = [
        ".git/x.jpg",
        ".a.jpg",
        "__MACOSX/b/._c.jpg",
        "@eaDir/d.jpg/SYNO.jpg",
        ".hidden/deep/e.PNG",
        ".notes.txt",
    ]
    tree = grow(tmp_path, "good.jpg", *names)
    assert below(tree, tree.files) == ["good.jpg"] and tree.hidden == 5
    assert is_hidden(".x") and is_hidden("$RECYCLE.BIN") and not is_hidden("x.")


def test_links_are_followed_once(tmp_path: Path) -> None:
    grow(tmp_path, "elsewhere/1.jpg", "root/own/2.jpg")
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/own/back").symlink_to(tmp_path / "root")
    (tmp_path / "root/broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    tree = Tree(tmp_path / "root")
    assert below(tree, tree.images) == ["broken.jpg", "link/1.jpg", "own/2.jpg"]


def test_masks_beside_images_are_not_images(tmp_path: Path) -> None:
    """Whatever a data set of face masks is called."""
    tree = grow(tmp_path, "images/1.jpg", "images/2.jpg", "SegmentationClass/1.png", "masks/2.png", "masks/3.png")
    assert below(tree, tree.images) == ["images/1.jpg", "images/2.jpg"]
    other = grow(tmp_path / "other", "with_mask/1.jpg", "without_mask/1.jpg")
    assert len(other.images) == 2


def test_a_missing_folder_is_told_with_its_source(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    with refuses(tmp_path / "no", "ask Anna"):
        Tree.of(tmp_path / "no", "ask Anna")
    with refuses("datasets/README.md"):
        Tree.of(tmp_path / "no", "")


# Splits


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("train2017", "train"),
        ("lvis_v1_train", "train"),
        ("trainval", "train"),
        ("Train Images", "train"),
        ("valid", "val"),
        ("val_annotations", "val"),
        ("instances-validation", "val"),
        ("dev.json", "val"),
        ("TEST", "test"),
        ("test1", "test"),
        ("all", ""),
        ("my-test-data", ""),
        ("contest", ""),
        ("evaluated", ""),
        ("", ""),
        ("2007", ""),
    ],
)
def test_the_split_that_a_name_names(name: str, word: str) -> None:
    assert split_word(name) == word


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("images/train/a.jpg", "train"),
        ("Train/images/a.jpg", "Train"),
        ("test_data/val2/a.jpg", "val2"),
        ("test set/train/cam_test/a.jpg", "train"),
        ("train/val/a.jpg", "val"),
        ("images/a.jpg", "all"),
        ("train.jpg", "all"),
    ],
)
def test_the_split_of_a_file_is_that_of_its_folder(tmp_path: Path, path: str, group: str) -> None:
    assert Tree(tmp_path / "train").group(tmp_path / "train" / path) == group


def test_the_splits_that_folders_name() -> None:
    assert split_words(["train", "images", "val2"]) == {"train", "val"} and split_words([]) == set()


# The image that an annotation names


@pytest.mark.parametrize(
    "name",
    [
        "a b.jpg",
        "./a b.jpg",
        " a b.jpg ",
        "images/a b.jpg",
        "images\\a b.jpg",
        "C:\\Users\\me\\images\\a b.jpg",
        "/home/me/old/images/a b.jpg",
        "../../images/a b.jpg",
        "a%20b.jpg",
        "https://example.org/x/a%20b.jpg",
        "A B.JPG",
        "a b.png",
        "a b",
    ],
)
def test_an_image_is_found_by_what_other_machines_call_it(tmp_path: Path, name: str) -> None:
    tree = grow(tmp_path, "deep/images/a b.jpg", "deep/images/a.jpg", "deep/images/b.jpg")
    found = tree.image(name, tmp_path / "annotations")
    assert found == tmp_path / "deep/images/a b.jpg"


def test_letters_with_marks_are_found_composed_or_not(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Übung é.jpg") for form in ("NFC", "NFD"))
    assert grow(tmp_path / "a", apart).image(composed, tmp_path) == tmp_path / "a" / apart
    assert grow(tmp_path / "b", composed).image(apart, tmp_path) == tmp_path / "b" / composed
    assert stem(apart) == stem(composed)


@pytest.mark.parametrize(("stored", "name"), [(b"caf\xe9.jpg", "café.jpg"), ("数据.jpg".encode("gbk"), "数据.jpg")])
def test_names_in_the_letters_of_old_windows_are_found(tmp_path: Path, stored: bytes, name: str) -> None:
    path = os.fsencode(tmp_path) + b"/" + stored
    with open(path, "wb"):
        assert Tree(tmp_path).image(name, tmp_path) == Path(os.fsdecode(path))


def test_the_nearest_of_several_images_is_meant_and_a_tie_is_none(tmp_path: Path) -> None:
    tree = grow(tmp_path, "one/images/1.jpg", "two/images/1.jpg", "two/images/2.jpg", "two/more/2.jpg")
    assert tree.image("1.jpg", tmp_path / "two/labels") == tmp_path / "two/images/1.jpg"
    assert tree.image("x/one/images/1.jpg", tmp_path / "two") == tmp_path / "one/images/1.jpg"
    assert tree.image("1.jpg", tmp_path / "labels") is None
    assert tree.image("2.jpg", tmp_path / "two") is None
    assert tree.image("more/2.jpg", tmp_path / "two/x") == tmp_path / "two/more/2.jpg"


def test_of_images_that_differ_in_their_ending_the_usual_one_is_meant(tmp_path: Path) -> None:
    tree = grow(tmp_path, "1.png", "1.tif", "1.PNG", "1.bmp")
    assert tree.image("x/1.bmp", tmp_path / "y") == tmp_path / "1.bmp"
    assert tree.image("1.jpg", tmp_path / "y") == tmp_path / "1.png"
    assert tree.image("x/1.PNG", tmp_path / "y") == tmp_path / "1.PNG"


def test_an_image_of_another_split_is_not_meant(tmp_path: Path) -> None:
    tree = grow(tmp_path, "val/1.jpg", "train/2.jpg", "other/3.jpg")
    assert tree.image("1.jpg", tmp_path, "train") is None
    assert tree.image("train/1.jpg", tmp_path) is None
    assert tree.image("2.jpg", tmp_path, "train2017") == tmp_path / "train/2.jpg"
    assert tree.image("3.jpg", tmp_path, "train") == tmp_path / "other/3.jpg"


@pytest.mark.parametrize("name", ["", " ", "/", "..", "\0.jpg", "x" * 300 + ".jpg", ".", "a/b/"])
def test_names_that_no_image_has(tmp_path: Path, name: str) -> None:
    assert grow(tmp_path, "1.jpg").image(name, tmp_path) is None


def test_the_home_of_the_images_of_a_file(tmp_path: Path) -> None:
    """A single picture beside the annotations is none of those that a file of many names."""
    tree = grow(tmp_path, "a/notes/chart.png", *(f"a/images/{n}.jpg" for n in range(4)), "b/images/9.jpg")
    file = tmp_path / "a/notes/all.json"
    assert tree.home(file, 2) == tmp_path / "a/notes" and tree.home(file, 6) == tmp_path / "a"
    assert tree.home(file, 12) == tmp_path and tree.home(file, 99) == tmp_path
    assert tree.home(Path("/elsewhere/x.json"), 1) == tmp_path
    assert tree.image("9.jpg", file.parent) == tmp_path / "b/images/9.jpg"
    assert tree.image("9.jpg", file.parent, home=tmp_path / "a") is None


# Places that a description names


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("images/train", "images/train"),
        ("./images/train/", "images/train"),
        ("images\\train", "images/train"),
        ("../images/train", "images/train"),
        ("/content/drive/data/images/train", "images/train"),
        ("C:/data/images/train", "images/train"),
        ("set/images/train", "images/train"),
        ("data/train.txt", "train.txt"),
        ("images/none", None),
        ("val/images", None),
    ],
)
def test_a_place_is_found_though_it_was_moved(tmp_path: Path, name: str, place: str | None) -> None:
    tree = grow(tmp_path / "set", "images/train/1.jpg", "train.txt")
    found = tree.place(name, tree.root)
    assert found is not None and place and found.resolve() == tree.root / place if place else found is None


# Partners


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("1.jpg", "1.txt"),
        ("images/1.jpg", "labels/1.txt"),
        ("train/images/1.jpg", "train/labels/1.txt"),
        ("images/train/1.jpg", "labels/train/1.txt"),
        ("images/train/1.jpg", "train/labels/1.txt"),
        ("data/cam 1/1.jpg", "obj_train_data/cam 1/1.txt"),
        ("JPEGImages/1.jpg", "Annotations/1.txt"),
        ("photos/1.jpg", "anything/else/1.txt"),
        ("train/photos/1.jpg", "train labels/1.txt"),
        ("images/É.JPG", "labels/é.TXT"),
    ],
)
def test_an_image_and_a_file_in_a_folder_beside_its_own_are_partners(tmp_path: Path, image: str, text: str) -> None:
    tree = grow(tmp_path, image, text, "images/val/2.jpg", "labels/val/2.txt")
    partners = Partners(tree, tree.ending(".txt"))
    assert partners.of_image(tmp_path / image) == tmp_path / text
    assert partners.of_file(tmp_path / text) == tmp_path / image


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("train/1.jpg", "val/1.txt"),
        ("images/train/1.jpg", "labels/test/1.txt"),
        ("one/1.jpg", "two/1.txt"),  # with another 1.jpg
        ("a.jpg", "b.txt"),
    ],
)
def test_these_are_none(tmp_path: Path, image: str, text: str) -> None:
    tree = grow(tmp_path, image, text, "three/1.jpg")
    partners = Partners(tree, tree.ending(".txt"))
    assert partners.of_image(tmp_path / image) is None and partners.of_file(tmp_path / text) is None


def test_an_annotation_names_an_image_that_is_nobody_else_s(tmp_path: Path) -> None:
    """Whoever comes first."""
    tree = grow(tmp_path, "a/1.jpg", "b/1.xml", "b/2.xml", "b/3.xml", "a/x.jpg")
    files = tree.ending(".xml")
    names = dict(zip(files, ["1.jpg", "1.jpg", "x.jpg"], strict=True))
    found = Partners(tree, files).images(dict(reversed(names.items())))
    assert found == {files[0]: tmp_path / "a/1.jpg", files[2]: tmp_path / "a/x.jpg"}


# Names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["d/a.jpg", "d/b.jpg"], ["a", "b"]),
        (["d/a.jpg", "e/a.jpg", "e/b.jpg"], ["d/a", "e/a", "b"]),
        (["/x/y/a.jpg", "/x/z/a.jpg", "a.jpg"], ["y/a", "z/a", "a"]),
        (["d/a.jpg", "d/a.png"], ["d/a.jpg", "d/a.png"]),
        (["d/a.jpg", "D/A.jpg"], ["d/a.jpg", "D/A.jpg_2"]),
        (["d/a.jpg", "d/a.jpg"], ["a", "a"]),
        (["siteA/images/1.jpg", "siteB/images/1.jpg"], ["siteA/images/1", "siteB/images/1"]),
        ([], []),
    ],
)
def test_the_shortest_ends_that_tell_paths_apart(paths: list[str], names: list[str]) -> None:
    assert unique_names(paths, "/") == names


@pytest.mark.parametrize("seed", range(10))
def test_names_of_random_paths_differ_as_the_paths_do(seed: int) -> None:
    choose = random.Random(seed)
    folders, files = ["a", "b", "a_b", "A"], ["1.jpg", "1.png", "b_1.jpg", "2.jpg"]
    paths = ["/".join([*choose.choices(folders, k=choose.randrange(4)), choose.choice(files)]) for _ in range(30)]
    for join in "/_":
        names = unique_names(paths, join)
        assert len({(name.casefold(), path) for name, path in zip(names, paths, strict=True)}) == len(set(paths))
        assert len({name.casefold() for name in names}) == len(set(paths))


def test_listings_are_short() -> None:
    assert listing(["a", "b"]) == "a, b" and listing([]) == "none" and listing(list("abc"), 2) == "a, b and 1 more"
