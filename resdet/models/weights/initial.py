"""What training starts from: nothing, torchvision's or MSRA's weights, a classifier, or another detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from resdet.config import ClsConfig, DetConfig
from resdet.errors import UserError, listed
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.weights.classifier_file import ClassifierWeights, read_classifier
from resdet.models.weights.detector_file import holds_detector
from resdet.models.weights.load import load_any_model, load_model
from resdet.models.weights.resdet import ModelFile, is_own
from resdet.models.weights.strict import load_strictly
from resdet.models.weights.timm import timm_weights
from resdet.models.weights.torchvision import torchvision_weights
from resdet.models.weights.zoo import local_path

DETECTOR_CLASS_LAYERS = ("roi_heads.box_predictor",)  # what depends on the classes
CLASSIFIER_CLASS_LAYERS = ("network.fc",)
NORMLESS = ("vgg16", "zf")  # backbones that know no normalisation of batches


def start_detector(model: FasterRCNN, config: DetConfig, classes: tuple[str, ...]) -> str:
    """Give the fresh detector `model` the weights that `config.init_weights` names; returns what came from where.

    A detector of resdet or of the zoo is taken whole; if its classes differ, all but its two last layers, and if
    one of both has no RPN, all but that. A classifier of resdet, torchvision, MSRA or timm becomes the backbone
    and, where that follows, the box head. Raises UserError if a name or shape disagrees.
    """
    source, network = config.init_weights, config.model
    if not source:
        if network.norm == "frozen" and network.backbone not in NORMLESS:
            raise UserError(
                "Frozen batch norm needs trained statistics: pass --init-weights torchvision (or a file), or "
                "train from scratch with --model.norm group --model.freeze."
            )
        return "All weights start at random."
    if source in ("torchvision", "torchvision-v2"):
        name = f"resnet{network.depth}" if network.backbone == "resnet" else network.backbone
        if name not in ("vgg16", *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152))):
            raise UserError(
                f"torchvision has no weights for the backbone {name}: pass a file, or train from scratch."
            )
        tensors = torchvision_weights(name, "V2" if source.endswith("v2") else "V1")
        return _take_classifier(model, _in_style(ClassifierWeights(tensors, "torchvision"), config, source), source)
    if source == "timm":
        return _take_classifier(model, timm_weights(network.timm), source)
    path = local_path(source)
    if not is_own(path) and not holds_detector(path):
        return _take_classifier(model, _in_style(read_classifier(path), config, source), source)
    file = load_any_model(path)
    if isinstance(file.config, ClsConfig):
        return _take_classifier(model, _classifier_weights(file, config, source), source)
    rpn = [weights for weights in (model.state_dict(), file.weights) if any(n.startswith("rpn.") for n in weights)]
    return _take_model(model, file, classes, DETECTOR_CLASS_LAYERS, source, () if len(rpn) != 1 else ("rpn.",))


def start_classifier(model: nn.Module, config: ClsConfig, classes: tuple[str, ...]) -> str:
    """Give the fresh classifier `model` the weights that `config.init_weights` names; returns what came from where.

    If the classes differ, its last layer is left. Raises UserError if a name or shape disagrees.
    """
    if not config.init_weights:
        return "All weights start at random."
    file = load_model(config.init_weights, ClsConfig)
    return _take_model(model, file, classes, CLASSIFIER_CLASS_LAYERS, config.init_weights)


def _take_model(
    model: nn.Module,
    file: ModelFile,
    classes: tuple[str, ...],
    class_layers: Sequence[str],
    source: str,
    besides: Sequence[str] = (),
) -> str:
    """All of the file but, if its classes differ, `class_layers`, and in any case `besides`."""
    left = (*(() if file.classes == classes else class_layers), *besides)
    fresh = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(left)}
    taken = {name: tensor for name, tensor in file.weights.items() if not name.startswith(left)}
    load_strictly(model, {**taken, **fresh}, source)
    if not left:
        return f"all weights from {source}."
    why = "" if file.classes == classes else f"{source} has different classes ({listed(file.classes)}): "
    at_random = "; these start at random" if fresh else ""
    return f"{why}all but {' and '.join(left).replace('rpn.', 'the RPN')} comes from {source}{at_random}."


def _take_classifier(model: FasterRCNN, tensors: Mapping[str, Tensor], source: str) -> str:
    """Of a classifier what the detector has a place for; the rest of the detector stays as it is."""
    parts = model.classifier_parts()
    for part, module in parts.items():
        own = {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}
        load_strictly(module, own, f"{part} of {source}")
    return f"{' and '.join(parts)} from {source}; all that is not in it starts at random."


def _in_style(resnet: ClassifierWeights, config: DetConfig, source: str) -> dict[str, Tensor]:
    """The tensors, if the detector prepares its images and strides as they need it."""
    if resnet.style != config.model.style:
        raise UserError(
            f"{source} holds weights of style {resnet.style}, the recipe has {config.model.style} "
            f"(channel order, pixel mean, position of the stride): set --model.style {resnet.style}."
        )
    return resnet.tensors


def _classifier_weights(file: ModelFile[ClsConfig], config: DetConfig, source: str) -> dict[str, Tensor]:
    """The tensors of a classifier's ResNet, under its own names; counters of batches are dropped."""
    theirs, ours = file.config.model, config.model
    for setting, found, wanted in (
        ("family", theirs.family, "imagenet"),
        ("pixel_mean", theirs.pixel_mean, "style"),
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
