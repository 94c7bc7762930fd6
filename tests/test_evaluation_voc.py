"""resdet.evaluation.voc against arithmetic done by hand and against the development kit's loops."""

import numpy as np
import pytest
import torch
from evaluation_cases import random_case
from reference import voc_ap_literal

from resdet.evaluation.voc import (
    average_precision,
    average_precision_07,
    evaluate_voc,
    read_voc_results,
    write_voc_results,
)
from resdet.types import Detections, Target

BOX = [10.0, 10.0, 20.0, 20.0]
OTHER = [30.0, 30.0, 40.0, 40.0]
AWAY = [70.0, 70.0, 80.0, 80.0]


def detected(boxes, scores, labels=None):
    labels = [0] * len(boxes) if labels is None else labels
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels).long())


def annotated(boxes, labels=None, difficult=None):
    labels = [0] * len(boxes) if labels is None else labels
    difficult = [False] * len(boxes) if difficult is None else difficult
    boxes = torch.tensor(boxes).reshape(-1, 4)
    return Target(boxes, torch.tensor(labels).long(), torch.tensor(difficult).bool())


def test_both_rules_by_hand():
    # 4 positives; hit, miss, hit, miss, miss: recall ¼ ¼ ½ ½ ½, precision 1 ½ ⅔ ½ ⅖.
    recall, precision = np.array([1, 1, 2, 2, 2]) / 4, np.array([1, 1 / 2, 2 / 3, 1 / 2, 2 / 5])
    # Interpolated: 1 up to recall ¼, ⅔ up to ½, 0 beyond: ¼·1 + ¼·⅔ = 5/12.
    assert average_precision(recall, precision) == pytest.approx(5 / 12, abs=1e-12)
    # Recalls 0, .1, .2 read 1; .3, .4, .5 read ⅔; .6 to 1 read 0: (3 + 2) / 11.
    assert average_precision_07(recall, precision) == pytest.approx(5 / 11, abs=1e-12)


def test_recall_of_three_tenths_reaches_the_threshold():
    # 3 of 10 found: recalls 0, .1, .2, .3 are reached. 3 × 0.1 is above 0.3 in floating point.
    assert average_precision_07(np.array([1, 2, 3]) / 10, np.ones(3)) == pytest.approx(4 / 11, abs=1e-12)


def test_second_detection_of_a_box_is_false():
    result = evaluate_voc([detected([BOX, BOX, OTHER], [0.9, 0.8, 0.7])], [annotated([BOX, OTHER])], 1)
    # true, false, true of 2: precision 1, ½, ⅔ at recall ½, ½, 1.
    np.testing.assert_allclose(result.curves[0].precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(result.curves[0].recall, [1 / 2, 1 / 2, 1])
    np.testing.assert_allclose(result.curves[0].scores, [0.9, 0.8, 0.7], rtol=1e-6)
    assert result.ap[0] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)  # 5/6
    assert result.ap07[0] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)  # recalls 0 to .5, then .6 to 1
    assert result.positives.tolist() == [2]


def test_a_taken_box_is_not_exchanged_for_the_second_best():
    wide = [10.0, 10.0, 22.0, 20.0]  # IoU with BOX is 100/120
    # Both detections overlap BOX most, so the second is false although `wide` is still free.
    result = evaluate_voc([detected([BOX, BOX], [0.9, 0.8])], [annotated([BOX, wide])], 1)
    assert result.curves[0].recall.tolist() == [1 / 2, 1 / 2]


def test_equal_overlaps_take_the_first_box():
    # Two annotations of one place: the first, being difficult, takes the detection out of the count.
    target = annotated([BOX, BOX], difficult=[True, False])
    assert len(evaluate_voc([detected([BOX], [0.9])], [target], 1).curves[0].recall) == 0
    target = annotated([BOX, BOX], difficult=[False, True])
    assert evaluate_voc([detected([BOX], [0.9])], [target], 1).ap.tolist() == [1]


def test_difficult_boxes_count_neither_for_nor_against():
    target = annotated([BOX, OTHER], difficult=[False, True])
    result = evaluate_voc([detected([OTHER, OTHER, BOX], [0.9, 0.8, 0.7])], [target], 1)
    assert result.ap.tolist() == [1] and result.ap07.tolist() == [1] and result.positives.tolist() == [1]


