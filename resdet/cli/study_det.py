"""Studies of detectors: the papers' methods on the same data, with accuracy and seconds, as in their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from resdet.cli import alternate, propose, train_det
from resdet.cli.eval_det import network_and_data
from resdet.cli.run import go_on
from resdet.config import DetConfig, load_config, override
from resdet.data.build import given_proposals, validation_batches
from resdet.engine import runtime as runtimes
from resdet.engine.checkpoint import load_model
from resdet.errors import UserError
from resdet.evaluation import report
from resdet.evaluation.predict import predict
from resdet.evaluation.stages import TIMED_BATCHES, Stages, time_stages
from resdet.io import write_text
from resdet.visualize import plot_study

BCCD = "configs/bccd_r18.py"


@dataclass(frozen=True)
class Row:
    """A detector of a study: how it is trained, and how it is tested."""

    recipe: str
    train: tuple[str, ...] = ()
    """further settings of the training"""
    test: tuple[str, ...] = ()
    """further settings of the test; {runs} stands for the study's folder"""
    run: str = ""
    """rows of the same run share its training; the row's own if empty"""
    step: str = ""
    """which step's detector of an alternating training"""
    paper: str = ""
    """what the papers have"""


@dataclass(frozen=True)
class Study:
    """Rows by their labels."""

    paper: str
    """which of the papers' figures stand beside ours"""
    rows: dict[str, Row]


REFINE = ("--test.refine", "--test.vote-iou", "0.5")
SCALES = (*REFINE, "--test.scales", "200", "300", "400", "500")
CONTEXT = ("--model.context",)
STUDIES: dict[str, Study] = {
    # R-CNN to Faster R-CNN: Fast R-CNN, Tables 1 and 4; Faster R-CNN, Tables 2, 3 and 5
    "lineage": Study(
        "mAP on VOC07 test with VGG-16, trained on VOC07",
        {
            "R-CNN": Row("configs/lineage/rcnn_r18.py", paper="66.0"),
            "SPPnet": Row("configs/lineage/sppnet_r18.py", paper="63.1"),
            "Fast R-CNN": Row("configs/lineage/fast_rcnn_r18.py", paper="66.9"),
            "Faster R-CNN": Row("configs/lineage/faster_rcnn_r18.py", paper="69.9"),
        },
    ),
    # He et al. 2015, Table 9
    "improvements": Study(
        "AP50 on COCO with ResNet-101: val, and test-dev for the ensemble",
        {
            "baseline": Row(BCCD, paper="48.4"),
            "+ box refinement": Row(BCCD, test=REFINE, run="baseline", paper="49.9"),
            "+ context": Row(BCCD, CONTEXT, REFINE, run="context", paper="51.1"),
            "+ several scales": Row(BCCD, CONTEXT, SCALES, run="context", paper="53.8"),
            "another seed": Row(BCCD, (*CONTEXT, "--seed", "1"), SCALES, run="context_1"),
            "a third seed": Row(BCCD, (*CONTEXT, "--seed", "2"), SCALES, run="context_2"),
            "ensemble of the three": Row(
                BCCD,
                CONTEXT,
                (*SCALES, "--test.ensemble", "{runs}/context_1", "{runs}/context_2"),
                run="context",
                paper="59.0",
            ),
        },
    ),
    # Faster R-CNN, Table 2
    "proposals": Study(
        "mAP on VOC07 test with ZF, trained on selective search",
        {
            f"{count} proposals": Row(
                BCCD, test=("--test.after-nms", count, "--test.before-nms", "6000"), run="baseline", paper=paper
            )
            for count, paper in (*(("10", ""), ("30", ""), ("100", "55.1"), ("300", "56.8"), ("1000", "56.3")),)
        },
    ),
    # Faster R-CNN, Table 8
    "anchors": Study(
        "mAP on VOC07 test with VGG-16, trained on VOC07",
        {
            "1 scale, 1 ratio": Row(
                BCCD, ("--model.anchor-scales", "64", "--model.anchor-ratios", "1"), paper="65.8, 66.7"
            ),
            "1 scale, 3 ratios": Row(BCCD, ("--model.anchor-scales", "64"), paper="68.8, 67.9"),
            "3 scales, 1 ratio": Row(BCCD, ("--model.anchor-ratios", "1"), paper="69.8"),
            "3 scales, 3 ratios": Row(BCCD, paper="69.9"),
        },
    ),
    # Faster R-CNN, §3.2 and Table 3
    "sharing": Study(
        "mAP on VOC07 test with VGG-16, trained on VOC07",
        {
            "unshared": Row(BCCD, run="alternating", step="2_head", paper="68.5"),
            "shared": Row(BCCD, run="alternating", step="4_head", paper="69.9"),
            "trained together": Row(BCCD),
        },
    ),
    # Faster R-CNN, Table 9
    "lambda": Study(
        "mAP on VOC07 test with VGG-16, trained on VOC07",
        {
            f"λ = {10 * weight:g}": Row(BCCD, ("--rpn.box-weight", f"{weight:g}"), paper=paper)
            for weight, paper in ((0.01, "67.2"), (0.1, "68.9"), (1.0, "69.9"), (10.0, "69.1"))
        },
    ),
}


