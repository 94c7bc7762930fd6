"""Slow literal loops for the evaluation, and COCO's tool driven by hand: the oracles of its tests."""

import io
from contextlib import redirect_stdout

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def coco_files(detections, annotations):
    """What COCO's annotation file and its results file would hold: a dict and a list."""
    truth = {"images": [], "annotations": [], "categories": []}
    for label, name in enumerate(annotations.classes):
        truth["categories"].append({"id": int(annotations.category_ids[label]), "name": name})
    results = []
    for i, found in enumerate(detections):
        name = annotations.id(i)
        name = int(name) if name.isdigit() else name
        height, width = annotations.sizes[i].tolist()
        truth["images"].append({"id": name, "height": height, "width": width, "file_name": f"{name}.jpg"})
        for k in range(annotations.offsets[i], annotations.offsets[i + 1]):
            x1, y1, x2, y2 = annotations.boxes[k].tolist()
            record = {"id": len(truth["annotations"]) + 1, "image_id": name, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            record["category_id"] = int(annotations.category_ids[annotations.labels[k]])
            record["area"] = float(annotations.areas[k])
            record["iscrowd"] = int(annotations.difficult[k])
            truth["annotations"].append(record)
        for (x1, y1, x2, y2), score, label in zip(*(field.tolist() for field in found), strict=True):
            category = int(annotations.category_ids[label])
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": name, "category_id": category, "bbox": box, "score": score})
    return truth, results


def run_pycocotools(truth, results):
    """The 12 numbers, and precision (IoU, recall, category, area, detections), by pycocotools alone.

    Args:
        truth: what an annotation file holds
        results: what a results file holds, or its path
    """
    with redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = truth
        annotated.createIndex()
        if results:
            found = annotated.loadRes(results)
        else:  # loadRes looks at the first result
            found = COCO()
            found.dataset = {**truth, "annotations": []}
            found.createIndex()
        evaluator = COCOeval(annotated, found, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats, evaluator.eval["precision"]


def area(box):
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)


def intersection(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def iou(a, b):
    common = intersection(a, b)
    return common / (area(a) + area(b) - common) if common else 0.0


def rows(item):
    """Detections or a target as one dict for each box."""
    names = {"boxes": "box", "labels": "label", "scores": "score", "difficult": "difficult"}
    columns = [field.tolist() for field in item]
    return [dict(zip(map(names.get, item._fields), row, strict=True)) for row in zip(*columns, strict=True)]


def errors_literal(detections, targets, num_classes):
    """(AP50, counts, gains) after TIDE, §2.2 and §2.3, one detection and one object at a time."""
    found, objects = [], []  # of the whole data set
    for image_detections, target in zip(detections, targets, strict=True):
        own = [dict(row, matched=False, covered=False) for row in rows(target)]
        objects += own
        plain, crowds = [o for o in own if not o["difficult"]], [o for o in own if o["difficult"]]
        for d in sorted(rows(image_detections), key=lambda row: -row["score"]):  # stable
            best = None
            for o in plain:
                overlap = iou(d["box"], o["box"])
                free = o["label"] == d["label"] and not o["matched"]
                if free and overlap >= (0.5 if best is None else iou(d["box"], best["box"])):
                    best = o
            if best is not None:
                best["matched"] = True
                found.append({**d, "kind": "hit", "aim": best})
            elif not any(
                o["label"] == d["label"] and intersection(d["box"], o["box"]) / area(d["box"]) >= 0.5
                for o in crowds
            ):
                found.append({**d, **kind_of(d, plain)})
    for d in found:
        if d["kind"] in ("hit", "localisation", "confusion"):
            d["aim"]["covered"] = True

    plain = [o for o in objects if not o["difficult"]]
    classes = sorted({o["label"] for o in plain})
    now = mean_ap(found, [o["label"] for o in plain], classes)
    gains, counts = {}, {}
    for kind in ("localisation", "confusion", "both", "duplicate", "background"):
        counts[kind] = sum(d["kind"] == kind for d in found)
        mended = [d for d in found if d["kind"] != kind]
        if kind in ("localisation", "confusion"):
            taken, corrected = [id(d["aim"]) for d in found if d["kind"] == "hit"], []
            for d in sorted((d for d in found if d["kind"] == kind), key=lambda d: -d["score"]):
                if id(d["aim"]) not in taken:
                    taken.append(id(d["aim"]))
                    corrected.append(id(d))
            mended = [
                {**d, "kind": "hit", "label": d["aim"]["label"]} if id(d) in corrected else d
                for d in found
                if d["kind"] != kind or id(d) in corrected
            ]
        gains[kind] = mean_ap(mended, [o["label"] for o in plain], classes) - now
    counts["missed"] = sum(not o["covered"] for o in plain)
    gains["missed"] = mean_ap(found, [o["label"] for o in plain if o["covered"]], classes) - now
    hits = [d for d in found if d["kind"] == "hit"]
    gains["false_positive"] = mean_ap(hits, [o["label"] for o in plain], classes) - now
    gains["false_negative"] = mean_ap(found, [o["label"] for o in plain if o["matched"]], classes) - now
    return now, counts, gains


def kind_of(d, plain):
    """Of a detection that matches nothing: its kind of error and the object it aims at."""
    same = [o for o in plain if o["label"] == d["label"]]
    others = [o for o in plain if o["label"] != d["label"]]
    nearest, nearest_other = (
        max(some, key=lambda o: iou(d["box"], o["box"]), default=None) for some in (same, others)
    )
    near = iou(d["box"], nearest["box"]) if nearest else 0
    near_other = iou(d["box"], nearest_other["box"]) if nearest_other else 0
    if 0.1 <= near < 0.5:
        return {"kind": "localisation", "aim": nearest}
    if near_other >= 0.5:
        return {"kind": "confusion", "aim": nearest_other}
    if near >= 0.5:
        return {"kind": "duplicate"}
    if max(near, near_other) <= 0.1:
        return {"kind": "background"}
    return {"kind": "both"}


def mean_ap(found, object_labels, classes):
    """COCO's 101-point AP at one IoU, averaged over `classes`; 0 for one without objects."""
    total = 0.0
    for label in classes:
        positives = object_labels.count(label)
        own = sorted((d for d in found if d["label"] == label), key=lambda d: -d["score"])
        true, curve = 0, []
        for points, d in enumerate(own if positives else [], start=1):
            true += d["kind"] == "hit"
            curve.append((true / positives, true / points))
        for least in np.linspace(0, 1, 101):  # as pycocotools has it: not all are the hundredths to the last bit
            total += max((precision for recall, precision in curve if recall >= least), default=0.0) / 101
    return total / len(classes) if classes else float("nan")


def confusion_literal(detections, targets, num_classes, min_score, min_iou):
    """(C + 1, C + 1) nested list: rows annotated, columns detected, background last."""
    matrix = [[0] * (num_classes + 1) for _ in range(num_classes + 1)]
    for found, target in zip(detections, targets, strict=True):
        left = sorted((d for d in rows(found) if d["score"] >= min_score), key=lambda d: -d["score"])
        objects = [o for o in rows(target) if not o["difficult"]]
        while True:
            best, pair = 0.0, None
            for d in left:
                for o in objects:
                    if iou(d["box"], o["box"]) > best:
                        best, pair = iou(d["box"], o["box"]), (d, o)
            if pair is None or best < min_iou:
                break
            matrix[pair[1]["label"]][pair[0]["label"]] += 1
            left = [d for d in left if d is not pair[0]]
            objects = [o for o in objects if o is not pair[1]]
        for o in objects:
            matrix[o["label"]][num_classes] += 1
        for d in left:
            if not any(o["difficult"] and iou(d["box"], o["box"]) >= min_iou for o in rows(target)):
                matrix[num_classes][d["label"]] += 1
    return matrix


def proposal_overlaps_literal(proposals, targets, number):
    """Overlap of each object that is not difficult with the proposal that covers it, greedily by overlap."""
    result = []
    for boxes, target in zip(proposals, targets, strict=True):
        objects = [o["box"] for o in rows(target) if not o["difficult"]]
        left, found = dict(enumerate(boxes.tolist()[:number])), {}
        while left and len(found) < len(objects):
            candidates = [
                (-iou(objects[o], left[p]), o, p) for o in range(len(objects)) if o not in found for p in left
            ]
            negative, o, p = min(candidates)
            found[o] = -negative
            del left[p]
        result += [found.get(o, 0.0) for o in range(len(objects))]
    return result
