"""Studies of classifiers: networks trained alike and drawn together, as in the papers' figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from resdet.cli import train_cls
from resdet.cli.eval_cls import restore
from resdet.cli.run import go_on
from resdet.config import ClsConfig, load_config
from resdet.data.build_cls import cls_validation_batches, read_images
from resdet.engine import runtime as runtimes
from resdet.engine.checkpoint import load_model
from resdet.engine.log import read_metrics
from resdet.errors import UserError
from resdet.evaluation.responses import response_deviations
from resdet.io import write_text
from resdet.visualize import plot_errors, plot_responses

R110 = "configs/cifar10_r110.py"
Study = dict[str, dict[str, tuple[str, ...]]]  # panel of the figure → network → recipe and settings
STUDIES: dict[str, Study] = {
    # He et al. 2015, Fig. 6
    "degradation": {
        "plain": {f"plain-{depth}": (f"configs/cifar10_plain{depth}.py",) for depth in (20, 56)},
        "residual": {f"ResNet-{depth}": (f"configs/cifar10_r{depth}.py",) for depth in (20, 56)},
    },
    "depth": {
        "plain": {f"plain-{depth}": (f"configs/cifar10_plain{depth}.py",) for depth in (20, 32, 44, 56)},
        "residual": {f"ResNet-{depth}": (f"configs/cifar10_r{depth}.py",) for depth in (20, 32, 44, 56, 110)},
    },
    # He et al. 2016, Table 1
    "shortcuts": {
        "shortcuts of ResNet-110": {
            "original": (R110,),
            "constant scaling": (R110, "--model.joining", "scale"),
            "exclusive gating": (R110, "--model.joining", "exclusive_gate"),
            "shortcut-only gating": (R110, "--model.joining", "shortcut_gate"),
            "1×1 convolution": (R110, "--model.shortcut", "C"),
            "dropout": (R110, "--model.joining", "dropout"),
        }
    },
    # He et al. 2016, Table 2
    "activations": {
        "activations of ResNet-110": {
            "original": (R110,),
            "BN after addition": (R110, "--model.order", "norm_after"),
            "ReLU before addition": (R110, "--model.order", "relu_before"),
            "ReLU-only pre-activation": (R110, "--model.order", "relu_preactivation"),
            "full pre-activation": (R110, "--model.order", "full_preactivation"),
        }
    },
}
RESPONSE_IMAGES = 1000


class Trained(NamedTuple):
    """A network of a study."""

    rows: list[dict[str, float]]
    """of its metrics.jsonl"""
    deviations: list[float]
    """of its layers' responses"""
    parameters: int


def of_recipe(study: Study, recipe: str) -> Study:
    """A study that compares settings of one recipe, with this one in its place."""
    if len({start for networks in study.values() for start, *_ in networks.values()}) > 1:
        raise UserError("This study compares recipes: --recipe is for those that compare settings of one.")
    return {
        panel: {label: (recipe, *settings) for label, (_, *settings) in networks.items()}
        for panel, networks in study.items()
    }


def check(study: Study, settings: Sequence[str]) -> None:
    """Refuse settings that a recipe does not know, before anything is trained."""
    for recipe, *own in (recipe for networks in study.values() for recipe in networks.values()):
        load_config(recipe, [*own, *settings], ClsConfig)


def run(study: Study, folder: Path, settings: Sequence[str]) -> None:
    """Train the networks, each with these settings, and draw them together."""
    trained = {
        panel: {label: train(label, recipe, settings, folder) for label, recipe in networks.items()}
        for panel, networks in study.items()
    }
    if runtimes.is_main():
        report(trained, folder)


def train(label: str, recipe: Sequence[str], settings: Sequence[str], folder: Path) -> Trained:
    """Train a network, or go on with it, or find that it is done."""
    runtimes.print_on_main(f"— {label}")
    run = go_on(train_cls.main, (*recipe, *settings), folder, label.replace(" ", "-"))
    return runtimes.from_main(lambda: measure(run))


def measure(run: Path) -> Trained:
    """What the study says of a trained network."""
    file = load_model(run / "last.safetensors", ClsConfig)
    model, config = restore(file, str(run)), file.config
    runtime = runtimes.start("cpu", "fp32").alone()
    _, validation = read_images(config.data)
    batches = islice(
        cls_validation_batches(validation, config, runtime), -(-RESPONSE_IMAGES // config.test.batch_size)
    )
    images = torch.cat([batch.images for batch in batches])[:RESPONSE_IMAGES]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Trained(read_metrics(run / "metrics.jsonl"), response_deviations(model, images), parameters)


def report(trained: Mapping[str, Mapping[str, Trained]], folder: Path) -> None:
    """A table of the final errors, the error curves (Fig. 6) and the layer responses (Fig. 7)."""
    text = "\n".join(table(trained)) + "\n"
    print(text)
    write_text(folder / "table.md", text)
    plot_errors(
        {panel: {n: t.rows for n, t in nets.items()} for panel, nets in trained.items()}, folder / "errors.png"
    )
    deviations = {label: net.deviations for networks in trained.values() for label, net in networks.items()}
    plot_responses(deviations, folder / "responses.png")
    print(f"The table, the error curves and the layer responses are in {folder}.")


def table(trained: Mapping[str, Mapping[str, Trained]]) -> Iterator[str]:
    """Markdown: a row for each network, with the errors after its last step."""
    yield "| network | parameters | steps | training error (%) | test error (%) |"
    yield "|---|---|---|---|---|"
    for networks in trained.values():
        for label, net in networks.items():
            error = top1 = float("nan")
            with suppress(StopIteration):
                error = next(row["error"] for row in reversed(net.rows) if "error" in row)
                top1 = next(row["top1"] for row in reversed(net.rows) if "top1" in row)
            yield (
                f"| {label} | {net.parameters / 1e6:.2f} M | {int(net.rows[-1]['step'])} | {100 * error:.2f} "
                f"| {100 - 100 * top1:.2f} |"
            )
