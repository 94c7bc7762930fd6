"""Slow literal loops that a reader trusts at sight: the oracles of the tests."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


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


# ------------------------------------------------------------ boxes


def iou_literal(a, b):
    """IoU of two boxes given as four numbers; 0 where both are empty."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    area_a = max(a[2] - a[0], 0.0) * max(a[3] - a[1], 0.0)
    area_b = max(b[2] - b[0], 0.0) * max(b[3] - b[1], 0.0)
    union = area_a + area_b - width * height
    return width * height / union if union > 0 else 0.0


def encode_literal(box, anchor):
    """[t_x, t_y, t_w, t_h] of one box relative to one anchor (R-CNN, appendix C)."""
    w, h, wa, ha = box[2] - box[0], box[3] - box[1], anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y, xa, ya = box[0] + w / 2, box[1] + h / 2, anchor[0] + wa / 2, anchor[1] + ha / 2
    return [(x - xa) / wa, (y - ya) / ha, math.log(w / wa), math.log(h / ha)]


def nms_literal(boxes, scores, threshold):
    """Indices that greedy non-maximum suppression keeps, best first; of equal scores the first box wins."""
    waiting = sorted(range(len(boxes)), key=lambda i: -scores[i])  # stable
    kept = []
    while waiting:
        best = waiting.pop(0)
        kept.append(best)
        waiting = [i for i in waiting if iou_literal(boxes[best], boxes[i]) <= threshold]
    return kept


# ------------------------------------------------------------ region operators


