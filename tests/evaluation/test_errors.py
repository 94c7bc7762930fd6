"""resdet.evaluation.errors by hand, against literal loops, and its AP50 against COCO's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_cases import annotations_of, random_case, scaled
from reference_evaluation import errors_literal

from resdet.evaluation.coco import evaluate_coco
from resdet.evaluation.errors import KINDS, analyse_errors
from resdet.types import Detections, Target

NONE = dict.fromkeys(KINDS, 0)
OBJECT, OTHER = [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]  # of classes 0 and 1


def detected(*rows: tuple[list[float], float, int]) -> list[Detections]:
    """(box, score, label) of one image."""
    boxes, scores, labels = zip(*rows, strict=True)
    return [Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels))]


TARGET = Target(torch.tensor([OBJECT, OTHER]), torch.tensor([0, 1]), torch.tensor([False, False]))
HITS = ((OBJECT, 0.9, 0), (OTHER, 0.9, 1))


@pytest.mark.parametrize(
    ("box", "label", "kind"),
    [
        ([0.0, 0.0, 10.0, 4.0], 0, "localisation"),  # IoU 0.4
        ([0.0, 0.0, 10.0, 1.0], 0, "localisation"),  # 0.1
        ([0.0, 0.0, 10.0, 5.0], 0, "duplicate"),  # 0.5
        ([0.0, 0.0, 10.0, 5.0], 1, "confusion"),
        ([0.0, 0.0, 10.0, 4.0], 1, "both"),
        ([0.0, 0.0, 10.0, 0.9], 0, "background"),
        ([0.0, 0.0, 10.0, 1.0], 1, "background"),
        ([90.0, 90.0, 95.0, 95.0], 0, "background"),
    ],
)
def test_each_kind(box: list[float], label: int, kind: str) -> None:
    """A better-scored error beside two hits: its class falls to precision ½, and mending it gives that back."""
    first = detected((box, 0.95, label), *HITS)
    if kind == "duplicate":  # the best would be the hit
        first = detected(*HITS, (box, 0.8, label))
    errors = analyse_errors(first, [TARGET], 2)
    assert errors.counts == NONE | {kind: 1}
    lost = 0 if kind == "duplicate" else 0.25
    assert errors.ap50 == pytest.approx(1 - lost)
    assert errors.gains[kind] == pytest.approx(lost) == errors.gains["false_positive"]
    assert sum(map(abs, errors.gains.values())) == pytest.approx(2 * lost)


def test_what_is_mended_becomes_a_hit() -> None:
    """Two errors aim at the object that nothing matches: the better is corrected, the other goes."""
    shifted, narrow = [0.0, 0.0, 10.0, 4.0], [0.0, 0.0, 10.0, 3.0]
    errors = analyse_errors(detected((shifted, 0.9, 0), (narrow, 0.8, 0), HITS[1]), [TARGET], 2)
    assert errors.counts == NONE | {"localisation": 2}
    assert (errors.ap50, errors.gains["localisation"]) == pytest.approx((0.5, 0.5))
    assert errors.gains["missed"] == 0  # the errors explain it
    errors = analyse_errors(detected((OBJECT, 0.9, 1), (OBJECT, 0.8, 1), (OTHER, 0.7, 1)), [TARGET], 2)
    assert errors.counts == NONE | {"confusion": 2}
    assert (errors.ap50, errors.gains["confusion"]) == pytest.approx((1 / 6, 5 / 6))


def test_a_detection_in_a_difficult_region_of_its_class_is_no_error() -> None:
    """As by COCO's rules: with half of its own area or more, unless it is a hit."""
    target = TARGET._replace(difficult=torch.tensor([True, False]))
    inside, half, less = [2.0, 2.0, 4.0, 4.0], [5.0, 0.0, 15.0, 10.0], [5.1, 0.0, 15.1, 10.0]
    for box, label, kinds in (
        (inside, 0, {}),
        (half, 0, {}),
        (less, 0, {"background": 1}),
        (inside, 1, {"background": 1}),
    ):
        errors = analyse_errors(detected((box, 0.95, label), HITS[1]), [target], 2)
        assert errors.counts == NONE | kinds
    assert errors.gains["missed"] == errors.gains["false_negative"] == 0


