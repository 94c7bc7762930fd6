"""What may be wrong with annotations: looked at without opening an image.

Shapes: M images, B boxes, A anchors at a cell, C classes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from resdet.data.annotations import Annotations
from resdet.models.anchors import AnchorGenerator

MANY_CLASSES = 20  # without objects: more of them are one finding
MANY_BOXES = 100_000  # that anchors are measured against


class Finding(NamedTuple):
    """One thing that may be wrong."""

    kind: str
    """what it is; the same words for all of a kind"""
    split: str
    detail: str
    """one sentence"""
    image: int = -1
    """position of the image it is in, −1 if in none"""
    box: int = -1
    """position of the box among all boxes of the split, −1 if it is none"""


def check_annotations(splits: Mapping[str, Annotations]) -> list[Finding]:
    """All that is to be found in the arrays of a data set's splits."""
    found = [finding for split, annotations in splits.items() for finding in _check_split(split, annotations)]
    names: dict[str, set[str]] = {}
    for split, part in splits.items():
        for index in range(len(part)):
            names.setdefault(part.file(index), set()).add(split)
    for file, owners in names.items():
        if len(owners) > 1:
            first = next(split for split in splits if split in owners)
            found.append(Finding("image in two splits", first, f"{file} is in {' and '.join(sorted(owners))}."))
    classes = next(iter(splits.values())).classes
    counts = sum(np.bincount(part.labels, minlength=len(classes)) for part in splits.values())
    for name, detail in odd_names(dict(zip(classes, np.asarray(counts).tolist(), strict=True))).items():
        found.append(Finding("odd class name", "all", f"{name!r} {detail}."))
    return found


def objects_per_image(annotations: Annotations) -> np.ndarray:
    """(M,) how many objects there are to be found in each image: those that are not difficult."""
    return np.bincount(annotations.owners[~annotations.difficult], minlength=len(annotations))


def check_crowds(splits: Mapping[str, Annotations], max_detections: int, coco_max_dets: int) -> list[Finding]:
    """The images with more objects than a detector may find, or, of one class, than COCO's figures count."""
    found = []
    for split, part in splits.items():
        easy, objects = ~part.difficult, objects_per_image(part)
        for image in np.flatnonzero(objects > max_detections).tolist():
            sentence = (
                f"{part.file(image)} has {objects[image]:,} objects, but a detector finds at most "
                f"{max_detections:,} in an image: raise test.max_detections, and test.post_nms_topk with it."
            )
            found.append(Finding("more objects than test.max_detections", split, sentence, image))
        pairs = part.owners[easy] * len(part.classes) + part.labels[easy]
        for pair, count in zip(*(values.tolist() for values in np.unique(pairs, return_counts=True)), strict=True):
            image, label = divmod(pair, max(1, len(part.classes)))
            if count > coco_max_dets:
                sentence = (
                    f"{part.file(image)} has {count:,} objects of {part.classes[label]!r}, but COCO's figures "
                    f"count at most {coco_max_dets:,} detections of a class in an image: raise test.coco_max_dets."
                )
                found.append(Finding("more objects of a class than test.coco_max_dets", split, sentence, image))
    return found


def summary(findings: Sequence[Finding], shown: int) -> str:
    """A line for each kind, the most frequent first, and below it the first few sentences."""
    lines = []
    for kind, count in Counter(finding.kind for finding in findings).most_common():
        lines.append(f"  {kind}: {count}")
        lines += [f"    {finding.detail}" for finding in findings if finding.kind == kind][:shown]
    return "\n".join([f"{len(findings)} findings:", *lines]) if findings else "Nothing wrong was found."


def _check_split(split: str, annotations: Annotations) -> list[Finding]:
    found = [Finding("skipped", split, sentence) for sentence in annotations.skipped]
    files = Counter(annotations.files.tolist())
    found += [
        Finding("image listed twice", split, f"{os.fsdecode(file)} is listed {count} times.")
        for file, count in files.items()
        if count > 1
    ]
    image = annotations.owners
    beyond = _beyond(annotations, image)
    for kind, boxes, how in (
        ("box leaves its image", np.flatnonzero(beyond >= 1), lambda b: f"by {beyond[b]:.0f} pixels"),
        ("box annotated twice", _repeated(annotations, image), lambda b: "again with the same class and corners"),
    ):
        for box in boxes.tolist():
            name = annotations.classes[annotations.labels[box]]
            sentence = f"{annotations.file(image[box])}: a box of {name!r}, {how(box)}."
            found.append(Finding(kind, split, sentence, int(image[box]), box))
    missing = np.flatnonzero(np.bincount(annotations.labels, minlength=len(annotations.classes)) == 0)
    names = [repr(annotations.classes[label]) for label in missing]
    if len(names) > MANY_CLASSES:
        names = [f"{len(names):,} classes, such as {', '.join(names[:3])},"]
    verb = "have" if len(missing) > MANY_CLASSES else "has"
    return found + [
        Finding("class without objects", split, f"{who} {verb} no objects in {split}.") for who in names
    ]


