"""Publish a detector on Hugging Face's hub.

    resdet push runs/birds me/birds
    resdet push runs/birds me/birds --private

Uploads the weights (model.safetensors), a model card with classes, metrics and how to use the detector, its recipe,
and the pictures of its report. Everybody then loads it by name: `resdet detect photo.jpg --weights hf:me/birds`, or
`resdet.Detector.load("hf:me/birds")`. Needs the extra `hub` and a token (`hf auth login`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to publish, and where."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or weights file."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """Repository on the hub, which is made if it does not exist."""
    private: bool = False
    """Whether a new repository is private."""


def main(arguments: Arguments) -> None:
    """Upload."""
    from resdet.experiments.push import push

    push(arguments.source, arguments.repository, arguments.private)
