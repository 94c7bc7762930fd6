"""Reading tables of boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resdet.data.annotations import Annotations
from resdet.data.tables import csv_splits, read_csv
from resdet.data.tree import Tree

HEIGHT, WIDTH = 40, 60


def write(root: Path, text: str, *images: str, name: str = "train.csv") -> None:
    """A table, and images in the folder of it."""
    for image in images or ("a.png", "b.png"):
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).write_bytes(cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes())
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")


def read(root: Path, split: str = "train", classes: tuple[str, ...] = (), **options: Any) -> Annotations:
    """A split of it."""
    return read_csv(root, split, classes, **options)


@pytest.mark.parametrize(
    "text",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,60,40,cat,5,6,25,30",
        "image_path;xmin;ymin;xmax;ymax;label\na.png;5;6;25;30;cat",
        "Image ID\tClass Name\tX1\tY1\tX2\tY2\na\tcat\t5\t6\t25\t30",
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\ncat,5,6,20,24,a.png,60,40",
        "image,x,y,w,h,category\na.png,5,6,20,24,cat",
        "image,x,y,width,height,category\na.png,5,6,20,24,cat",
        'file,left,top,right,bottom,label\n"a.png",5.0,"6","25",30,cat\n\n',
        "a.png,5,6,25,30,cat",
        "cat,5,6,20,24,a.png,60,40",
        "\ufefffilename,class,xmin,ymin,xmax,ymax\r\na.png,cat,5,6,25,30\r\n",
        "ImageID,LabelName,XMin,XMax,YMin,YMax\na,cat,0.083333333,0.416666667,0.15,0.75",
        "filename;class;xmin;ymin;xmax;ymax\na.png;cat;5,0;6,0;25,0;30,0",
    ],
)
def test_the_columns_of_many_tools(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    found = read(tmp_path)
    assert found.classes == ("cat",) and len(found) == 1 and Path(found.file(0)).name == "a.png"
    np.testing.assert_allclose(found.boxes, [[5, 6, 25, 30]], atol=1e-6)
    assert not found.skipped


@pytest.mark.parametrize(
    "text",
    [
        "time,loss\n1,2",
        "filename,width,height\na.png,60,40",
        "filename,class\na.png,cat",
        "cat,0\ndog,1",
        "",
        "\n\n",
        "a.txt,5,6,25,30,cat",
        "a.png,x,6,25,30,cat",
    ],
)
def test_other_tables_are_not_data_sets(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    assert csv_splits(Tree(tmp_path)) == []


HEAD = "filename,class,xmin,ymin,xmax,ymax\n"


@pytest.mark.parametrize(
    "row", ["a.png,cat,5,6,,30", "a.png,cat,5,x,25,30", "a.png,,5,6,25,30", "a.png,cat,5,6", "a.png,cat,5,6,25,nan"]
)
def test_a_broken_row_is_left_out(tmp_path: Path, row: str, assert_sentence: Callable[..., None]) -> None:
    write(tmp_path, f"{HEAD}\n{row}\nb.png,dog,1,2,3,4\n")
    found = read(tmp_path)
    assert len(found) == 2 and len(found.boxes) == 1 and found.left_out == (0, 1)
    assert_sentence(found.skipped[0], tmp_path / "train.csv", "line 3", "a.png")


def test_rows_without_a_box_are_images_without_objects(tmp_path: Path) -> None:
    write(tmp_path, "a.png,1,2,3,4,cat\nb.png,,,,,\n")
    found = read(tmp_path)
    assert found.offsets.tolist() == [0, 1, 1] and not found.skipped


def test_images_without_a_row_are_told_of(tmp_path: Path) -> None:
    write(tmp_path, f"{HEAD}a.png,cat,1,2,3,4\n", "a.png", "b.png", "val/c.png")
    found = read(tmp_path)
    assert len(found) == 1 and found.notes == (f"1 images of {tmp_path} have no row: they are not part of train.",)


def test_a_missing_image_and_one_of_another_size_are_left_out(tmp_path: Path) -> None:
    rows = "c.png,60,40,cat,1,2,3,4\na.png,60,40,cat,1,2,3,4\nb.png,70,40,cat,1,2,3,4\nb.png,70,40,cat,1,2,3,4"
    write(tmp_path, f"filename,width,height,class,xmin,ymin,xmax,ymax\n{rows}")
    found = read(tmp_path)
    assert len(found) == 1 and found.left_out == (2, 3)
    assert "c.png" in found.skipped[0] and "its 2 objects" in found.skipped[1]


def test_pixels_and_fractions_are_told_apart_for_each_table(tmp_path: Path) -> None:
    write(tmp_path, f"{HEAD}a.png,cat,0.5,0.5,1,1\na.png,cat,0,0,1,1")
    write(tmp_path, f"{HEAD}b.png,cat,0.5,0.5,10,12\nb.png,cat,0,0,1,1", name="val.csv")
    found = read(tmp_path, "train+val")
    assert found.boxes.tolist() == [[30, 20, 60, 40], [0, 0, 60, 40], [0.5, 0.5, 10, 12], [0, 0, 1, 1]]


def test_groups_are_difficult(tmp_path: Path) -> None:
    head = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf"
    write(tmp_path, f"{head}\na,cat,0,0.5,0,0.5,1\na,cat,0,0.5,0,0.5,0")
    assert read(tmp_path).difficult.tolist() == [True, False]


def test_the_splits_of_tables(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    row = "a.png,cat,1,2,3,4"
    for name in ("train_labels.csv", "test-annotations.csv", "valid/_annotations.csv", "small.csv"):
        write(tmp_path, HEAD + row, name=name)
    (tmp_path / "results.csv").write_text("epoch,loss\n1,2\n")
    assert sorted(csv_splits(Tree(tmp_path))) == ["small", "test", "train", "valid"]
    with refuses("'val'", tmp_path, "train"):
        read(tmp_path, "val")


def test_a_column_of_splits(tmp_path: Path) -> None:
    rows = ["a.png,cat,1,2,3,4,train", "b.png,cat,1,2,3,4,test", "a.png,cat,1,2,3,5,train"]
    write(tmp_path, "filename,class,xmin,ymin,xmax,ymax,split\n" + "\n".join(rows), name="all.csv")
    assert csv_splits(Tree(tmp_path)) == ["train", "test"]
    assert len(read(tmp_path, "train").boxes) == 2 and len(read(tmp_path, "test").boxes) == 1


def test_codes_of_open_images_get_their_names(tmp_path: Path) -> None:
    write(tmp_path, "ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/01,0,0.5,0,0.5\na,/m/02,0,0.5,0,0.5")
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/01,Cat\n/m/02,Dog\n")
    assert read(tmp_path).classes == ("Cat", "Dog")
