"""The commands: the examples in their manuals, what they write, and what they say when something is wrong."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, get_type_hints

import cv2
import numpy as np
import pytest
from programs import run_program

from resdet.cli import COMMANDS, load, read, usage
from resdet.config import SHAPES_CLASSES, ClsConfig, DetConfig, load_config, to_dict
from resdet.data.build import read_annotations
from resdet.evaluation.coco import STATS
from resdet.evaluation.report import score
from resdet.evaluation.voc import read_voc_results

REPOSITORY = Path(__file__).parents[1]
PLOTS = [
    *("precision_recall.png", "class_ap.png", "confusion.png", "errors.png", "proposal_recall.png"),
    "detections.png",
]
DEMO = ("train-det", "eval-det", "detect")
# What makes the demo small enough for a test.
SMALL = (
    *("--solver.steps", "2", "--solver.batch-size", "2", "--solver.eval-every", "0", "--solver.precision", "fp32"),
    *("--data.workers", "0", "--data.short-sides", "64", "--data.test-short-side", "64", "--device", "cpu"),
    *("--roi.batch_size_per_image", "8", "--model.pool-size", "4", "--test.post-nms-topk", "10"),
)


def examples(command: str) -> list[str]:
    """The command lines in the manual of a command."""
    manual = inspect.cleandoc(load(command).__doc__ or "")
    return [line.strip() for line in manual.splitlines() if line.startswith("    ") and "resdet " in line]


EXAMPLES = [(command, line) for command in COMMANDS for line in examples(command)]


def arguments_of(command: str, line: str) -> list[str]:
    """What a command line hands to its command."""
    words = shlex.split(line)
    return words[1 + words.index(command) :]


@pytest.fixture
def workplace(tmp_path: Path, shapes_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the repository, as far as the examples need one: tools, recipes, a small data set, a run."""
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/shapes").symlink_to(shapes_root)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# The examples


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_examples_and_a_tool(command: str) -> None:
    lines = examples(command)
    assert lines and all(f"resdet {command}" in line for line in lines)
    tool = REPOSITORY / "tools" / f"{command.replace('-', '_')}.py"
    assert f'main(["{command}", *sys.argv[1:]])' in tool.read_text()


def test_every_tool_is_a_command() -> None:
    assert {path.stem.replace("_", "-") for path in (REPOSITORY / "tools").glob("*.py")} == set(COMMANDS)