def round_half_away(x):
    """2.5 → 3 and −0.5 → −1, as C's round()."""
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def roi_pool_literal(features, rois, image_index, size, scale):
    """RoI max pooling, one output number after the other; features (N, C, H, W), rois lists of four numbers."""
    _, channels, height, width = features.shape
    pooled = features.new_zeros((len(rois), channels, size, size))
    for r, (roi, n) in enumerate(zip(rois, image_index, strict=True)):
        x1, y1, x2, y2 = (round_half_away(corner * scale) for corner in roi)
        columns, rows = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)  # the last cell included
        for c in range(channels):
            for i in range(size):
                for j in range(size):
                    inside = []
                    for y in range(y1 + i * rows // size, y1 - (-(i + 1) * rows // size)):  # floor to ceiling
                        for x in range(x1 + j * columns // size, x1 - (-(j + 1) * columns // size)):
                            if 0 <= y < height and 0 <= x < width:
                                inside.append(features[n, c, y, x].item())
                    pooled[r, c, i, j] = max(inside, key=lambda x: (x != x, x), default=0.0)  # NaN is the largest
    return pooled


def bilinear_literal(plane, y, x):
    """The value of an (H, W) plane between its cells; the border's up to one cell beyond it, then 0."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = y - y0, x - x0
    top = (1 - dx) * plane[y0, x0].item() + dx * plane[y0, x1].item()
    bottom = (1 - dx) * plane[y1, x0].item() + dx * plane[y1, x1].item()
    return (1 - dy) * top + dy * bottom


def roi_align_literal(features, rois, image_index, size, scale, sampling_ratio, aligned):
    """RoI align, one output number after the other; arguments as in `roi_pool_literal`."""
    channels = features.shape[1]
    pooled = features.new_zeros((len(rois), channels, size, size))
    for r, (roi, n) in enumerate(zip(rois, image_index, strict=True)):
        x1, y1, x2, y2 = (corner * scale - (0.5 if aligned else 0.0) for corner in roi)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        samples_x = sampling_ratio or math.ceil(width / size)
        samples_y = sampling_ratio or math.ceil(height / size)
        for c in range(channels):
            for i in range(size):
                for j in range(size):
                    total = 0.0
                    for sy in range(samples_y):
                        for sx in range(samples_x):
                            y = y1 + (i + (sy + 0.5) / samples_y) * height / size
                            x = x1 + (j + (sx + 0.5) / samples_x) * width / size
                            total += bilinear_literal(features[n, c], y, x)
                    pooled[r, c, i, j] = total / max(samples_x * samples_y, 1)
    return pooled


# ------------------------------------------------------------ detection


WINOGRAD_G = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # times 24
WINOGRAD_B = [
    [4, 0, 0, 0, 0, 0],
    [0, -4, 4, -2, 2, 4],
    [-5, -4, -4, -1, -1, 0],
    [0, 1, -1, 2, -2, -5],
    [1, 1, 1, 1, 1, 0],
    [0, 0, 0, 0, 0, 1],
]
WINOGRAD_A = [[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 2, 4, 8], [1, -2, 4, -8], [0, 0, 0, 1]]


def winograd_weights_literal(weight):
    """G g Gᵀ of each filter (Lavin and Gray 2016, §4.3) → (36, C, K)"""
    g = torch.tensor(WINOGRAD_G, dtype=torch.float64) / 24
    terms = torch.zeros(36, weight.shape[1], weight.shape[0])
    for k, c in itertools.product(range(weight.shape[0]), range(weight.shape[1])):
        terms[:, c, k] = (g @ weight[k, c].double() @ g.T).flatten()
    return terms


def winograd_gradient_literal(gradient, x):
    """What autograd makes of Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, for each tile and each pair of channels."""
    g, b, a = (torch.tensor(matrix, dtype=torch.float64) for matrix in (WINOGRAD_G, WINOGRAD_B, WINOGRAD_A))
    g, (count, inputs, height, width), outputs = g / 24, x.shape, gradient.shape[1]
    result = torch.zeros(outputs, inputs, 3, 3, dtype=torch.float64)
    windows = torch.nn.functional.pad(x.double(), (1, 5, 1, 5))
    upstream = torch.nn.functional.pad(gradient.double(), (0, 4, 0, 4))
    for n, y, z in itertools.product(range(count), range(0, height, 4), range(0, width, 4)):
        for k, c in itertools.product(range(outputs), range(inputs)):
            factor = b.T @ windows[n, c, y : y + 6, z : z + 6] @ b
            product = a @ upstream[n, k, y : y + 4, z : z + 4] @ a.T
            result[k, c] += g.T @ (factor * product) @ g
    return result.float()


def batch_norm_literal(x, added, gamma, beta, eps, relu):
    """Ioffe and Szegedy 2015, algorithm 1, then the shortcut and the ReLU of He et al. 2015."""
    result = torch.zeros_like(x)
    for c in range(x.shape[1]):
        values = x[:, c]
        mean = values.sum() / values.numel()
        var = ((values - mean) ** 2).sum() / values.numel()
        y = gamma[c] * (values - mean) / (var + eps) ** 0.5 + beta[c] + (0 if added is None else added[:, c])
        result[:, c] = torch.where(y > 0, y, torch.zeros_like(y)) if relu else y
    return result


def anchors_literal(scales, ratios, height, width, stride):
    """The anchors of a feature map as lists of four numbers: row, column, ratio, scale."""
    anchors = []
    for row in range(height):
        for column in range(width):
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            for ratio in ratios:
                for scale in scales:
                    w, h = scale / math.sqrt(ratio), scale * math.sqrt(ratio)
                    anchors.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return anchors


def match_anchors_literal(iou, foreground_iou, background_iou):
    """Labels 1, 0, −1 of the K rows of an IoU table with G columns (Faster R-CNN §3.1.2)."""
    boxes = range(len(iou[0])) if iou else []
    best_of_box = [max(row[g] for row in iou) for g in boxes]
    labels = []
    for row in iou:
        is_best = any(row[g] == best_of_box[g] > 0 for g in boxes)
        if is_best or any(value >= foreground_iou for value in row):
            labels.append(1)
        elif all(value < background_iou for value in row):
            labels.append(0)
        else:
            labels.append(-1)
    return labels


def sample_rois_literal(proposals, gt_boxes, gt_labels, num_classes, foreground_iou, background_iou, box_stds):
    """(roi, class, deltas) of every candidate that may be sampled, foreground first (Fast R-CNN §2.3)."""
    foreground, background = [], []
    for roi in [*proposals, *gt_boxes]:
        overlaps = [iou_literal(roi, box) for box in gt_boxes]
        best = max(overlaps, default=0.0)
        if best >= foreground_iou:
            g = overlaps.index(best)
            deltas = encode_literal(gt_boxes[g], roi)
            foreground.append((roi, gt_labels[g], [t / std for t, std in zip(deltas, box_stds, strict=True)]))
        elif background_iou[0] <= best < background_iou[1]:
            background.append((roi, num_classes, [0.0] * 4))
    return foreground + background


def smooth_l1_literal(x, beta):
    """Fast R-CNN eq. 3 with the corner at beta."""
    return 0.5 * x * x / beta if abs(x) < beta else abs(x) - 0.5 * beta


# Residual networks, from their state dict


def residual_network(
    state: dict[str, Tensor],
    images: Tensor,
    *,
    stages: dict[str, tuple[int, int]],
    order: str = "original",
    joining: str = "add",
    plain: bool = False,
    pool: bool = False,
) -> Tensor:
    """Logits of a network in evaluation mode, as the figures of He et al. 2015 and 2016 draw it.

    `stages` maps the prefix of each stage to its units and its first stride; `pool` is ImageNet's max pooling. What
    an order or a joining needs is read off the names in `state`.
    """

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        if f"{name}.weight" not in state:
            return x
        mean, var, gamma, beta = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return gamma * (x - mean) / (var + 1e-5).sqrt() + beta

    def relu(x: Tensor) -> Tensor:
        return x.clamp(min=0)

    def unit(name: str, x: Tensor, stride: int, first: bool) -> Tensor:
        convs = [f"{name}.conv{i}" for i in (1, 2, 3) if f"{name}.conv{i}.weight" in state]
        norms = [f"{name}.norm{c[-1]}" for c in convs]
        projected = f"{name}.shortcut.conv.weight" in state
        strides = [stride if i == (0 if len(convs) == 2 else 1) else 1 for i in range(len(convs))]
        y = source = x
        if order == "full_preactivation" and not first:
            y = relu(norm(norms[0], x))
            source = y if projected else x
        if order == "relu_preactivation" and not first:
            y = relu(x)
            source = y if projected else x
        for i, (c, n, s) in enumerate(zip(convs, norms, strides, strict=True)):
            last = i == len(convs) - 1
            if order == "full_preactivation":
                y = conv(c, relu(norm(n, y)) if i else y, s)
            elif order == "relu_preactivation":
                y = norm(n, conv(c, relu(y) if i else y, s))
            elif order == "norm_after" and last:
                y = conv(c, y, s)
            else:
                y = norm(n, conv(c, y, s))
                y = y if last and order == "original" else relu(y)
        if plain:
            total = y
        else:
            if projected:
                h = norm(f"{name}.shortcut.norm", conv(f"{name}.shortcut.conv", source, stride))
            else:
                h = torch.zeros_like(y)
                h[:, : x.shape[1]] = source[:, :, ::stride, ::stride]
            if joining == "scale":
                h, y = h / 2, y / 2
            if "gate" in joining:
                gate = 1 / (1 + torch.exp(-conv(f"{name}.joining.conv", source, stride)))
                h, y = (1 - gate) * h, gate * y if joining == "exclusive_gate" else y
            total = h + y
        if order == "norm_after":
            return relu(norm(norms[-1], total))
        return relu(total) if order == "original" else total

    stem = next(name for name in state if name.endswith("conv1.conv.weight")).removesuffix(".conv.weight")
    x = relu(norm(f"{stem}.norm", conv(f"{stem}.conv", images, 2 if pool else 1)))
    if pool:
        x = F.max_pool2d(x, 3, 2, 1)
    first, last = True, ""
    for last, (units, stride) in stages.items():
        for index in range(units):
            x = unit(f"{last}.{index}", x, stride if index == 0 else 1, first)
            first = False
    if "preactivation" in order:
        x = relu(norm(f"{last}.norm", x))
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