class Scores(NamedTuple):
    """What the detections of a study's detector are worth."""

    map07: float
    ap50: float


def of_recipe(study: Study, recipe: str) -> Study:
    """A study that compares settings of one recipe, with this one in its place."""
    if len({row.recipe for row in study.rows.values()}) > 1:
        raise UserError("This study compares recipes: --recipe is for those that compare settings of one.")
    return replace(study, rows={label: replace(row, recipe=recipe) for label, row in study.rows.items()})


def check(study: Study, settings: Sequence[str]) -> None:
    """Refuse settings that a recipe does not know, before anything is trained."""
    for row in study.rows.values():
        load_config(row.recipe, [*row.train, *settings])


def run(study: Study, folder: Path, settings: Sequence[str]) -> None:
    """Train the detectors, each with these settings, test them, and leave a table and a picture."""
    configs: dict[str, DetConfig] = {}
    scores: dict[str, Scores] = {}
    for label, row in study.rows.items():
        trained = train(label, row, settings, folder)
        to_test = [setting.format(runs=folder) for setting in row.test]
        configs[label] = override(load_model(trained).config, [*to_test, "--weights", str(trained)])
        scores[label] = test(configs[label])
        if runtimes.is_main():
            write_table(study, scores, {}, folder)  # after each row, so that an interrupted study shows some
    if runtimes.is_main():  # alone, since processes that share a machine would slow each other
        report_study(study, scores, time(configs), folder)


def report_study(study: Study, scores: Mapping[str, Scores], stages: Mapping[str, Stages], folder: Path) -> None:
    """Print the table, and leave it and a picture in `folder`."""
    print(write_table(study, scores, stages, folder))
    plot_study({label: (own.map07, stages[label]) for label, own in scores.items()}, folder / "study.png")
    print(f"The table and the picture of it are in {folder}.")


def train(label: str, row: Row, settings: Sequence[str], folder: Path) -> Path:
    """Train a detector, or go on with it, or find that it is done → its run folder."""
    runtimes.print_on_main(f"— {label}")
    name, start = row.run or label.replace(" ", "_"), (row.recipe, *row.train, *settings)
    if row.step:
        alternate.main([*start, "--runs", str(folder), "--name", name])
        return folder / name / row.step
    make_proposals(start)
    return go_on(train_det.main, start, folder, name)


def make_proposals(start: Sequence[str]) -> None:
    """Selective search's, if the recipe names a file that is not there."""
    recipe, *settings = start
    for path in load_config(recipe, settings).data.proposals:
        if not runtimes.from_main(Path(path).exists):
            propose.main([recipe, *settings, "--method", "selective-search", "--output", path])


def test(config: DetConfig) -> Scores:
    """Score the trained detector `config.weights`."""
    runtime = runtimes.start(config.device, config.solver.precision)
    network, annotations, config = network_and_data(config, runtime)
    found = predict(network, validation_batches(annotations, config, runtime), runtime)
    figures = report.score([found[index] for index in range(len(annotations))], annotations).figures()
    return Scores(figures["map07"], figures["ap50"])


def time(configs: Mapping[str, DetConfig]) -> dict[str, Stages]:
    """The seconds of an image, of all detectors in turns."""
    trials, given = [], []
    for config in configs.values():
        one_by_one = replace(config, test=replace(config.test, batch_size=1))
        runtime = runtimes.start(config.device, config.solver.precision).alone()
        network, annotations, one_by_one = network_and_data(one_by_one, runtime)
        batches = islice(validation_batches(annotations, one_by_one, runtime), TIMED_BATCHES)
        trials.append((network, tuple(batches)))
        given.append(given_proposals(annotations, one_by_one, 1))
    return {
        label: stages._replace(proposals=own.seconds) if own else stages
        for label, stages, own in zip(configs, time_stages(trials), given, strict=True)
    }


def write_table(study: Study, scores: Mapping[str, Scores], stages: Mapping[str, Stages], folder: Path) -> str:
    """Write what there is, as Markdown, to `folder`/table.md → the same."""
    lines = [
        f"| | VOC07 mAP | AP50 | proposals (s) | trunk (s) | regions (s) | together (s) | {study.paper} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, own in scores.items():
        times = (*stages[label], stages[label].total) if label in stages else ()
        seconds = " | ".join(f"{value:.3f}" for value in times) or " | | | "
        figures = " | ".join(f"{100 * value:.1f}" for value in own)
        lines.append(f"| {label} | {figures} | {seconds} | {study.rows[label].paper} |")
    text = "\n".join(lines) + "\n"
    write_text(folder / "table.md", text)
    return text
