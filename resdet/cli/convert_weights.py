"""Convert Faster R-CNNs of torchvision and detectron2 to resdet, and resdet's to torchvision and detectron2.

    resdet convert-weights model_final_280758.pkl runs/r50_fpn.safetensors
    resdet convert-weights fasterrcnn.pth mine.safetensors --classes cat dog
    resdet convert-weights runs/mine exported.pth --to torchvision

A converted file holds the settings with which it detects what it detected there (C4, DC5 and FPN of detectron2,
fasterrcnn_resnet50_fpn and _v2 of torchvision): use it to detect, to evaluate, or to start training from. A
detector of 80 classes is taken to be COCO's, one of 20 VOC's; others need --classes, without the background. Where
COCO's or VOC's names serve, files need no conversion: every command reads them as they are.

For the opposite direction, pass a run folder or a .safetensors file, and a .pth file to write (for detectron2 also
.pkl, which it reads with numpy 1.26 or newer); what the detector needs there is printed. Classifiers need no
conversion: pass the file to train-det as --init-weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to convert."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Detector of torchvision or detectron2 (.pth or .pkl), or one of the zoo; with --to, a run folder or weights
    file."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """File to write: .safetensors; with --to torchvision, .pth; with --to detectron2, .pth or .pkl."""
    classes: tuple[str, ...] = ()
    """Class names of the detector, unless they are COCO's or VOC's."""
    to: Literal["resdet", "torchvision", "detectron2"] = "resdet"
    """Toolkit to convert to."""


def main(arguments: Arguments) -> None:
    """Convert."""
    from resdet.experiments.convert_weights import export_weights, import_weights

    if arguments.to == "resdet":
        import_weights(arguments.source, arguments.output, arguments.classes)
    else:
        export_weights(arguments.source, arguments.output, arguments.to)
