"""The fastest of several ways to compute a layer: measured once on a processor, and remembered.

Which one it is depends on the processor, on torch, and on the number of threads. What was measured is kept in a
file, so that the next process, or a training run that is resumed, computes as this one did.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch

from resdet.errors import UserError
from resdet.io import write_text

MARGIN = 0.9  # of the first way's time that another must stay below, so that noise decides nothing
ROUNDS = 3


def fastest(layer: str, ways: Mapping[str, Callable[[], object]]) -> str:
    """The name of the fastest of `ways` to compute `layer`.

    The first is the rule. It is taken unless another one is faster by a tenth, and where nothing can be remembered:
    if RESDET_MEASURE is 0, or if the `file` cannot be written.

    Args:
        layer: names the layer, its shape and its number type
        ways: name → what computes the layer once; called a few times if this processor has not met the layer
    """
    rule = next(iter(ways))
    if len(ways) == 1 or os.environ.get("RESDET_MEASURE") == "0":
        return rule
    path, processor = file(), this_processor()
    known = _read(path).setdefault(processor, {})
    if known.get(layer) not in ways:
        found = _measure(ways) if _is_writable(path) else rule
        known[layer] = found if _remember(path, processor, layer, found) else rule
    return known[layer]


def cells_class(count: int) -> str:
    """Maps of like size share a measurement: the power of four that is next to their number of cells."""
    return f"about {4 ** round((count.bit_length() - 1) / 2)} cells"


def file() -> Path:
    """Where measurements are kept: $RESDET_HOME/fastest.json, or resdet_fastest.json in torch's cache."""
    home = os.environ.get("RESDET_HOME")
    return Path(home, "fastest.json").expanduser() if home else Path(torch.hub.get_dir(), "resdet_fastest.json")


def this_processor() -> str:
    """The processor, and all else of this process on which speed depends."""
    oldest = os.environ.get("ONEDNN_MAX_CPU_ISA", "")  # oneDNN may be told to leave instructions unused
    return f"{_model()}{oldest and f', {oldest}'}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@cache
def _model() -> str:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    has = {"AMX": torch.cpu._is_amx_tile_supported(), "BF16": torch.cpu._is_avx512_bf16_supported()}
    return " ".join([name, torch.backends.cpu.get_cpu_capability(), *(word for word, is_ in has.items() if is_)])


@cache
def _read(path: Path) -> dict[str, dict[str, str]]:
    """Processor → layer → way. A file that cannot be read is as good as none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: {layer: str(way) for layer, way in layers.items()} for name, layers in content.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


@cache
def _is_writable(path: Path) -> bool:
    """Whether what is measured could be remembered: else it would be measured by every process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path.parent, os.W_OK)


def _measure(ways: Mapping[str, Callable[[], object]]) -> str:
    """Each way once to warm up, then all in turns."""
    times: dict[str, float] = {}
    for round_ in range(ROUNDS + 1):
        for name, compute in ways.items():
            started = time.perf_counter()
            compute()
            if round_:
                times[name] = min(times.get(name, float("inf")), time.perf_counter() - started)
    rule = next(iter(ways))
    best = min(times, key=lambda name: times[name])
    return best if times[best] < MARGIN * times[rule] else rule


def _remember(path: Path, processor: str, layer: str, way: str) -> bool:
    """Add a line to the file, in which other processes may have written; whether that was possible."""
    content = _read.__wrapped__(path)
    content.setdefault(processor, {})[layer] = way
    try:
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    except UserError:
        return False
    return True
