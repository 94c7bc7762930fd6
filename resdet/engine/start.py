"""What a training starts from: nothing, torchvision's or MSRA's weights, a classifier, or another detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from resdet.config import ClsConfig, DetConfig
from resdet.engine.checkpoint import ModelFile, load_any_model, load_model
from resdet.errors import UserError
from resdet.nn.weights import ResNetWeights, load_strictly, read_resnet, torchvision_resnet

DETECTOR_CLASS_LAYERS = ("head.classify", "head.regress")  # what depends on the classes
CLASSIFIER_CLASS_LAYERS = ("network.fc",)


def start_detector(model: nn.Module, config: DetConfig, classes: tuple[str, ...]) -> str:
    """Give the fresh detector `model` the weights that `config.weights` names; returns what came from where.

    A detector of resdet is taken whole; if it knows other classes, all but its two last layers. A classifier of
    resdet, torchvision or MSRA becomes trunk and conv5_x. Raises UserError if a name or shape disagrees.
    """
    source = config.weights
    if not source:
        if config.model.norm == "frozen":
            raise UserError(
                "Frozen batch normalisation needs trained statistics: pass --weights torchvision (or a file), or "
                "train from scratch with --model.norm group --model.freeze."
            )
        return "All weights start at random."
    if source in ("torchvision", "torchvision-v2"):
        resnet = torchvision_resnet(config.model.depth, "V2" if source.endswith("v2") else "V1")
        return _take_resnet(model, _in_style(ResNetWeights(resnet, "torchvision"), config, source), source)
    if Path(source).suffix in (".pt", ".pth", ".pkl"):
        return _take_resnet(model, _in_style(_read_resnet(Path(source)), config, source), source)
    file = load_any_model(source)
    if isinstance(file.config, ClsConfig):
        return _take_resnet(model, _classifier_weights(file, config, source), source)
    return _take_model(model, file, classes, DETECTOR_CLASS_LAYERS, source)


def start_classifier(model: nn.Module, config: ClsConfig, classes: tuple[str, ...]) -> str:
    """Give the fresh classifier `model` the weights that `config.weights` names; returns what came from where.

    If the file knows other classes, its last layer is left. Raises UserError if a name or shape disagrees.
    """
    if not config.weights:
        return "All weights start at random."
    file = load_model(config.weights, ClsConfig)
    return _take_model(model, file, classes, CLASSIFIER_CLASS_LAYERS, config.weights)


def _take_model(
    model: nn.Module, file: ModelFile, classes: tuple[str, ...], class_layers: Sequence[str], source: str
) -> str:
    own = model.state_dict()
    if file.classes == classes:
        load_strictly(model, file.weights, source)
        return f"all weights from {source}."
    fresh = {name: tensor for name, tensor in own.items() if name.startswith(tuple(class_layers))}
    load_strictly(model, {**file.weights, **fresh}, source)
    return (
        f"{source} knows other classes ({', '.join(file.classes)}): all but {' and '.join(class_layers)} comes "
        "from it; these start at random."
    )


def _take_resnet(model: nn.Module, resnet: Mapping[str, Tensor], source: str) -> str:
    """Trunk and conv5_x of a classifier; the rest of the detector stays as it is."""
    taken = {
        name.replace("conv5_x.", "head.body.conv5_x.", 1): t for name, t in resnet.items() if "fc." not in name
    }
    fresh = {n: t for n, t in model.state_dict().items() if not n.startswith(("trunk.", "head.body.conv5_x."))}
    load_strictly(model, {**taken, **fresh}, source)
    return f"conv1 to conv5_x from {source}; RPN and the last layers start at random."


def _read_resnet(path: Path) -> ResNetWeights:
    if not path.is_file():
        raise UserError(f'There are no weights {path}: pass a file, a run folder, or "torchvision".')
    return read_resnet(path)


def _in_style(resnet: ResNetWeights, config: DetConfig, source: str) -> dict[str, Tensor]:
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
