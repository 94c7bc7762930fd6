"""Splitting images into training, validation and test images by what is in them.

M images, K groups of images that must stay together, P pairs of an image and a class that it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

ANY = -1  # the class that every image shows


def group_images(digests: Sequence[str], twins: Iterable[tuple[int, int]]) -> np.ndarray:
    """Put equal images and twins, and the twins of twins, into one group.

    Args:
        digests: (M,) a digest of each image's content
        twins: pairs of positions

    Returns:
        (M,) int64: the group of each image; groups are numbered in the order of their smallest digests, so that
        neither names nor the order of the images matter, and each keeps its place among the others when images are
        added
    """
    parents = list(range(len(digests)))

    def root(image: int) -> int:
        while parents[image] != image:
            parents[image] = image = parents[parents[image]]
        return image

    first: dict[str, int] = {}
    equal = [(image, first.setdefault(digest, image)) for image, digest in enumerate(digests)]
    for pair in chain(equal, twins):
        small, large = sorted(map(root, pair), key=digests.__getitem__)
        parents[large] = small
    smallest = [digests[root(image)] for image in range(len(digests))]
    return np.unique(smallest, return_inverse=True)[1].reshape(-1)


def split_images(
    groups: np.ndarray, images: np.ndarray, labels: np.ndarray, val: float, test: float = 0.0
) -> np.ndarray:
    """Divide images so that each class has these shares of its images in the validation and the test images.

    A class of two groups or more is in the training and the validation images, one of three or more in the test
    images too, wherever that can be. The validation images do not depend on `test`, but for such classes.

    Args:
        groups: (M,) group of each image, as `group_images` numbers them
        images, labels: (P,) and (P,), image and class of each pair
        val, test: shares of the images, together less than 1

    Returns:
        (M,) int64: 0 to train on, 1 to validate on, 2 to test on
    """
    shows: list[dict[int, int]] = [{} for _ in range(int(groups.max(initial=-1)) + 1)]
    pairs = np.unique(np.stack([images, labels]), axis=1)
    members = chain(zip(groups[pairs[0]], pairs[1], strict=True), ((group, ANY) for group in groups))
    for group, label in members:
        shows[int(group)][int(label)] = shows[int(group)].get(int(label), 0) + 1
    parts = np.zeros(len(shows), np.int64)
    parts[choose(shows, val, leave=2 if test else 1)] = 1
    if test:
        rest = np.flatnonzero(parts == 0)
        parts[rest[choose([shows[group] for group in rest], test / (1 - val), leave=1)]] = 2
    return parts[groups]


@dataclass
class _Class:
    """What is still to be decided of a class."""

    open: list[int]
    """its undecided groups in reverse order, and some that were decided"""
    undecided: int
    missing: float
    """images to choose"""
    spare: int
    """groups that may be chosen; the others must not be"""
    chosen: bool = False
    """whether one of its groups is"""


def choose(shows: Sequence[Mapping[int, int]], share: float, leave: int) -> list[int]:
    """Choose groups that hold `share` of the images of each class: iterative stratification (Sechidis et al. 2011).

    The class with the fewest undecided groups decides its next one. It is chosen if that brings the class nearer to
    its share, or if it is the last that a class can have; but not if a class has to leave it. The paper draws the
    groups at random; in a fixed order few of them change sides when others are added.

    Args:
        shows: (K,) for each group, the number of images that show a class
        share: of the images to choose
        leave: groups of each class that are not chosen, where it has that many and one more

    Returns:
        the positions of the groups
    """
    groups_of: dict[int, list[int]] = {}
    for group, counts in enumerate(shows):
        for label in counts:
            groups_of.setdefault(label, []).append(group)
    classes: dict[int, _Class] = {}
    for label, own in sorted(groups_of.items(), key=lambda item: (len(item[1]), item[1])):  # the first wins a tie
        images = sum(shows[group][label] for group in own)
        spare = len(own) - min(leave, max(1, len(own) - 1))
        classes[label] = _Class(own[::-1], len(own), share * images, spare)

    chosen: list[int] = []
    decided = np.zeros(len(shows), bool)

    def first(state: _Class) -> int:
        while decided[state.open[-1]]:
            state.open.pop()
        return state.open[-1]

    waiting = list(classes)
    while waiting:
        label = min(waiting, key=lambda label: (classes[label].undecided, first(classes[label])))
        group = first(classes[label])
        shown = [(classes[other], count) for other, count in shows[group].items()]
        nearer = shows[group][label] < 2 * classes[label].missing
        last = any(state.undecided == 1 and not state.chosen for state, _ in shown)
        take = (nearer or last) and all(state.spare > 0 for state, _ in shown)
        decided[group] = True
        chosen += [group] * take
        for state, count in shown:
            state.undecided -= 1
            if take:
                state.missing, state.spare, state.chosen = state.missing - count, state.spare - 1, True
        waiting = [label for label in waiting if classes[label].undecided]
    return chosen
