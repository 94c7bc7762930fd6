"""Seeds: each use of randomness has a sequence of its own."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import torch

from resdet.seeds import Purpose, seed_everything, seed_sequence


def test_the_sequences_of_all_uses_are_distinct() -> None:
    """Also where keys are zeros, and where one use has more keys than another."""
    keys = [key for count in range(3) for key in product(range(4), repeat=count)]
    uses = list(product(range(3), Purpose, keys))
    states = {tuple(seed_sequence(seed, purpose, *key).generate_state(4)) for seed, purpose, key in uses}
    assert len(states) == len(uses)
    words = {word for state in states for word in state}
    assert len(words) == 4 * len(uses), "sequences overlap"


def test_global_generators_follow_from_the_arguments_alone() -> None:
    drawn = []
    for step in (0, 1, 0):
        seed_everything(3, Purpose.STEP, step, 0)
        drawn.append((float(torch.rand(())), float(np.random.rand()), random.random()))
    assert drawn[0] == drawn[2] and all(a != b for a, b in zip(drawn[0], drawn[1], strict=True))
