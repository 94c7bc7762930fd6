"""Annotations that are damaged at random, in every layout: they are read in part, or refused in one sentence."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_layouts import LAYOUTS

from resdet.data.formats import FORMATS, find_format
from resdet.errors import UserError

VALUES = [None, [], {}, "x", "", -1, True, 1.5, 1e308, float("nan"), 10**30, [1, 2], {"id": 1}, "1", [[]], [None]]
TOKENS = [
    "",
    "nan",
    "inf",
    "-1",
    "1e999",
    "x",
    "<",
    "&",
    '"',
    ",",
    ";",
    "\t",
    "\n",
    " ",
    "é",
    "\\",
    "{",
    "[",
    ":",
    "~",
]


def places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys to everything in a JSON file."""
    yield place
    parts = (
        content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    )
    for key, part in parts:
        yield from places(part, (*place, key))


def damage_json(text: str, choose: random.Random) -> str:
    """Put something else in one place, or take it out."""
    content = json.loads(text)
    *keys, last = choose.choice([place for place in places(content) if place])
    parent = content
    for key in keys:
        parent = parent[key]
    parent[last] = choose.choice(VALUES)
    if isinstance(parent, dict) and choose.random() < 0.2:
        del parent[last]
    return json.dumps(content)


def damage_text(text: str, choose: random.Random) -> str:
    """Change a few letters, or cut the end off."""
    for _ in range(choose.randrange(1, 4)):
        start = choose.randrange(len(text) + 1)
        text = text[:start] + choose.choice(TOKENS) + text[start + choose.choice([0, 1, 3, 10]) :]
    return text[: choose.randrange(len(text) + 1)] if choose.random() < 0.1 else text


def damage(path: Path, choose: random.Random) -> None:
    """Damage a file in one way or another."""
    data = path.read_bytes()
    if choose.random() < 0.2 and data:
        place = choose.randrange(len(data))
        path.write_bytes(data[:place] + bytes([choose.randrange(256)]) + data[place + 1 :])
    else:
        path.write_text((damage_json if path.suffix == ".json" else damage_text)(data.decode(), choose))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", LAYOUTS)
def test_damage_is_reported_or_refused(name: str, tmp_path: Path, assert_sentence: Callable[..., None]) -> None:
    for seed in range(6):
        choose, root = random.Random(f"{name} {seed}"), tmp_path / str(seed)
        LAYOUTS[name].write(root)
        files = sorted(
            path for path in root.rglob("*") if path.is_file() and path.suffix not in (".jpg", ".png", ".JPG")
        )
        damage(choose.choice(files), choose)
        try:
            kind, splits = find_format(root)
            for split in splits:
                read = FORMATS[kind].read(root, split)
                assert len(read.skipped) <= sum(read.left_out) and (read.sizes > 0).all()
                assert all(np.isfinite(read.target(index).boxes.numpy()).all() for index in range(len(read)))
                for sentence in (*read.skipped, *read.notes):
                    assert_sentence(sentence)
        except UserError as error:
            assert_sentence(str(error))
