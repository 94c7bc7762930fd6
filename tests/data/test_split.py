"""Splitting by content: groups of twins, shares of classes, and what must not matter."""

from __future__ import annotations

from hashlib import sha256
from itertools import combinations

import numpy as np
import pytest

from resdet.data.split import ANY, choose, group_images, split_images


def digests(count: int, seed: int = 0) -> list[str]:
    """As of so many images; the first ones are the same for every count."""
    return [sha256(f"{seed} {image}".encode()).hexdigest() for image in range(count)]


def shown(count: int, classes: int, seed: int = 0) -> np.ndarray:
    """(M, C) bool: which image shows which class; common and rare ones, some images without any."""
    random = np.random.default_rng(seed)
    return random.random((count, classes)) < random.beta(0.5, 3, classes).clip(5 / count)


# Groups


def test_groups_against_a_search() -> None:
    """Twins of twins and equal images are together, all others apart."""
    random = np.random.default_rng(0)
    for _ in range(30):
        names = [digests(20)[n] for n in random.integers(0, 20, 25)]
        twins = [(int(a), int(b)) for a, b in random.integers(0, 25, (8, 2))]
        near = {(a, b) for a in range(25) for b in range(25) if names[a] == names[b]} | set(twins)
        groups = group_images(names, twins)
        for image in range(25):
            reached = {image}
            while True:
                more = {b for a, b in near if a in reached} | {a for a, b in near if b in reached}
                if more <= reached:
                    break
                reached |= more
            assert set(np.flatnonzero(groups == groups[image]).tolist()) == reached
        smallest = [
            min(name for name, own in zip(names, groups, strict=True) if own == g) for g in range(max(groups) + 1)
        ]
        assert smallest == sorted(smallest)


def test_no_images() -> None:
    empty = np.zeros(0, np.int64)
    assert len(group_images([], [])) == len(split_images(empty, empty, empty, 0.2)) == 0


# Shares


