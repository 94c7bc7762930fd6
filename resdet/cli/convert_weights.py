"""Convert detectron2's C4 detectors (faster_rcnn_R_50_C4 and its like) to resdet, and resdet's to detectron2.

    resdet convert-weights model_final_b1acc2.pkl runs/voc_c4.safetensors
    resdet convert-weights model_final.pth mine.safetensors --classes cat dog
    resdet convert-weights runs/mine exported.pth --to detectron2

A converted file holds the settings with which it detects what it detected in detectron2: use it to detect, to
evaluate, or to start training from. A detector of 80 classes is taken to be COCO's, one of 20 VOC's; others need
--classes.

For the opposite direction, pass a run folder or a .safetensors file, and a .pth or .pkl file to write (detectron2
reads .pkl with numpy 1.26 or newer); the settings that detectron2 needs for the detector are printed. MSRA's and
torchvision's ResNets need no conversion: pass the file to train-det as --init-weights.
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
    """Detector of detectron2 (.pkl or .pth), or a name that `resdet zoo` lists; with --to detectron2, also a run
    folder or weights file."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """File to write: .safetensors; with --to detectron2, .pth or .pkl."""
    classes: tuple[str, ...] = ()
    """Class names of the detector, unless they are COCO's or VOC's."""
    to: Literal["resdet", "detectron2"] = "resdet"
    """Toolkit to convert to."""


def main(arguments: Arguments) -> None:
    """Convert."""
    from resdet.experiments.convert_weights import export_weights, import_weights

    if arguments.to == "detectron2":
        export_weights(arguments.source, arguments.output)
    else:
        import_weights(arguments.source, arguments.output, arguments.classes)