def test_an_object_that_two_detections_could_match_goes_to_the_better() -> None:
    """And a detection takes the nearest object that is left."""
    near, wide = [0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 10.0, 10.0]
    target = Target(torch.tensor([near, wide]), torch.tensor([0, 0]), torch.tensor([False, False]))
    errors = analyse_errors(detected((wide, 0.9, 0), (wide, 0.8, 0), (wide, 0.7, 0)), [target], 1)
    assert errors.counts == NONE | {"duplicate": 1} and errors.ap50 == 1
    assert errors.gains == pytest.approx(dict.fromkeys(errors.gains, 0))


def test_images_are_kept_apart() -> None:
    """An error aims at an object of its own image, by the objects' order in the data set."""
    shifted = [0.0, 0.0, 10.0, 4.0]
    one = Target(torch.tensor([OBJECT]), torch.tensor([0]), torch.tensor([False]))
    errors = analyse_errors(
        [*detected((OBJECT, 0.5, 0)), *detected((shifted, 0.9, 0)), *detected((OBJECT, 0.7, 1))], [one, one, one], 2
    )
    assert errors.counts == NONE | {"localisation": 1, "confusion": 1}
    # Of class 0: wrong, hit of 3: precision ½ up to recall ⅓, which 34 of 101 recalls lie in.
    assert errors.ap50 == pytest.approx(34 / 101 / 2)
    # Mended: two hits of 3, up to recall ⅔. The one of the other class joins them in between.
    assert errors.gains["localisation"] == pytest.approx(67 / 101 - 17 / 101)
    assert errors.gains["confusion"] == pytest.approx(67 * (2 / 3) / 101 - 17 / 101)


def test_missed_objects() -> None:
    errors = analyse_errors(detected(HITS[0]), [TARGET], 3)
    assert errors.counts == NONE | {"missed": 1}
    # The class of which nothing is left to find stays in the mean, with 0.
    assert errors.ap50 == pytest.approx(0.5) and errors.gains["missed"] == 0
    both = TARGET._replace(labels=torch.tensor([0, 0]))
    errors = analyse_errors(detected(HITS[0]), [both], 3)
    assert errors.ap50 == pytest.approx(51 / 101)  # recalls 0, .01, … .5 are reached
    assert errors.gains["missed"] == errors.gains["false_negative"] == pytest.approx(50 / 101)


@pytest.mark.filterwarnings("error")
def test_nothing() -> None:
    assert np.isnan(analyse_errors([], [], 2).ap50)
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    assert analyse_errors([empty], [TARGET], 2).counts == NONE | {"missed": 2}
    without = Target(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).bool())
    assert analyse_errors(detected(*HITS), [without], 2).counts == NONE | {"background": 2}
    with pytest.raises(ValueError, match="detections for 0 images but ground truth for 1"):
        analyse_errors([], [TARGET], 2)


def test_random_data_sets_agree_with_the_literal_loops_and_with_coco() -> None:
    counts = dict.fromkeys(KINDS, 0)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        detections, targets = scaled(*random_case(rng), factor=1.0)
        errors = analyse_errors(detections, targets, 3)
        ap50, expected_counts, expected_gains = errors_literal(detections, targets, 3)
        assert errors.counts == expected_counts, seed
        assert errors.gains.keys() == expected_gains.keys()
        np.testing.assert_allclose(errors.ap50, ap50, rtol=0, atol=1e-12, err_msg=f"seed {seed}")
        gains = [errors.gains[kind] for kind in expected_gains]
        np.testing.assert_allclose(gains, list(expected_gains.values()), rtol=0, atol=1e-12, err_msg=f"seed {seed}")
        counts = {kind: counts[kind] + errors.counts[kind] for kind in KINDS}
        if seed < 50:
            # COCO ranks equal scores by image number, which falls in these annotations.
            reversed_targets = annotations_of(targets[::-1], 3)
            coco = evaluate_coco(detections[::-1], reversed_targets)
            np.testing.assert_allclose(errors.ap50, coco.stats["ap50"], rtol=0, atol=1e-9, err_msg=f"seed {seed}")
    assert min(counts.values()) > 50