def _beyond(annotations: Annotations, image: np.ndarray) -> np.ndarray:
    """(B,) pixels by which each box leaves its image."""
    size = annotations.sizes[image, ::-1]  # (B, 2) width, height
    return np.maximum(-annotations.boxes[:, :2], annotations.boxes[:, 2:] - size).max(1, initial=0)


def _repeated(annotations: Annotations, image: np.ndarray) -> np.ndarray:
    """Positions of boxes of which an equal one with the same label is before in the same image."""
    rows = np.column_stack([image, annotations.labels, annotations.boxes])
    _, first = np.unique(rows, axis=0, return_index=True)
    return np.setdiff1d(np.arange(len(rows)), first)


def odd_names(counts: Mapping[str, int]) -> dict[str, str]:
    """Class → number of objects: the names that look like typos, and of what.

    Such a name has the letters and digits of a more frequent one, or it is of few objects and one slip away from
    one of ten times as many. The time grows with the number of names, not with that of pairs.
    """
    odd: dict[str, str] = {}
    known: dict[str, str] = {}
    for name in counts:
        if name != " ".join(name.split()):
            odd[name] = "has blanks that are easily overlooked"
    for name in sorted(counts, key=lambda name: (-counts[name], name)):  # the most frequent first
        form = "".join(filter(str.isalnum, name.casefold()))
        if form in known:
            odd[name] = _meant(name, known[form], counts)
        elif form:
            known[form] = name
    meant: dict[str, str] = {}
    for name, other in _one_slip_apart(known):
        if 10 * counts[name] < counts[other] and counts[other] > counts.get(meant.get(name, ""), 0):
            meant[name] = other
    odd |= {name: _meant(name, other, counts) for name, other in meant.items()}
    return {name: odd[name] for name in counts if name in odd}


def _meant(name: str, other: str, counts: Mapping[str, int]) -> str:
    return f"({counts[name]} objects) may be meant to be {other!r} ({counts[other]})"


def _one_slip_apart(known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Form → name, the most frequent first: each name with the most frequent ones that a slip may have changed.

    A slip leaves a letter out, puts one in, takes another, or swaps two. Then both forms become equal when at most
    one letter of each is left out. Other digits are not a slip, since they number things. What is equal must
    have five letters, or be one of the two names and have four: shorter words are alike by chance.
    """
    sharing: dict[str, list[str]] = {}  # what is left of forms → these forms, the most frequent first
    for form in known:
        shorter = (form[:i] + form[i + 1 :] for i, char in enumerate(form) if not char.isdigit())
        for left in dict.fromkeys((form, *shorter)):
            sharing.setdefault(left, []).append(form)
    for left, forms in sharing.items():
        if len(left) >= 5:
            yield from ((known[form], known[forms[0]]) for form in forms)
        elif len(left) == 4 and left in known:
            yield from ((known[form], known[left]) for form in forms)
            yield from ((known[left], known[form]) for form in forms)


# Sizes and anchors


def resized_boxes(annotations: Annotations, short_side: int, max_side: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, 4) boxes in pixels of the resized images, and (B, 2) those images' heights and widths."""
    sizes = annotations.sizes[annotations.owners].astype(np.float64)
    scale = np.minimum(short_side / sizes.min(1), max_side / sizes.max(1))[:, None]  # (B, 1)
    return annotations.boxes * scale, sizes * scale


def anchor_overlap(
    boxes: np.ndarray, sizes: np.ndarray, base: np.ndarray, stride: int, offset: float = 0.5
) -> np.ndarray:
    """The best overlap of each box with any anchor, whether it leaves the image or not.

    Args:
        boxes: (B, 4) pixels
        sizes: (B, 2) heights and widths of their images
        base: (A, 4) anchors around the origin
        stride: pixels between cells
        offset: where in its cell an anchor sits, as a share of the stride

    Returns:
        (B,) intersection over union
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    last = np.ceil(sizes[:, ::-1] / stride) - 1  # (B, 2) the last column and row
    cells = np.clip(np.rint(centers / stride - offset), 0, np.maximum(last, 0))  # the nearest one is the best
    places = (cells + offset) * stride
    anchors = np.tile(places, 2)[:, None] + base  # (B, A, 4)
    overlap = np.minimum(boxes[:, None, 2:], anchors[..., 2:]) - np.maximum(boxes[:, None, :2], anchors[..., :2])
    intersection = overlap.clip(0).prod(2)  # (B, A)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None] + (base[:, 2:] - base[:, :2]).prod(1)
    return (intersection / (areas - intersection)).max(1)


def best_overlap(
    boxes: np.ndarray, sizes: np.ndarray, anchors: AnchorGenerator, strides: Sequence[int]
) -> np.ndarray:
    """As `anchor_overlap`, of the anchors of all levels; of very many boxes, evenly spread ones stand for all."""
    every = max(1, len(boxes) // MANY_BOXES)
    bases = anchors.bases.double().numpy()
    some = boxes[::every], sizes[::every]
    return np.max([anchor_overlap(*some, *level, anchors.offset) for level in zip(bases, strides, strict=True)], 0)


def size_histogram(boxes: np.ndarray, edges: Sequence[float]) -> list[int]:
    """(B, 4) → how many have a square root of the area from each edge to the next; the last has no end."""
    root = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    return np.histogram(root, [*edges, np.inf])[0].tolist()
