"""Slow literal loops that a reader trusts at sight: the oracles of the tests."""

import math


def voc_ap_literal(detections, targets, label, iou_threshold=0.5):
    """(ap, ap07, positives) of one class: VOCevaldet.m and VOCap.m line by line, in their 1-based boxes."""
    ground_truth = []  # of each image: [box, difficult, detected]
    positives = 0
    for target in targets:
        objects = []
        fields = target.boxes.tolist(), target.labels.tolist(), target.difficult.tolist()
        for (x1, y1, x2, y2), box_label, difficult in zip(*fields, strict=True):
            if box_label == label:
                objects.append([(x1 + 1, y1 + 1, x2, y2), difficult, False])
                positives += not difficult
        ground_truth.append(objects)

    found = []  # (score, image, box)
    for image, d in enumerate(detections):
        fields = d.boxes.tolist(), d.scores.tolist(), d.labels.tolist()
        for (x1, y1, x2, y2), score, box_label in zip(*fields, strict=True):
            if box_label == label:
                found.append((score, image, (x1 + 1, y1 + 1, x2, y2)))
    found.sort(key=lambda detection: -detection[0])  # stable

    recall, precision = [], []
    tp = fp = 0
    for _, image, bb in found:
        best_overlap, best = -math.inf, None
        for candidate in ground_truth[image]:
            bbgt = candidate[0]
            iw = min(bb[2], bbgt[2]) - max(bb[0], bbgt[0]) + 1
            ih = min(bb[3], bbgt[3]) - max(bb[1], bbgt[1]) + 1
            if iw > 0 and ih > 0:
                ua = (
                    (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1)
                    + (bbgt[2] - bbgt[0] + 1) * (bbgt[3] - bbgt[1] + 1)
                    - iw * ih
                )
                overlap = iw * ih / ua
                if overlap > best_overlap:
                    best_overlap, best = overlap, candidate
        if best_overlap >= iou_threshold:
            _, difficult, detected = best
            if not difficult:
                if not detected:
                    tp += 1
                    best[2] = True
                else:
                    fp += 1  # multiple detection
        else:
            fp += 1
        recall.append(tp / positives if positives else math.nan)
        precision.append(tp / (tp + fp) if tp + fp else 0.0)  # 0/0 in the kit, whose max() skips a NaN

    if positives == 0:
        return math.nan, math.nan, 0

    ap07 = 0.0
    for tenth in range(11):
        reached = [p for r, p in zip(recall, precision, strict=True) if r >= tenth / 10]
        ap07 += max(reached, default=0.0) / 11

    mrec, mpre = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    ap = 0.0
    for i in range(1, len(mrec)):
        ap += (mrec[i] - mrec[i - 1]) * mpre[i]
    return ap, ap07, positives
