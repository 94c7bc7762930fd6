"""What a training run reports: lines on the terminal, `metrics.jsonl`, and TensorBoard events."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from resdet.io import write_text


class TrainLog:
    """Averages loss terms over a window of steps and reports them.

    A window ends whenever `flush` is called. The main process of a training run makes one, as a context manager.

    Args:
        folder: the run folder
        start: first step; what an interrupted training logged beyond it is removed
        steps: of the whole training
    """

    def __init__(self, folder: Path, start: int, steps: int) -> None:
        self.path, self.steps = folder / "metrics.jsonl", steps
        self.started, self.start = time.perf_counter(), start
        _drop_after(self.path, start)
        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self.console = Console(highlight=False, soft_wrap=True)
        self.bar = Progress(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=steps, completed=start)
        self.sums: dict[str, float] = {}
        self.count, self.images, self.waited, self.opened = 0, 0, 0.0, self.started

    def __enter__(self) -> TrainLog:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        self.events.close()

    def step(self, terms: Mapping[str, float], images: int, waited: float) -> None:
        """Count one step: its loss and figures, its images, and the seconds it waited for data."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count, self.images, self.waited = self.count + 1, self.images + images, self.waited + waited
        self.bar.advance(self.task)

    def flush(self, step: int, lr: float) -> None:
        """Report the window that ends after `step` steps, and open the next."""
        if not self.count:
            return
        seconds = time.perf_counter() - self.opened
        means = {name: total / self.count for name, total in self.sums.items()}
        left = (time.perf_counter() - self.started) / (step - self.start) * (self.steps - step)
        self.write(
            step,
            {**means, "lr": lr, "images_per_second": self.images / seconds}
            | {"data_wait": self.waited / seconds, "seconds_left": left},
        )
        terms = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        self.console.print(
            f"step {step}/{self.steps}  {terms}  lr {lr:.2e}  "
            f"{self.images / seconds:.1f} images/s  data {100 * self.waited / seconds:.0f}%  "
            f"left {timedelta(seconds=round(left))}"
        )
        self._open_window()

    def evaluation(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Report an evaluation; its time does not count as training."""
        self.write(step, metrics)
        figures = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.console.print(f"[bold]evaluation after {step} steps[/bold]  {figures}  ({seconds:.0f} s)")
        self._open_window()

    def message(self, text: str) -> None:
        """Print a line on the terminal only."""
        self.console.print(text, markup=False)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One object on a line of metrics.jsonl, and the same figures for TensorBoard."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **{k: round(v, 8) for k, v in values.items()}}) + "\n")
        for name, value in values.items():
            self.events.add_scalar(name, value, step)

    def _open_window(self) -> None:
        self.sums, self.count, self.images, self.waited = {}, 0, 0, 0.0
        self.opened = time.perf_counter()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; a last line that a crash cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _drop_after(path: Path, step: int) -> None:
    """Remove what was logged beyond `step`, which will be trained again."""
    if path.is_file():
        write_text(path, "".join(json.dumps(row) + "\n" for row in read_metrics(path) if row["step"] <= step))