@pytest.mark.parametrize(("command", "line"), EXAMPLES)
def test_an_example_is_understood(
    command: str, line: str, workplace: Path, shapes_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resdet.experiments.new_recipe.can_be_had", lambda name: False)
    (workplace / "photos").symlink_to(shapes_root)
    shutil.make_archive("photos", "zip", shapes_root)
    for name, kind in (("shapes_r18", DetConfig), ("photos", DetConfig), ("cifar10_r20_quick", ClsConfig)):
        (workplace / "runs" / name).mkdir(parents=True)
        config = to_dict(load_config(f"configs/{name.replace('photos', 'shapes_r18')}.py", (), kind))
        (workplace / "runs" / name / "config.json").write_text(json.dumps(config))
    assert read(command, arguments_of(command, line))


def test_the_examples_of_the_demo_run(
    workplace: Path, tools_environment: dict[str, str], forkserver: ForkServerContext
) -> None:
    """Train, evaluate, detect: the first example of each tool; the first of them exactly as a user starts it."""
    shutil.copy(workplace / "datasets/shapes/JPEGImages/val_00000.jpg", workplace / "photo.jpg")
    arguments = {name: arguments_of(name, examples(name)[0]) for name in DEMO}
    tools = {name: f"tools/{name.replace('-', '_')}.py" for name in DEMO}
    command = [sys.executable, tools["train-det"], *arguments["train-det"], *SMALL]
    done = subprocess.run(command, env=tools_environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    printed = {"train-det": done.stdout}
    for name, more in (("eval-det", SMALL), ("detect", ("--min-score", "0"))):
        status, printed[name] = run_program(forkserver, [tools[name], *arguments[name], *more], workplace)
        assert status == 0, printed[name]
    assert "train: 6 images" in printed["train-det"] and "step 2/2" in printed["train-det"]
    assert all(name in printed["eval-det"] for name in SHAPES_CLASSES)
    assert "photo.jpg: " in printed["detect"]
    run = workplace / "runs/shapes_r18"
    written = {path.name for path in run.iterdir()}
    assert written == {
        *("config.json", "model.safetensors", "last.safetensors", "state.pt"),
        *("metrics.jsonl", "metrics.json", "curves.png", "tensorboard", "eval"),
    }
    assert json.loads((workplace / "detections/detections.json").read_text()).keys() == {"photo.jpg"}
    shutil.rmtree(run)


# Help, and arguments that are none


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(arguments: Sequence[str], cli: Callable[..., Any]) -> None:
    status, out, err = cli(*arguments)
    assert (status, err) == (0, "") and out == usage() + "\n"
    for name in COMMANDS:
        assert f"  {name} " in out and (load(name).__doc__ or "").splitlines()[0] in out


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_of_a_command_is_complete(
    command: str, flag: str, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an empty folder: usage, the whole manual, every argument and every setting, each in a sentence."""
    monkeypatch.chdir(tmp_path)
    status, out, err = cli(command, flag)
    assert (status, err) == (0, "") and out.startswith(f"usage: resdet {command} ")
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", out).split())
    assert " ".join((load(command).__doc__ or "").split()) in shown
    for name, sentence in documented(load(command).Arguments):
        flag = f"--{name.replace('_', '-')}"
        assert re.search(rf"{flag}[ ,].{{1,200}}{re.escape(sentence)}|[A-Z\]] {re.escape(sentence)}", shown), name


def documented(kind: type) -> Iterator[tuple[str, str]]:
    """Name and docstring of each field of a dataclass of arguments or settings, those of its sections included."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if field.name == "config":
            config = hint if isinstance(hint, type) else DetConfig
            yield from documented(config)
        elif dataclasses.is_dataclass(hint):
            yield from ((f"{field.name}.{name}", sentence) for name, sentence in documented(hint))  # type: ignore
        elif field.name != "given":
            yield field.name, sentence_of(kind, field.name)


def sentence_of(kind: type, name: str) -> str:
    """The string below a field, in the class or in the one that it inherits the field from."""
    for cls in kind.__mro__:
        (body,) = (
            node
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls))))
            if isinstance(node, ast.ClassDef)
        )
        for statement, following in itertools.pairwise(body.body):
            if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == name:
                assert isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                return " ".join(str(following.value.value).split())
    raise AssertionError(f"{kind.__name__}.{name} has no docstring")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_written_in_sentences(command: str) -> None:
    for name, sentence in documented(load(command).Arguments):
        assert re.match(r"[A-Z]", sentence) and sentence.endswith("."), (name, sentence)
        assert not re.match(r"(Of|The same)\b", sentence), (name, sentence)


@pytest.mark.parametrize("arguments", [("--help",), ("train-det", "shapes_r18", "--help")])
def test_help_does_not_wait_for_torch(arguments: Sequence[str], tools_environment: dict[str, str]) -> None:
    script = "import sys; from resdet.cli import main\ntry: main(sys.argv[1:])\nfinally: print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=tools_environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and not {"'torch'", "'albumentations'", "'cv2'"} & set(
        done.stdout.splitlines()[-1].strip("[]").split(", ")
    ), done.stdout[-300:]


@pytest.mark.parametrize("statement", ["import resdet", "import resdet; resdet.load_config('voc07_r101')"])
def test_a_recipe_needs_no_torch(statement: str, tools_environment: dict[str, str]) -> None:
    script = f"{statement}; import sys; assert not {{'torch', 'albumentations', 'cv2'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], env=tools_environment, check=True, timeout=60)


def test_the_recipe_may_stand_anywhere_on_the_command_line(recipe: Path, finished: Path) -> None:
    words = ["--weights", str(finished), "--solver.lr", "0.5"]
    for place in range(0, 5, 2):
        arguments = read("eval-det", [*words[:place], str(recipe), *words[place:]])
        assert arguments.config.solver.lr == 0.5 and arguments.config.model.depth == 18
        assert arguments.config.name == "tiny" and arguments.weights == str(finished)