def test_overlap_equal_to_the_threshold_matches():
    half = [10.0, 10.0, 20.0, 15.0]  # 50 / 100
    assert evaluate_voc([detected([half], [0.9])], [annotated([BOX])], 1, 0.5).ap.tolist() == [1]
    assert evaluate_voc([detected([half], [0.9])], [annotated([BOX])], 1, 0.51).ap.tolist() == [0]
    # Whatever the threshold, boxes that do not meet do not match.
    assert evaluate_voc([detected([AWAY], [0.9])], [annotated([BOX])], 1, 0.0).ap.tolist() == [0]


def test_equal_scores_keep_the_order_given():
    detections, targets = [detected([AWAY], [0.5]), detected([BOX], [0.5])], [annotated([BOX])] * 2
    # false, true of 2: precision ½ up to recall ½; the other way round it is 1.
    assert evaluate_voc(detections, targets, 1).ap.tolist() == [1 / 4]
    assert evaluate_voc(detections[::-1], targets, 1).ap.tolist() == [1 / 2]


def test_images_and_classes_are_kept_apart():
    detections = [detected([BOX, OTHER], [0.9, 0.8], [1, 0]), detected([BOX], [0.7], [0])]
    targets = [annotated([BOX, OTHER], [0, 1]), annotated([AWAY], [0])]
    assert evaluate_voc(detections, targets, 2).ap.tolist() == [0, 0]


def test_class_without_ground_truth_has_no_ap_and_no_part_in_the_mean():
    target = annotated([BOX, OTHER], [0, 1], [False, True])
    result = evaluate_voc([detected([BOX, BOX], [0.9, 0.8], [0, 2])], [target], 3)
    np.testing.assert_array_equal(result.ap, [1, np.nan, np.nan])
    np.testing.assert_array_equal(result.ap07, [1, np.nan, np.nan])
    assert result.map == result.map07 == 1


@pytest.mark.filterwarnings("error")
def test_no_ground_truth_at_all():
    for detections, targets in ([], []), ([detected([BOX], [0.9])], [annotated([])]):
        result = evaluate_voc(detections, targets, 2)
        assert np.isnan(result.ap).all() and np.isnan(result.map) and np.isnan(result.map07)


def test_accepts_arrays():
    detection = Detections(np.array([BOX]), np.array([0.9]), np.array([0]))
    target = Target(np.array([BOX]), np.array([0]), np.array([False]))
    assert evaluate_voc([detection], [target], 1).map == 1


def test_random_data_sets_agree_with_the_literal_loops():
    seen_ap = []
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        detections, targets = random_case(rng)
        threshold = rng.choice([0.3, 0.5, 0.75])
        result = evaluate_voc(detections, targets, 3, threshold)
        for label in range(3):
            ap, ap07, positives = voc_ap_literal(detections, targets, label, threshold)
            assert result.positives[label] == positives
            np.testing.assert_allclose(result.ap[label], ap, rtol=0, atol=1e-12, err_msg=f"seed {seed}")
            np.testing.assert_allclose(result.ap07[label], ap07, rtol=0, atol=1e-12, err_msg=f"seed {seed}")
            seen_ap.append(ap)
    seen_ap = np.array(seen_ap)
    # The cases are worth something only if they reach every kind of outcome.
    assert min(np.isnan(seen_ap).sum(), (seen_ap == 0).sum(), ((seen_ap > 0) & (seen_ap < 1)).sum()) > 200


def test_nan_score_is_one_clear_sentence():
    detections = [detected([BOX], [0.9]), detected([BOX], [float("nan")])]
    with pytest.raises(ValueError, match=r"Image number 1 .*has a detection whose score is not a finite number\.$"):
        evaluate_voc(detections, [annotated([BOX])] * 2, 1)


