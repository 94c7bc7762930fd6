"""detectron2's Faster R-CNNs, written out on tensors under its names, as its files modeling/… define them.

Kinds are C4, DC5, FPN, and X (FPN on ResNeXt-101 32×8d).
"""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor

PROPOSALS = 20  # so that a test takes seconds; detectron2 has 1000
RPN, BOX = "proposal_generator.rpn_head", "roi_heads.box_predictor"
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
PYRAMIDS = ("FPN", "X")


def layout(kind: str, depth: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a model file of detectron2's faster_rcnn_R_{depth}_{kind}."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{part}"] = (outputs,)

    def with_bias(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    body = "backbone.bottom_up" if kind in PYRAMIDS else "backbone"
    convolution(f"{body}.stem.conv1", 64, 3, 7)
    stages = [f"{body}.res{n}" for n in (2, 3, 4)] + ["roi_heads.res5" if kind == "C4" else f"{body}.res5"]
    inputs, width = 64, 64
    for name, count in zip(stages, UNITS[depth], strict=True):
        inner, groups = (4 * width, 32) if kind == "X" else (width, 1)
        for block in range(count):
            if block == 0:
                convolution(f"{name}.0.shortcut", 4 * width, inputs, 1)
            convolution(f"{name}.{block}.conv1", inner, inputs, 1)
            convolution(f"{name}.{block}.conv2", inner, inner // groups, 3)
            convolution(f"{name}.{block}.conv3", 4 * width, inner, 1)
            inputs = 4 * width
        width *= 2
    if kind in PYRAMIDS:
        for n in (2, 3, 4, 5):
            with_bias(f"backbone.fpn_lateral{n}", 256, 64 * 2**n, 1, 1)
            with_bias(f"backbone.fpn_output{n}", 256, 256, 3, 3)
    channels = {"C4": 1024, "DC5": 2048}.get(kind, 256)
    anchors = 3 if kind in PYRAMIDS else 15
    with_bias(f"{RPN}.conv", channels, channels, 3, 3)
    with_bias(f"{RPN}.objectness_logits", anchors, channels, 1, 1)
    with_bias(f"{RPN}.anchor_deltas", 4 * anchors, channels, 1, 1)
    if kind != "C4":
        with_bias("roi_heads.box_head.fc1", 1024, channels * 49)
        with_bias("roi_heads.box_head.fc2", 1024, 1024)
    with_bias(f"{BOX}.cls_score", classes + 1, 2048 if kind == "C4" else 1024)
    with_bias(f"{BOX}.bbox_pred", 4 * classes, 2048 if kind == "C4" else 1024)
    return shapes


def random_state(kind: str, depth: int, classes: int) -> dict[str, Tensor]:
    """Weights with which activations stay near 1, and boxes and scores are of all kinds."""
    state = {}
    for name, shape in layout(kind, depth, classes).items():
        if ".norm." in name:
            low, high = {
                "weight": (0.2, 0.4) if ".conv3." in name else (0.8, 1.2),
                "bias": (-0.2, 0.2),
                "running_mean": (-0.2, 0.2),
                "running_var": (0.5, 1.5),
            }[name.rsplit(".", 1)[1]]
            state[name] = torch.empty(shape).uniform_(low, high)
        else:
            spread = math.sqrt(2 / math.prod(shape[1:])) if name.endswith("weight") else 0.1
            state[name] = torch.randn(shape) * spread
    body = "backbone.bottom_up" if kind in PYRAMIDS else "backbone"
    state[f"{body}.stem.conv1.weight"] /= 1 if kind == "X" else 60  # pixels are in the hundreds
    state[f"{RPN}.anchor_deltas.weight"] *= 0.03 if kind in PYRAMIDS else 0.3
    state[f"{BOX}.cls_score.weight"] *= {"C4": 0.1, "X": 0.05}.get(kind, 0.3)
    state[f"{BOX}.bbox_pred.weight"] *= 0.1 if kind == "X" else 0.5
    return state


def tensors_without_content(kind: str, depth: int, classes: int) -> dict[str, Tensor]:
    return {name: torch.zeros(1).expand(shape) for name, shape in layout(kind, depth, classes).items()}


def frozen_convolution(
    state: dict[str, Tensor], name: str, x: Tensor, stride: int = 1, dilation: int = 1
) -> Tensor:
    weight = state[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    y = F.conv2d(x, weight, None, stride, dilation * (weight.shape[-1] // 2), dilation, groups)
    gamma, beta, mean, var = (
        state[f"{name}.norm.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (y - mean) / (var + 1e-5).sqrt() * gamma + beta


def stage(state: dict[str, Tensor], name: str, x: Tensor, first_stride: int, dilation: int = 1) -> Tensor:
    grouped = state[f"{name}.0.conv2.weight"].shape[0] != state[f"{name}.0.conv2.weight"].shape[1]
    block = 0
    while f"{name}.{block}.conv1.weight" in state:
        stride = first_stride if block == 0 else 1
        strides = (1, stride) if grouped else (stride, 1)  # STRIDE_IN_1X1 is False for ResNeXt
        y = frozen_convolution(state, f"{name}.{block}.conv1", x, strides[0]).clamp(min=0)
        y = frozen_convolution(state, f"{name}.{block}.conv2", y, strides[1], dilation).clamp(min=0)
        y = frozen_convolution(state, f"{name}.{block}.conv3", y)
        shortcut = frozen_convolution(state, f"{name}.0.shortcut", x, stride) if block == 0 else x
        x = (y + shortcut).clamp(min=0)
        block += 1
    return x


def backbone(kind: str, state: dict[str, Tensor], rgb: Tensor) -> list[tuple[int, Tensor]]:
    """(3, H, W) pixels → stride and map (1, C, H/stride, W/stride) of each level"""
    std = torch.tensor([57.375, 57.12, 58.395] if kind == "X" else [1.0, 1, 1])
    bgr = (rgb.flip(0).float() - torch.tensor([103.53, 116.28, 123.675])[:, None, None]) / std[:, None, None]
    x = bgr[None]
    if kind in PYRAMIDS:
        x = F.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32))
    body = "backbone.bottom_up" if kind in PYRAMIDS else "backbone"
    x = frozen_convolution(state, f"{body}.stem.conv1", x, 2).clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1)
    maps = []
    for number, stride in ((2, 1), (3, 2), (4, 2)):
        x = stage(state, f"{body}.res{number}", x, stride)
        maps.append(x)
    if kind == "C4":
        return [(16, x)]
    if kind == "DC5":
        return [(16, stage(state, f"{body}.res5", x, 1, dilation=2))]
    maps.append(stage(state, f"{body}.res5", x, 2))
    levels: list[tuple[int, Tensor]] = []
    merged = torch.zeros(1, 256, 0, 0)
    for n in (5, 4, 3, 2):
        lateral = F.conv2d(maps[n - 2], *of(state, f"backbone.fpn_lateral{n}"))
        merged = lateral if n == 5 else lateral + merged.repeat_interleave(2, 2).repeat_interleave(2, 3)
        levels.insert(0, (2**n, F.conv2d(merged, *of(state, f"backbone.fpn_output{n}"), padding=1)))
    return [*levels, (64, levels[-1][1][:, :, ::2, ::2])]


def of(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def apply_deltas(
    box: list[float], deltas: list[float], weights: tuple[int, ...], size: tuple[int, int]
) -> list[float]:
    """The box moved and scaled by deltas, and clipped to the image of (height, width) `size`."""
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas, weights, strict=True))
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + width / 2 + dx * width, box[1] + height / 2 + dy * height
    limit = math.log(1000 / 16)
    width, height = width * math.exp(min(dw, limit)), height * math.exp(min(dh, limit))
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return [min(max(corner, 0.0), size[1] if i % 2 == 0 else size[0]) for i, corner in enumerate(corners)]


def find_proposals(
    kind: str, state: dict[str, Tensor], levels: list[tuple[int, Tensor]], size: tuple[int, int]
) -> Tensor:
    """(P, 4), best first: anchors at the cells' corners, ordered row, column, size, ratio."""
    kept: list[tuple[float, list[float]]] = []
    for n, (step, features) in enumerate(levels):
        sizes = (32 * 2**n,) if kind in PYRAMIDS else (32, 64, 128, 256, 512)
        hidden = F.conv2d(features, *of(state, f"{RPN}.conv"), padding=1).clamp(min=0)
        logits = F.conv2d(hidden, *of(state, f"{RPN}.objectness_logits"))[0]
        deltas = F.conv2d(hidden, *of(state, f"{RPN}.anchor_deltas"))[0]
        found = []
        for row, column in product(range(features.shape[2]), range(features.shape[3])):
            for index, (side, ratio) in enumerate(product(sizes, (0.5, 1.0, 2.0))):
                width = math.sqrt(side * side / ratio)
                height = ratio * width
                x, y = column * step, row * step
                anchor = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
                of_anchor = deltas[4 * index : 4 * index + 4, row, column].tolist()
                box = apply_deltas(anchor, of_anchor, (1, 1, 1, 1), size)
                found.append((logits[index, row, column].item(), box))
        found.sort(key=lambda pair: -pair[0])
        found = found[: 1000 if kind in PYRAMIDS else 6000]
        found = [(score, box) for score, box in found if box[2] > box[0] and box[3] > box[1]]
        scores, boxes = torch.tensor([score for score, _ in found]), torch.tensor([box for _, box in found])
        kept += [found[index] for index in torchvision.ops.nms(boxes, scores, 0.7).tolist()]
    kept.sort(key=lambda pair: -pair[0])
    return torch.tensor([box for _, box in kept[:PROPOSALS]])


def regions_of(kind: str, state: dict[str, Tensor], levels: list[tuple[int, Tensor]], proposals: Tensor) -> Tensor:
    """(P, 4) → (P, C): the vectors that the box head makes of the regions."""
    if kind == "C4":
        pooled = torchvision.ops.roi_align(
            levels[0][1], [proposals], (14, 14), 1 / 16, sampling_ratio=0, aligned=True
        )
        return stage(state, "roi_heads.res5", pooled, 2).mean((2, 3))
    vectors = []
    for box in proposals:
        side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        level = min(max(math.floor(4 + math.log2(side / 224 + 1e-8)), 2), 5) - 2 if kind in PYRAMIDS else 0
        step, features = levels[level]
        vectors.append(torchvision.ops.roi_align(features, [box[None]], (7, 7), 1 / step, 0, True).flatten(1))
    x = F.linear(torch.cat(vectors), *of(state, "roi_heads.box_head.fc1")).clamp(min=0)
    return F.linear(x, *of(state, "roi_heads.box_head.fc2")).clamp(min=0)


def find_objects(
    kind: str,
    state: dict[str, Tensor],
    levels: list[tuple[int, Tensor]],
    proposals: Tensor,
    size: tuple[int, int],
) -> list[tuple[float, int, list[float]]]:
    """(score, class, box), best first."""
    vectors = regions_of(kind, state, levels, proposals)
    scores = F.linear(vectors, *of(state, f"{BOX}.cls_score")).softmax(1)
    deltas = F.linear(vectors, *of(state, f"{BOX}.bbox_pred"))
    found = []
    for label in range(scores.shape[1] - 1):  # the background is last
        of_class = [
            (
                scores[r, label].item(),
                label,
                apply_deltas(box, deltas[r, 4 * label :][:4].tolist(), (10, 10, 5, 5), size),
            )
            for r, box in enumerate(proposals.tolist())
            if scores[r, label] > 0.05
        ]
        if of_class:
            boxes = torch.tensor([box for _, _, box in of_class])
            keep = torchvision.ops.nms(boxes, torch.tensor([score for score, _, _ in of_class]), 0.5)
            found += [of_class[index] for index in keep.tolist()]
    best = sorted(found, key=lambda one: -one[0])[:100]
    return [one for one in best if one[2][2] > one[2][0] and one[2][3] > one[2][1]]
