"""Pictures that are the same, as files or to the eye: found by fingerprints of their brightness."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np

SIDE = 16  # the fingerprint has SIDE × SIDE bits
MARGIN = 3  # grey levels between neighbours that make a bit
WORDS = 8  # of 32 bits
# Copies of another size and compression differ in 15 bits or fewer; other pictures, even of cells under a
# microscope, in more than 20.
MOST_BITS = 15
# A flat picture has few bits, and two of them differ in few: these are told apart by the share of their bits.
MOST_SHARE, FEWEST_BITS = 0.3, 8


def fingerprint(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → (8,) uint32: whether each cell of 16 rows of 17 is well brighter than its left neighbour.

    Compression and size change few of the bits.
    """
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    bits = small[:, 1:] > small[:, :-1].astype(np.int16) + MARGIN
    return np.packbits(bits).view(np.uint32)


def twins(fingerprints: np.ndarray) -> list[tuple[int, int]]:
    """(M, 8) uint32 → pairs of positions, the lower first, that share a word and are nearly equal.

    They differ in at most 15 of 256 bits, and in at most three tenths of those that either has. Every pair that
    differs in fewer bits than there are words shares one. A word that hundreds share (a black border) does not
    count.
    """
    pairs = set()
    for word in range(WORDS):
        owners = defaultdict(list)
        for position, value in enumerate(fingerprints[:, word].tolist()):
            owners[value].append(position)
        for positions in owners.values():
            if 1 < len(positions) <= 300:
                pairs.update(_close(fingerprints, positions))
    return sorted(pairs)


def _close(fingerprints: np.ndarray, positions: Sequence[int]) -> list[tuple[int, int]]:
    bits = np.unpackbits(fingerprints[list(positions)].view(np.uint8), axis=1).astype(bool)
    pairs = []
    for a, b in combinations(range(len(positions)), 2):
        differ, either = (bits[a] ^ bits[b]).sum(), (bits[a] | bits[b]).sum()
        if differ <= min(MOST_BITS, MOST_SHARE * either) and either >= FEWEST_BITS:
            pairs.append((positions[a], positions[b]))
    return pairs