@pytest.mark.parametrize("val, test", [(0.2, 0.0), (0.5, 0.0), (0.15, 0.15), (0.01, 0.0), (0.6, 0.3)])
def test_every_image_has_one_part_and_twins_the_same(val: float, test: float) -> None:
    random = np.random.default_rng(0)
    for count in (2, 3, 10, 100):
        twins = [(int(a), int(b)) for a, b in random.integers(0, count, (count // 4, 2))]
        groups = group_images(digests(count), twins)
        parts = split_images(groups, *np.nonzero(shown(count, 4, count)), val, test)
        assert parts.shape == (count,) and set(parts.tolist()) <= ({0, 1, 2} if test else {0, 1})
        assert all(parts[a] == parts[b] for a, b in twins)
        if groups.max() > 0:
            assert {0, 1} <= set(parts.tolist())
        if test and groups.max() > 1:
            assert 2 in parts


@pytest.mark.parametrize("val, test", [(0.2, 0.0), (0.1, 0.0), (0.2, 0.1)])
def test_classes_that_share_no_image_are_nearest_to_their_shares(val: float, test: float) -> None:
    """To half an image; a rare class has one in each part, if it has so many."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), [1, 2, 3, 5, 20, 33, 100, 321])
    count = len(labels)
    parts = split_images(random.permutation(count), np.arange(count), labels, val, test)
    for label, own in enumerate(np.bincount(labels)):
        found = np.bincount(parts[labels == label], minlength=3)
        least = [1, int(own > 1), int(own > 2 and test > 0)]
        assert found.sum() == own and (found >= least).all()
        for part, share in ((1, val), (2, test)):
            rest = 1 if part == 1 else (own - found[1]) / (own * (1 - val))  # test is a share of what val leaves
            assert abs(found[part] - share * own * rest) <= 0.5 + 1e-9 or found[part] == least[part]


def test_classes_that_share_images_are_near_their_shares() -> None:
    """Nearer than chance by far, and so is the number of images."""
    chance, ours = [], []
    for seed in range(5):
        shows = shown(600, 20, seed)
        images, labels = np.nonzero(shows)
        parts = split_images(group_images(digests(600, seed), []), images, labels, 0.2) == 1
        drawn = np.random.default_rng(seed).permutation(parts)
        for found, errors in ((parts, ours), (drawn, chance)):
            errors += [
                abs(int(found[own].sum()) - 0.2 * own.sum()) / own.sum() ** 0.5 for own in shows.T if own.any()
            ]
        assert abs(parts.sum() - 120) <= 10
    assert np.mean(ours) < np.mean(chance) / 3 and np.max(ours) < 0.6


def test_a_large_group_is_not_taken_for_a_small_share() -> None:
    """200 frames of one scene and 50 other images, which are a fifth of all."""
    groups = np.array([0] * 200 + list(range(1, 51)))
    parts = split_images(groups, np.arange(250), np.zeros(250, int), 0.2)
    assert parts.tolist() == [0] * 200 + [1] * 50


def test_two_groups_are_divided_whatever_their_sizes() -> None:
    groups = np.array([0] * 30 + [1] * 20)
    parts = split_images(groups, np.arange(50), np.zeros(50, int), 0.01)
    assert len(set(parts[:30])) == len(set(parts[30:])) == 1 and set(parts) == {0, 1}


def covered(chosen: set[int], classes: list[list[int]]) -> bool:
    """Whether each class has a group that is chosen, and one that is not."""
    return all(0 < len(chosen & set(own)) < len(own) for own in classes)


@pytest.mark.parametrize("most, tolerated", [(2, 0.0), (4, 0.01)])
def test_a_class_of_two_groups_is_on_both_sides_if_that_can_be(most: int, tolerated: float) -> None:
    """Few groups of many classes, against a search of all choices: always if all classes have two groups."""
    random = np.random.default_rng(0)
    possible = failed = 0
    for _ in range(400):
        count = int(random.integers(3, 9))
        sizes = random.integers(2, min(most, count) + 1, random.integers(1, 6))
        classes = [sorted(random.choice(count, size, replace=False).tolist()) for size in sizes]
        shows = [
            {ANY: 1} | {label: 1 for label, own in enumerate(classes) if group in own} for group in range(count)
        ]
        subsets = (set(some) for size in range(1, count) for some in combinations(range(count), size))
        if any(covered(some, classes) for some in subsets):
            possible += 1
            failed += not covered(set(choose(shows, 0.2, 1)), classes)
    assert possible > 200 and failed <= tolerated * possible


# What does not matter


def test_order_and_names_do_not_matter() -> None:
    """Only contents do: shuffled images, and shuffled numbers of classes."""
    random = np.random.default_rng(0)
    names, shows, twins = digests(200), shown(200, 12), [(3, 60), (60, 150), (7, 8)]
    expected = split_images(group_images(names, twins), *np.nonzero(shows), 0.2, 0.1)
    for _ in range(5):
        order = random.permutation(200)
        place = np.argsort(order)
        moved = [(int(place[a]), int(place[b])) for a, b in twins]
        groups = group_images([names[image] for image in order], moved)
        images, labels = np.nonzero(shows[order][:, random.permutation(12)])
        shuffled = random.permutation(len(images))
        parts = split_images(groups, images[shuffled], labels[shuffled], 0.2, 0.1)
        assert (parts == expected[order]).all()


@pytest.mark.parametrize("count, classes, most", [(400, 1, 0.01), (400, 4, 0.04), (2000, 20, 0.06)])
def test_few_images_move_when_others_are_added(count: int, classes: int, most: float) -> None:
    """Drawn anew, 32 % of them would."""
    names, shows = digests(count), shown(count, classes)
    whole = split_images(group_images(names, []), *np.nonzero(shows), 0.2)
    for share in (0.5, 0.8, 0.9, 0.99):
        some = int(share * count)
        before = split_images(group_images(names[:some], []), *np.nonzero(shows[:some]), 0.2)
        assert (before != whole[:some]).mean() <= most


def test_a_test_split_comes_out_of_the_training_images() -> None:
    names, shows = digests(500), shown(500, 10)
    pairs = np.nonzero(shows[:, shows.sum(0) > 20])
    two, three = (split_images(group_images(names, []), *pairs, 0.2, test) for test in (0.0, 0.2))
    assert ((two == 1) == (three == 1)).all() and 80 < (three == 2).sum() < 120
