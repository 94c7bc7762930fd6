"""Commands that train several times, on two processes under torchrun."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

from test_distributed import run_torchrun

from resdet.models.weights.load import load_model

STUDY = """
import sys

from resdet.cli import main
from resdet.config import DetConfig
from resdet.experiments.studies import STUDIES, Row, Study

given = Row({recipe!r}, {{"model.proposals": "given", "data.proposals": ({proposals!r},)}})
shared = Row({recipe!r}, run="alternating", step="4_head")
STUDIES["tiny"] = Study(DetConfig, dict(given=given, shared=shared), paper="theirs")
main(["study", "tiny", *sys.argv[1:]])
"""
STEPS = ("1_rpn", "2_head", "3_rpn", "4_head")


def run_on_two(
    script: Path, arguments: Sequence[str], folder: Path, forkserver: ForkServerContext
) -> dict[str, str]:
    """What two processes of a machine print with ``torchrun SCRIPT ARGUMENTS``, by the name of the log."""
    logs = folder / "logs"
    options = ("--standalone", "--nproc-per-node=2", "--redirects=3", f"--log-dir={logs}")
    process = forkserver.Process(target=run_torchrun, args=(folder, options, script, arguments))
    process.start()
    process.join(200)
    process.terminate()  # and its workers, if it hangs
    printed = {str(path.relative_to(logs)): path.read_text() for path in logs.rglob("std*.log")}
    assert process.exitcode == 0, printed
    return printed


def test_a_study_with_proposals_and_alternating_training(recipe: Path, forkserver: ForkServerContext) -> None:
    """Five training runs one after the other; only the main process prints and writes."""
    folder, script = recipe.parent, recipe.parent / "study.py"
    script.write_text(STUDY.format(recipe=str(recipe), proposals=str(folder / "found.npz")))
    small = ("--model.box-head", "conv_fc", "--model.fc-dims", "16", "--solver.steps", "1")
    settings = ("--runs", "runs", *small)
    printed = run_on_two(script, settings, folder, forkserver)
    (talk,) = (text for text in printed.values() if "Done" in text)
    assert talk.count("Training finished") == 5 and talk.count("has proposals for 10 images") == 2
    assert all(talk.count(f"— {name}\n") == 1 for name in ("given", "shared", *STEPS))
    assert not any(text for name, text in printed.items() if name.endswith("1/stdout.log")), printed
    study = folder / "runs/tiny"
    assert (study / "table.md").read_text() in talk and (study / "study.png").is_file()
    assert len((study / "table.md").read_text().splitlines()) == 2 + 2
    assert [load_model(study / "alternating" / step / "last.safetensors").step for step in STEPS] == [1] * 4