def test_resume_takes_no_recipe(recipe: Path, finished: Path, complains: Callable[..., None]) -> None:
    complains(["train-det", recipe, "--resume", finished], finished, "leave out the recipe")


def test_an_unknown_command_is_answered_with_the_list(cli: Callable[..., Any]) -> None:
    status, out, _ = cli("trian-det")
    assert status == 2 and "  train-det " in out


def test_a_setting_has_its_docstring_for_help(recipe: Path, cli: Callable[..., Any]) -> None:
    status, out, _ = cli("train-det", recipe, "--help")
    assert status == 0 and "--solver.lr" in out and "Learning rate after warm-up" in " ".join(out.split())


def test_a_misspelt_setting_is_answered_with_the_right_one(recipe: Path, cli: Callable[..., Any]) -> None:
    status, out, err = cli("train-det", recipe, "--solver.learning-rat", 1)
    assert status == 2 and "--solver.l" in out + err and "Traceback" not in out + err


@pytest.mark.parametrize("command", ["train-det", "eval-det"])
def test_without_a_recipe_the_message_shows_one(command: str, workplace: Path, cli: Callable[..., Any]) -> None:
    status, _, err = cli(command)
    assert status == 1 and err.count("\n") == 1 and "shapes_r18" in err


def test_without_a_recipe_training_lists_them_all(
    workplace: Path, cli: Callable[..., Any], assert_sentence: Callable[..., None]
) -> None:
    recipes = [path.stem for path in (REPOSITORY / "configs").rglob("*.py")]
    for arguments in ((), ("configs/voc.py",)):
        status, _, err = cli("train-det", *arguments)
        assert status == 1 and "Traceback" not in err
        assert all(recipe in err for recipe in recipes)


# One sentence for each trouble


def test_a_missing_data_set(recipe: Path, complains: Callable[..., None], tmp_path: Path) -> None:
    missing = ("--data.root", tmp_path / "nowhere", "--data.source", "ftp://example.org/data.zip")
    complains(["train-det", recipe, *missing], tmp_path / "nowhere", "missing", "ftp://example.org/data.zip")
    assert not (tmp_path / "runs").exists()


def test_a_missing_list_of_images(recipe: Path, complains: Callable[..., None]) -> None:
    complains(["train-det", recipe, "--data.train", "trainval"], "trainval.txt", "train, val")


def test_a_batch_that_cannot_be_shared(recipe: Path, complains: Callable[..., None]) -> None:
    complains(["train-det", recipe, "--solver.accumulate", 4], "batch_size 2", "a multiple of 4")


def test_nothing_to_resume(tmp_path: Path, complains: Callable[..., None]) -> None:
    complains(["train-det", "--resume", tmp_path / "run"], "Nothing to resume", tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (("--model.depth", 34), "model.depth"),
        (("--data.classes", *SHAPES_CLASSES[:2]), "data.classes"),
        (("--solver.optimizer", "adamw"), "solver.optimizer"),
    ],
)
def test_a_resume_with_another_network(
    change: Sequence[object], name: str, finished: Path, complains: Callable[..., None]
) -> None:
    before = (finished / "config.json").read_text()
    complains(["train-det", "--resume", finished, "--solver.steps", 7, *change], name, f"--init-weights {finished}")
    assert (finished / "config.json").read_text() == before


def test_no_weights_to_evaluate(recipe: Path, complains: Callable[..., None], tmp_path: Path) -> None:
    complains(["eval-det", recipe, "--weights", tmp_path / "run"], tmp_path / "run", "train first")


def test_damaged_weights(recipe: Path, complains: Callable[..., None], tmp_path: Path, shapes_root: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 100)
    complains(["eval-det", recipe, "--weights", tmp_path / "bad.safetensors"], tmp_path / "bad.safetensors")
    photo = shapes_root / "JPEGImages/val_00000.jpg"
    complains(["detect", photo, "--weights", tmp_path / "bad.safetensors"], tmp_path / "bad.safetensors")