@pytest.mark.parametrize(
    "detections, targets, message",
    [
        ([detected([BOX], [0.9])], [], "detections for 1 images but ground truth for 0"),
        ([detected([BOX], [0.9], [2])], [annotated([BOX])], "detection outside the 2 classes"),
        ([detected([BOX], [0.9])], [annotated([BOX], [-1])], "ground-truth box outside the 2 classes"),
        ([detected([[0, 0, 1, np.inf]], [0.9])], [annotated([BOX])], "corners are not finite"),
        ([detected([BOX, BOX], [0.9])], [annotated([BOX])], "must have as many labels and scores as boxes"),
    ],
)
def test_unusable_input_is_refused(detections, targets, message):
    with pytest.raises(ValueError, match=message):
        evaluate_voc(detections, targets, 2)


# ------------------------------------------------------------ results files

NAMES = ["cat", "dog", "cow"]
IDS = ["2007_000001", "2007_000002", "000003"]


def test_results_files_hold_the_kits_lines(tmp_path):
    detections = [detected([[0, 0, 10, 20.5]], [0.25], [1]), detected([], []), detected([BOX], [1.0], [1])]
    write_voc_results(tmp_path, detections, IDS, NAMES)
    # The first pixel is 1 in the kit, the last one inclusive: x1, y1 grow by 1; x2, y2 stay.
    assert (tmp_path / "comp4_det_test_dog.txt").read_text() == (
        "2007_000001 0.250000 1.00 1.00 10.00 20.50\n000003 1.000000 11.00 11.00 20.00 20.00\n"
    )
    assert (tmp_path / "comp4_det_test_cat.txt").read_text() == ""


def test_results_files_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    written = []
    for count in (7, 0, 30):
        scores = -np.sort(-rng.choice(10**6, count, replace=False) / 10**6)  # distinct when printed, best first
        labels = torch.from_numpy(rng.integers(0, 3, count))
        corners = rng.random((2, count, 2)) * 500
        boxes = torch.from_numpy(np.concatenate([corners.min(0), corners.max(0)], 1)).float()
        written.append(Detections(boxes, torch.from_numpy(scores).float(), labels))
    write_voc_results(tmp_path, written, IDS, NAMES)
    read = read_voc_results(tmp_path, IDS, NAMES)
    assert len(read) == 3
    for before, after in zip(written, read, strict=True):
        torch.testing.assert_close(after.boxes, before.boxes, rtol=0, atol=0.00505)
        torch.testing.assert_close(after.scores, before.scores, rtol=0, atol=5.1e-7)
        torch.testing.assert_close(after.labels, before.labels)


def test_reading_for_no_image(tmp_path):
    write_voc_results(tmp_path, [], [], NAMES)
    assert read_voc_results(tmp_path, [], NAMES) == []


@pytest.mark.parametrize(
    "line, message",
    [
        ("000003 0.5 1 2 3", "expected 'image_id score x1 y1 x2 y2'"),
        ("", "expected 'image_id score x1 y1 x2 y2'"),
        ("000003 0.5 1 2 3 four", "expected 'image_id score x1 y1 x2 y2'"),
        ("000004 0.5 1 2 3 4", "the image '000004' is not in the data set"),
        ("000003 nan 1 2 3 4", "must be finite numbers"),
        ("000003 0.5 9 2 3 4", "x2 and y2 must not be less than x1 and y1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, refuses, line, message):
    write_voc_results(tmp_path, [detected([], [])] * 3, IDS, NAMES)
    path = tmp_path / "comp4_det_test_dog.txt"
    path.write_text(f"000003 0.5 1 2 3 4\n{line}\n")
    with refuses(f"{path}, line 2: ", message):
        read_voc_results(tmp_path, IDS, NAMES)


def test_a_missing_file_is_named(tmp_path, refuses):
    with refuses("comp4_det_test_cat.txt is missing"):
        read_voc_results(tmp_path, IDS, NAMES)


def test_a_file_that_is_no_text_is_named(tmp_path, refuses):
    write_voc_results(tmp_path, [detected([], [])] * 3, IDS, NAMES)
    (tmp_path / "comp4_det_test_dog.txt").write_bytes(b"\xff\xfe")
    with refuses("comp4_det_test_dog.txt cannot be read"):
        read_voc_results(tmp_path, IDS, NAMES)


def test_as_many_ids_as_images(tmp_path):
    with pytest.raises(ValueError, match="detections for 1 images but 3 image ids"):
        write_voc_results(tmp_path, [detected([BOX], [0.5])], IDS, NAMES)
