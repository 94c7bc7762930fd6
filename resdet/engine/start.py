"""What a training starts from: nothing, torchvision's or MSRA's weights, a classifier, or another detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from resdet.config import ClsConfig, DetConfig, ModelConfig
from resdet.engine.checkpoint import ModelFile, load_any_model, load_model
from resdet.errors import UserError
from resdet.nn.timm_trunk import timm_weights
from resdet.nn.weights import ClassifierWeights, load_strictly, read_classifier, torchvision_weights

DETECTOR_CLASS_LAYERS = ("head.classify", "head.regress")  # what depends on the classes
CLASSIFIER_CLASS_LAYERS = ("network.fc",)
NORMLESS = ("vgg16", "zf")  # trunks that know no normalisation of batches


def start_detector(model: nn.Module, config: DetConfig, classes: tuple[str, ...]) -> str:
    """Give the fresh detector `model` the weights that `config.weights` names; returns what came from where.

    A detector of resdet is taken whole; if it knows other classes, all but its two last layers, and if one of both
    has no RPN, all but that. A classifier of resdet, torchvision, MSRA or timm becomes the trunk and, where
    that follows, the body of the head. Raises UserError if a name or shape disagrees.
    """
    source, network = config.weights, config.model
    if not source:
        if network.norm == "frozen" and network.trunk not in NORMLESS:
            raise UserError(
                "Frozen batch normalisation needs trained statistics: pass --weights torchvision (or a file), or "
                "train from scratch with --model.norm group --model.freeze."
            )
        return "All weights start at random."
    if source in ("torchvision", "torchvision-v2"):
        name = f"resnet{network.depth}" if network.trunk == "resnet" else network.trunk
        if name not in ("vgg16", *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152))):
            raise UserError(f"torchvision has no weights of a trunk {name}: name a file, or start from scratch.")
        tensors = torchvision_weights(name, "V2" if source.endswith("v2") else "V1")
        return _take_classifier(model, _in_style(ClassifierWeights(tensors, "torchvision"), config, source), config)
    if source == "timm":
        return _take_classifier(model, timm_weights(network.timm), config)
    if Path(source).suffix in (".pt", ".pth", ".pkl"):
        return _take_classifier(model, _in_style(_read_classifier(Path(source)), config, source), config)
    file = load_any_model(source)
    if isinstance(file.config, ClsConfig):
        return _take_classifier(model, _classifier_weights(file, config, source), config)
    rpn = [weights for weights in (model.state_dict(), file.weights) if any(n.startswith("rpn.") for n in weights)]
    return _take_model(model, file, classes, DETECTOR_CLASS_LAYERS, source, () if len(rpn) != 1 else ("rpn.",))


def start_classifier(model: nn.Module, config: ClsConfig, classes: tuple[str, ...]) -> str:
    """Give the fresh classifier `model` the weights that `config.weights` names; returns what came from where.

    If the file knows other classes, its last layer is left. Raises UserError if a name or shape disagrees.
    """
    if not config.weights:
        return "All weights start at random."
    file = load_model(config.weights, ClsConfig)
    return _take_model(model, file, classes, CLASSIFIER_CLASS_LAYERS, config.weights)


def _take_model(
    model: nn.Module,
    file: ModelFile,
    classes: tuple[str, ...],
    class_layers: Sequence[str],
    source: str,
    besides: Sequence[str] = (),
) -> str:
    """All of the file but, if it knows other classes, `class_layers`, and in any case `besides`."""
    left = (*(() if file.classes == classes else class_layers), *besides)
    fresh = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(left)}
    taken = {name: tensor for name, tensor in file.weights.items() if not name.startswith(left)}
    load_strictly(model, {**taken, **fresh}, source)
    if not left:
        return f"all weights from {source}."
    why = "" if file.classes == classes else f"{source} knows other classes ({', '.join(file.classes)}): "
    at_random = "; these start at random" if fresh else ""
    return f"{why}all but {' and '.join(left).replace('rpn.', 'the RPN')} comes from {source}{at_random}."


def _take_classifier(model: nn.Module, tensors: Mapping[str, Tensor], config: DetConfig) -> str:
    """Of a classifier what the detector has a place for; the rest of the detector stays as it is."""
    places = classifier_places(config.model)
    taken = {
        place + name.removeprefix(part): tensor
        for name, tensor in tensors.items()
        for part, place in places.items()
        if name.startswith(part)
    }
    homes = tuple(places.values())
    fresh = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(homes)}
    load_strictly(model, {**taken, **fresh}, config.weights)
    parts = " and ".join(part.rstrip(".") for part in places)
    return f"{parts} from {config.weights}; all that is not in it starts at random."


def classifier_places(model: ModelConfig) -> dict[str, str]:
    """Where the parts of a classifier go in a detector: prefixes of names there → here."""
    if model.pooling == "warp":
        return {"trunk.": "head.body.conv5_x.0.", "conv5_x.": "head.body.conv5_x.1."}
    if model.body == "conv5":
        return {"trunk.": "trunk.", "conv5_x.": "head.body.conv5_x."}
    as_vgg16 = not model.convs and model.fcs == (4096, 4096) and (model.pooling, model.pool_size) == ("pool", 7)
    return {"trunk.": "trunk."} | ({"fcs.": "head.body.fcs."} if model.trunk == "vgg16" and as_vgg16 else {})


def _read_classifier(path: Path) -> ClassifierWeights:
    if not path.is_file():
        raise UserError(f'There are no weights {path}: pass a file, a run folder, or "torchvision".')
    return read_classifier(path)


def _in_style(resnet: ClassifierWeights, config: DetConfig, source: str) -> dict[str, Tensor]:
    """The tensors, if the detector prepares its images and strides as they need it."""
    if resnet.style != config.model.style:
        raise UserError(
            f"{source} holds weights of style {resnet.style}, the recipe has {config.model.style} "
            f"(channel order, pixel mean, place of the stride): set --model.style {resnet.style}."
        )
    return resnet.tensors


def _classifier_weights(file: ModelFile[ClsConfig], config: DetConfig, source: str) -> dict[str, Tensor]:
    """The tensors of a classifier's ResNet, under its own names; counters of batches are dropped."""
    theirs, ours = file.config.model, config.model
    for setting, found, wanted in (
        ("family", theirs.family, "imagenet"),
        ("pixels", theirs.pixels, "style"),
        ("style", theirs.style, ours.style),
        ("depth", theirs.depth, ours.depth),
    ):
        if found != wanted:
            raise UserError(
                f"The classifier {source} has model.{setting} {found}, this detector needs {wanted}: "
                "pass another or change the recipe."
            )
    return {
        name.removeprefix("network."): tensor
        for name, tensor in file.weights.items()
        if name.startswith("network.") and not name.endswith("num_batches_tracked")
    }