def test_weights_of_another_model(recipe: Path, finished: Path, complains: Callable[..., None]) -> None:
    other = ["eval-det", recipe, "--weights", finished, "--model.pooling", "align"]
    complains(other, finished, "model.pooling pool there, align here")


@pytest.mark.parametrize("classes", [SHAPES_CLASSES[:2], SHAPES_CLASSES[::-1]])
def test_weights_of_other_classes(
    classes: Sequence[str], recipe: Path, finished: Path, complains: Callable[..., None]
) -> None:
    """Also the same names in another order: every label would be wrong."""
    other = ("--data.classes", *classes, "--data.other-classes", "ignore")
    complains(["eval-det", recipe, "--weights", finished, *other], finished, ", ".join(classes), "order")


def test_no_readable_image_to_detect_on(
    finished: Path, complains: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "note.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    complains(["detect", tmp_path, tmp_path / "gone.jpg", "--weights", finished], "None of the images")
    complains(["detect", tmp_path, "--weights", finished], "No image found", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


# What the commands write


def test_the_recipe_says_how_to_test(recipe: Path, finished: Path, cli: Callable[..., Any]) -> None:
    """Not the file, which holds what was set in the training."""
    status, _, err = cli("eval-det", recipe, "--weights", finished, "--test.max-detections", 1)
    found = json.loads((recipe.parent / "runs/tiny/eval/coco_results.json").read_text())
    assert (status, err) == (0, "") and 0 < len(found) <= 4


def test_an_evaluation_leaves_its_report(
    recipe: Path, finished: Path, cli: Callable[..., Any], shapes_root: Path
) -> None:
    status, out, err = cli("eval-det", recipe, "--weights", finished / "last.safetensors")
    assert (status, err) == (0, "") and "val: 4 images" in out
    report = recipe.parent / "runs/tiny/eval"
    assert str(report) in out
    figures = json.loads((report / "metrics.json").read_text())
    parts = {"errors", "confusion", "proposals", "per_class", "coco_limit"}
    assert set(figures) == {"images", "map07", "map", *STATS, *parts}
    assert figures["images"] == 4 and set(figures["per_class"]) == set(SHAPES_CLASSES)
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    for name in ("map07", "map", "ap", "ap50", "ap75"):
        assert figures[name] == pytest.approx(last[name], rel=1e-5)  # logged with six digits
    for name in PLOTS:
        assert cv2.imread(str(report / name)).std() > 1
    results = {path.name: path.read_text().splitlines() for path in (report / "voc").iterdir()}
    assert set(results) == {f"comp4_det_test_{name}.txt" for name in SHAPES_CLASSES}
    found = [line.split() for lines in results.values() for line in lines]
    assert found and all(len(words) == 6 for words in found)
    assert {words[0] for words in found} <= set((shapes_root / "ImageSets/Main/val.txt").read_text().split())

    # The detections alone give the same figures from COCO's file. VOC's rounds the scores to six digits, which are
    # the same for many detections of a network this young: it gives the figures of what it holds.
    annotations = read_annotations(load_config(recipe).data, "val", SHAPES_CLASSES)
    ids = [annotations.id(index) for index in range(len(annotations))]
    rounded = score(read_voc_results(report / "voc", ids, SHAPES_CLASSES), annotations).figures()
    for detections, expected in ((report / "coco_results.json", figures), (report / "voc", rounded)):
        status, out, err = cli("eval-det", recipe, "--detections", detections, "--data.workers", 0)
        assert (status, err) == (0, "") and "val: 4 images" in out
        saved = report.with_name("eval_saved")
        again = json.loads((saved / "metrics.json").read_text())
        assert set(again) == set(figures) - {"proposals"}
        for name in ("map07", "map", "ap", "ap50", "ap75"):
            assert again[name] == expected[name]
        if expected is figures:
            assert again == {name: value for name, value in figures.items() if name != "proposals"}
            assert (report / "coco_results.json").read_bytes() == (saved / "coco_results.json").read_bytes()
    names = {path.name for path in report.iterdir()}
    assert {path.name for path in saved.iterdir()} == names - {"proposal_recall.png"}


def test_saved_detections_of_another_data_set(recipe: Path, complains: Callable[..., None], tmp_path: Path) -> None:
    saved = tmp_path / "results.json"
    saved.write_text('[{"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    complains(["eval-det", recipe, "--detections", saved], saved, "image 5", "--data.val")
    complains(["eval-det", recipe, "--detections", tmp_path], tmp_path / "comp4_det_test_", "missing")
    complains(["eval-det", recipe, "--detections", tmp_path / "none"], tmp_path / "none", "No such file")


def test_detection_goes_on_after_a_broken_image(
    finished: Path, shapes_root: Path, cli: Callable[..., Any], tmp_path: Path
) -> None:
    photos, drawn = tmp_path / "photos", tmp_path / "drawn"
    photos.mkdir()
    for index in (0, 1):
        shutil.copy(shapes_root / f"JPEGImages/val_{index:05d}.jpg", photos / f"{2 * index}.jpg")
    whole = (photos / "0.jpg").read_bytes()
    (photos / "1.jpg").write_bytes(whole[: len(whole) // 2])
    status, out, err = cli("detect", photos, "--weights", finished, "--output", drawn, "--min-score", 0)
    assert (status, err) == (0, "") and "skipped" in out and "1.jpg" in out
    assert sorted(path.name for path in drawn.iterdir()) == [
        *("0_detections.jpg", "2_detections.jpg", "detections.json")
    ]
    found = json.loads((drawn / "detections.json").read_text())
    assert set(found) == {str(photos / "0.jpg"), str(photos / "2.jpg")}
    for file, records in found.items():
        height, width, _ = cv2.imread(file).shape
        assert records and all(set(record) == {"class", "score", "box"} for record in records)
        assert all(record["class"] in SHAPES_CLASSES and 0 <= record["score"] <= 1 for record in records)
        for x1, y1, x2, y2 in (record["box"] for record in records):
            assert 0 <= x1 <= x2 <= width + 0.01 and 0 <= y1 <= y2 <= height + 0.01
        picture = cv2.imread(str(drawn / f"{Path(file).stem}_detections.jpg"))
        assert picture.shape == (height, width, 3)


def test_images_of_one_name_have_a_picture_each(
    finished: Path, shapes_root: Path, cli: Callable[..., Any], tmp_path: Path
) -> None:
    photos = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "b/x.jpeg")]
    for index, photo in enumerate(photos):
        photo.parent.mkdir(exist_ok=True)
        shutil.copy(shapes_root / f"JPEGImages/val_{index:05d}.jpg", photo)
    assert cli("detect", *photos, "--weights", finished, "--output", tmp_path / "drawn")[0] == 0
    names = ["x_detections.jpg", "x_detections_2.jpg", "x_detections_3.jpg"]
    pictures = [cv2.imread(str(tmp_path / "drawn" / name)) for name in names]
    for photo, picture in zip(photos, pictures, strict=True):
        assert np.median(np.abs(cv2.imread(str(photo)).astype(int) - picture)) < 4


def test_few_detections_reach_a_high_score(
    finished: Path, shapes_root: Path, cli: Callable[..., Any], tmp_path: Path
) -> None:
    photo = shapes_root / "JPEGImages/val_00000.jpg"
    status, out, _ = cli("detect", photo, "--weights", finished, "--output", tmp_path, "--min-score", 0.99)
    assert status == 0 and f"{photo}: no detections" in out
    assert json.loads((tmp_path / "detections.json").read_text()) == {str(photo): []}


@pytest.fixture
def album(tmp_path: Path, shapes_root: Path) -> Path:
    """Images in sub-folders, under names of all kinds, and other files."""
    folder = tmp_path / "my photos"
    for index, name in enumerate(("ä 1.jpg", "ä 1.v2.jpg", "sub/1.jpg", "sub/deeper/1.JPG", ".hidden/1.jpg")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shapes_root / f"JPEGImages/val_{index % 4:05d}.jpg", folder / name)
    for name in ("notes.txt", ".DS_Store", "sub/clip.mp4"):
        (folder / name).write_text("x")
    return folder


def test_detections_mirror_the_folders_of_the_images(
    finished: Path, album: Path, cli: Callable[..., Any], tmp_path: Path
) -> None:
    status, out, err = cli("detect", album, "--weights", finished, "--output", tmp_path / "out")
    assert (status, err) == (0, "")
    assert "not images by their names" in out and "notes.txt" in out and "clip.mp4" in out and "DS_Store" not in out
    written = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    pictures = {
        "ä 1_detections.jpg",
        "ä 1.v2_detections.jpg",
        "sub/1_detections.jpg",
        "sub/deeper/1_detections.jpg",
    }
    assert written == pictures | {"detections.json"}
    found = json.loads((tmp_path / "out/detections.json").read_text())
    assert list(found) == [str(album / name) for name in ("ä 1.jpg", "ä 1.v2.jpg", "sub/1.jpg", "sub/deeper/1.JPG")]


def test_detecting_again_leaves_out_what_was_drawn(finished: Path, album: Path, cli: Callable[..., Any]) -> None:
    """Whether the pictures lie among the photographs, below them, or were moved and renamed."""
    photographs = {file: file.read_bytes() for file in album.rglob("*") if file.is_file()}
    for output in (album, album / "sub", album / "new"):
        status, out, _ = cli("detect", album, "--weights", finished, "--output", output)
        assert status == 0 and len(json.loads((output / "detections.json").read_text())) == 4, out
        assert ("an earlier detection drew" in out) == (output != album)
    (album / "sub/1_detections.jpg").rename(album / "sub/2.jpg")
    named = [file for file in album.rglob("*.jpg") if ".hidden" not in file.parts]
    assert cli("detect", *named, "--weights", finished, "--output", album / "sub")[0] == 0
    assert len(json.loads((album / "sub/detections.json").read_text())) == 3
    assert all(file.read_bytes() == content for file, content in photographs.items())


def test_names_that_are_not_utf_8(finished: Path, album: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    strange = os.fsencode(tmp_path) + b"/strange"
    os.mkdir(strange)
    try:
        shutil.copy(os.fsencode(album / "sub/1.jpg"), strange + b"/caf\xe9.jpg")
    except OSError:
        pytest.skip("this file system knows UTF-8 only")
    status, out, _ = cli("detect", tmp_path / "strange", "--weights", finished, "--output", tmp_path / "out")
    assert status == 0 and out.encode("utf-8")
    text = (tmp_path / "out/detections.json").read_bytes().decode("utf-8")
    assert list(json.loads(text)) == [str(tmp_path / "strange") + "/caf\\xe9.jpg"]
    assert "\\ud" not in text
    assert os.path.exists(os.fsencode(tmp_path) + b"/out/caf\xe9_detections.jpg")


@pytest.mark.parametrize("score", ["1.5", "-0.1", "nan", "50"])
def test_a_score_that_cannot_be(finished: Path, album: Path, complains: Callable[..., None], score: str) -> None:
    complains(["detect", album, "--weights", finished, "--min-score", score], "between 0 and 1")


def test_where_detections_cannot_go_or_come_from(
    finished: Path, album: Path, complains: Callable[..., None], tmp_path: Path
) -> None:
    photo = album / "sub/1.jpg"
    complains(["detect", photo, "--weights", finished, "--output", photo], photo, "is a file", "--output")
    for place, words in (
        ("https://example.org/a.jpg", ("https://example.org/a.jpg", "download")),
        (album / "sub/clip.mp4", ("ffmpeg",)),
        (album / "*.png", ("No file matches",)),
        ("0", ("camera",)),
    ):
        complains(["detect", photo, place, "--weights", finished, "--output", tmp_path / "out"], *words)
    (tmp_path / "empty").mkdir()
    complains(["detect", tmp_path / "empty", "--weights", finished], "No image found", tmp_path / "empty")
    complains(["detect", "--weights", finished], "No image given")
    assert not (tmp_path / "out").exists()
