"""What a config may hold: the type and the range of each setting, and settings that contradict each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from resdet.config.classification import ClsConfig
from resdet.config.detection import DetConfig
from resdet.config.ranges import AtLeast, Range
from resdet.errors import UserError

LEVELS = 5  # of a feature pyramid
GROUPS = 32  # of group normalization
RESNET_DEPTHS = (18, 34, 50, 101, 152, 200)  # of a classifier's ImageNet network


def check_config(config: Any, source: str = "") -> None:
    """Refuse values of another type or out of their range, and settings that contradict each other.

    Raises UserError, which names the setting and `source`, where the config comes from.
    """
    for name, hint, value in settings(config):
        _check_type(name, hint, value, source)
        for rule, subject, verb in _rules(hint, value):
            if subject not in rule:
                raise UserError(f"{_found(name, value, source)}: {verb} {rule}.")
    contradiction = next(contradictions(config), "")
    if contradiction:
        raise UserError(f"{source} cannot be used: {contradiction}" if source else contradiction)


def settings(config: Any, section: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, such as solver.lr, type and value of every setting of a config."""
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(hint) and isinstance(value, hint):  # type: ignore[arg-type]
            yield from settings(value, f"{section}{name}.")
        else:
            yield section + name, hint, value


def _check_type(name: str, hint: Any, value: Any, source: str) -> None:
    try:
        check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        raise UserError(f"{_found(name, value, source)}: it must be {_type_name(hint)}.") from error


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return _type_name(get_args(hint)[0])
    if get_origin(hint) is tuple:
        return f"tuple[{', '.join('...' if item is ... else _type_name(item) for item in get_args(hint))}]"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _found(name: str, value: Any, source: str) -> str:
    return f"{source} sets {name} to {value!r}" if source else f"{name} is {value!r}"


def _rules(hint: Any, value: Any) -> Iterator[tuple[Range | AtLeast, Any, str]]:
    """Each rule that a value of the type `hint` must obey, the part of the value that must, and how to say it."""
    if get_origin(hint) is Annotated:
        inner, *rules = get_args(hint)
        yield from ((rule, value, "it must hold" if isinstance(rule, AtLeast) else "it must be") for rule in rules)
        yield from _rules(inner, value)
    elif get_origin(hint) is tuple:
        kinds = get_args(hint)
        for kind, item in zip(kinds[:1] * len(value) if kinds[-1] is ... else kinds, value, strict=True):
            yield from ((rule, part, "each value must be") for rule, part, _ in _rules(kind, item))


def contradictions(config: Any) -> Iterator[str]:
    """A sentence for each pair of settings that cannot be used together, whatever the data."""
    if isinstance(config, DetConfig):
        yield from _of_detector(config)
    elif isinstance(config, ClsConfig):
        yield from _of_classifier(config)


def _of_detector(config: DetConfig) -> Iterator[str]:
    model, rpn, (low, high) = config.model, config.rpn, config.roi.background_iou
    if rpn.background_iou > rpn.foreground_iou:
        yield (
            f"rpn.background_iou {rpn.background_iou} is more than rpn.foreground_iou {rpn.foreground_iou}: "
            "an anchor cannot be both."
        )
    if low >= high:
        yield f"roi.background_iou {low} {high} holds no IoU: the first number must be less than the second."
    if high > config.roi.foreground_iou:
        yield (
            f"roi.background_iou ends at {high}, above roi.foreground_iou {config.roi.foreground_iou}: a region "
            "cannot be both."
        )
    pooled = -(-model.pool_size // model.conv5_stride)
    if model.norm == "sync_batch" and model.box_head == "conv5" and model.pooling != "warp" and pooled == 1:
        yield (
            f"model.pool_size {model.pool_size} leaves conv5_x one cell of a region, too little for "
            "model.norm sync_batch: set --model.pool-size 4."
        )

    yield from _of_features(config)


def _of_features(config: DetConfig) -> Iterator[str]:
    """What goes with the feature maps that are shared."""
    model = config.model
    if model.groups > 1 and model.depth < 50:
        yield f"model.groups is {model.groups}: a ResNet of {model.depth} layers has no bottlenecks to group."
    normalized = [model.width_per_group * model.groups] * (model.norm == "group")
    if model.head_norm == "group":
        normalized += [*model.conv_dims, *[model.fpn_channels] * (model.features == "fpn")]
    for channels in normalized:
        if channels % GROUPS:
            yield f"Group norm makes {GROUPS} groups, which {channels} channels cannot be divided into."
    if model.features == "c4":
        return
    if model.backbone not in ("resnet", "plain"):
        yield f"model.features {model.features} needs the backbone resnet or plain, not {model.backbone}."
    if model.box_head == "conv5":
        yield f"model.features {model.features} has conv5_x in the backbone: set --model.box-head conv_fc."
    if model.features == "dc5":
        return
    if model.pooling in ("pyramid", "warp"):
        yield f"model.pooling {model.pooling} has no use for a feature pyramid: set --model.pooling align."
    if len(model.anchor_scales) % LEVELS:
        yield (
            f"model.anchor_scales has {len(model.anchor_scales)} sizes, which {LEVELS} levels cannot share: name "
            f"{LEVELS}, such as 32 64 128 256 512, or a multiple."
        )
    if model.maxout or config.test.scales:
        yield "A feature pyramid has its own scales: leave model.maxout and test.scales empty."


def _of_classifier(config: ClsConfig) -> Iterator[str]:
    data, model, solver = config.data, config.model, config.solver
    if data.short_sides[0] > data.short_sides[1]:
        yield f"data.short_sides {data.short_sides[0]} {data.short_sides[1]} must be given in ascending order."
    if model.family == "imagenet":
        if model.depth not in RESNET_DEPTHS:
            yield f"model.depth is {model.depth}: of an ImageNet network it must be one of {RESNET_DEPTHS}."
        if model.norm == "sync_batch" and data.size <= 32 and solver.batch_size <= solver.accumulate:
            yield (
                f"data.size {data.size} leaves conv5_x one cell of an image, too little for model.norm sync_batch "
                "with one image at a time: raise solver.batch_size."
            )
    else:
        unit = 9 if model.bottleneck else 6
        if model.depth % unit != 2:
            yield f"model.depth is {model.depth}: of this CIFAR network it must be {unit}n + 2."
        if model.norm == "group":
            yield "model.norm group makes 32 groups, too many for a CIFAR network: set --model.norm sync_batch."
