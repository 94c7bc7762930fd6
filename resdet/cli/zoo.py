"""List the published detectors that can be used by name, or download some.

    resdet zoo
    resdet zoo torchvision/fasterrcnn_resnet50_fpn_v2
    resdet zoo detectron2/faster_rcnn_R_50_FPN_3x detectron2/faster_rcnn_R_101_FPN_3x

Every command that takes weights, and --init-weights, takes such a name, and downloads and converts the detector on
its first use. The files lie in $RESDET_HOME/zoo, or in torch's cache of weights if RESDET_HOME is not set. With
RESDET_ZOO=https://HOST they come from a mirror, which has them under the same paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to download."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME ...]")] = ()
    """Detectors to download and to convert; without any, all are listed."""


def main(arguments: Arguments) -> None:
    """List, or download."""
    from resdet.experiments.zoo import download_detectors, listing

    if arguments.names:
        download_detectors(arguments.names)
    else:
        print(listing())
