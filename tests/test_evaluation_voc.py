"""resdet.evaluation.voc against arithmetic done by hand and against the development kit's loops."""

import numpy as np
import pytest
import torch
from evaluation_cases import random_case
from reference import voc_ap_literal

from resdet.errors import UserError
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


def test_the_usual_threshold_is_one_half():
    half, less = [10.0, 10.0, 20.0, 15.0], [10.0, 10.0, 20.0, 14.99]
    assert evaluate_voc([detected([half], [0.9])], [annotated([BOX])], 1).ap.tolist() == [1]
    assert evaluate_voc([detected([less], [0.9])], [annotated([BOX])], 1).ap.tolist() == [0]


def test_the_mean_is_over_the_classes_with_positives():
    target = annotated([BOX, OTHER, AWAY], [0, 1, 1])
    result = evaluate_voc([detected([BOX, OTHER], [0.9, 0.8], [0, 1])], [target], 3)
    np.testing.assert_allclose(result.ap, [1, 1 / 2, np.nan])
    np.testing.assert_allclose(result.ap07, [1, 6 / 11, np.nan])
    assert result.map == pytest.approx(3 / 4) and result.map07 == pytest.approx(17 / 22)
    assert result.positives.tolist() == [1, 2, 0]


def test_the_curves_of_each_class_by_falling_score():
    detections = [detected([BOX, BOX, AWAY], [0.3, 0.5, 0.9], [1, 0, 0]), detected([OTHER], [0.7], [0])]
    targets = [annotated([BOX, BOX], [0, 1]), annotated([OTHER], [0])]
    first, second, third = evaluate_voc(detections, targets, 3).curves
    np.testing.assert_allclose(first.scores, [0.9, 0.7, 0.5], rtol=1e-6)
    np.testing.assert_allclose(first.precision, [0, 1 / 2, 2 / 3])
    np.testing.assert_allclose(first.recall, [0, 1 / 2, 1])
    np.testing.assert_allclose(second.scores, [0.3], rtol=1e-6)
    assert second.recall.tolist() == second.precision.tolist() == [1]
    assert len(third.recall) == len(third.precision) == len(third.scores) == 0


def test_the_curve_of_a_class_without_positives():
    (curve,) = evaluate_voc([detected([BOX, AWAY], [0.5, 0.9])], [annotated([])], 1).curves
    assert np.isnan(curve.recall).tolist() == [True, True] and curve.precision.tolist() == [0, 0]
    np.testing.assert_allclose(curve.scores, [0.9, 0.5], rtol=1e-6)


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


def test_writing_again_into_a_folder_that_is_there(tmp_path):
    folder = tmp_path / "deep/results"
    for boxes in ([BOX, OTHER], [AWAY]):
        write_voc_results(folder, [detected(boxes, [0.5] * len(boxes)), *[detected([], [])] * 2], IDS, NAMES)
    (found, *_) = read_voc_results(str(folder), IDS, NAMES)
    assert found.boxes.tolist() == [AWAY] and found.scores.tolist() == [0.5] and found.labels.tolist() == [0]


def test_results_are_read_by_image_then_score_then_class(tmp_path):
    lines = {
        "cat": "2 0.5 1 1 2 2\n1 0.5 3 3 4 4\n1 0.75 5 5 6 6\n",
        "dog": "1 0.5 7 7 8 8\n1 1 9 9 10 10\n",
        "cow": "",
    }
    for name, text in lines.items():
        (tmp_path / f"comp4_det_test_{name}.txt").write_text(text)
    none, second, first = read_voc_results(tmp_path, ["0", "2", "1"], NAMES)
    assert first.scores.tolist() == [1, 0.75, 0.5, 0.5] and first.labels.tolist() == [1, 0, 0, 1]
    assert first.boxes.tolist() == [[8, 8, 10, 10], [4, 4, 6, 6], [2, 2, 4, 4], [6, 6, 8, 8]]
    assert second.boxes.tolist() == [[0, 0, 2, 2]] and none.boxes.shape == (0, 4)
    assert [part.dtype for part in first] == [torch.float32, torch.float32, torch.int64]


def test_an_image_s_name_may_hold_spaces(tmp_path):
    names = ["two words", " 猫"]
    write_voc_results(tmp_path, [detected([BOX], [0.5]), detected([OTHER], [0.5])], names, NAMES)
    (tmp_path / "comp4_det_test_dog.txt").write_text("two words 0.5 1 1 2 2\n")
    read = read_voc_results(tmp_path, ["two words", " 猫"], NAMES)
    assert read[0].boxes.tolist() == [BOX, [0, 0, 2, 2]] and read[1].boxes.tolist() == [OTHER]


def test_a_box_whose_corners_rounding_has_swapped_is_read(tmp_path):
    """Hundredths of a pixel may turn a box without area round by as much."""
    for name in NAMES:
        (tmp_path / f"comp4_det_test_{name}.txt").write_text(
            "000003 0.5 1.015 1.015 0 0\n" if name == "cow" else ""
        )
    assert len(read_voc_results(tmp_path, IDS, NAMES)[2].boxes) == 1
    for line in ("000003 0.5 1.025 1 0 1", "000003 0.5 1 1.025 1 0"):
        (tmp_path / "comp4_det_test_cow.txt").write_text(f"{line}\n")
        with pytest.raises(UserError, match="line 1: x2 and y2 must not be less"):
            read_voc_results(tmp_path, IDS, NAMES)


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
        ("000003 0.5 1 2 3 inf", "must be finite numbers"),
        ("000003 0.5 1 9 3 4", "x2 and y2 must not be less than x1 and y1"),
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
    with refuses("comp4_det_test_dog.txt, line 1: expected 'image_id score x1 y1 x2 y2', not '\\udcff\\udcfe'"):
        read_voc_results(tmp_path, IDS, NAMES)


def test_any_image_s_name_comes_back(tmp_path):
    ids = ["caf\udce9", "a\u2028b", "x\x0cy", "图 1"]  # the first was not UTF-8 on the disk
    write_voc_results(tmp_path, [detected([BOX], [0.5])] * 4, ids, NAMES)
    assert [found.boxes.tolist() for found in read_voc_results(tmp_path, ids, NAMES)] == [[BOX]] * 4


def test_any_class_has_a_file_of_its_own(tmp_path):
    names = [
        "cat",
        "Cabinet/shelf",
        "../up",
        "con",
        "",
        ".",
        "..",
        "Cat",
        "CAT",
        "x" * 999,
        "x" * 998,
        'a:*?"<>|%\\\0',
    ]
    written = [Detections(torch.tensor([BOX]), torch.tensor([0.5]), torch.tensor([c])) for c in range(len(names))]
    write_voc_results(tmp_path / "voc", written, list(map(str, range(len(names)))), names)
    assert len(list((tmp_path / "voc").iterdir())) == len(names) and list(tmp_path.iterdir()) == [tmp_path / "voc"]
    read = read_voc_results(tmp_path / "voc", list(map(str, range(len(names)))), names)
    assert [found.labels.tolist() for found in read] == [[c] for c in range(len(names))]
    assert (tmp_path / "voc/comp4_det_test_Cabinet%2Fshelf.txt").is_file()


def test_as_many_ids_as_images(tmp_path):
    with pytest.raises(ValueError, match="detections for 1 images but 3 image ids"):
        write_voc_results(tmp_path, [detected([BOX], [0.5])], IDS, NAMES)
