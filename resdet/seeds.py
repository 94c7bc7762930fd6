"""Seeds: each use of randomness draws from a sequence of its own, which no other use shares."""

from __future__ import annotations

import random
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What random numbers are drawn for."""

    WEIGHTS = 0
    """the initial weights"""
    STEP = 1
    """what a training step draws from torch: sampled anchors and regions, dropout; keys: step, rank"""
    EPOCH = 2
    """the order of the images in an epoch; key: epoch"""
    AUGMENTATION = 3
    """scales, flips and colours of the images of a step; key: step"""
    VALIDATION = 4
    """what a validation loss samples; key: first image of the batch"""


def seed_sequence(seed: int, purpose: Purpose, *keys: int) -> np.random.SeedSequence:
    """The seed sequence of one use of randomness; two that differ in any argument have nothing in common.

    NumPy pads entropy with zeros, so that ``SeedSequence((seed, step))`` equals ``SeedSequence((seed, step, 0))``.
    It does not pad a spawn key, in which the number of keys matters as well.

    Args:
        seed: of the training run
        keys: below 2³², always as many for one purpose
    """
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), *keys))


def seed_everything(seed: int, purpose: Purpose, *keys: int) -> None:
    """Seed the global generators of torch, NumPy and Python with `seed_sequence`."""
    state = int(seed_sequence(seed, purpose, *keys).generate_state(1, np.uint64)[0])
    torch.manual_seed(state)
    np.random.seed(state % 2**32)
    random.seed(state)
