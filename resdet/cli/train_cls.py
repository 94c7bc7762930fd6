"""Train a classifier."""

from __future__ import annotations

from collections.abc import Sequence

from resdet.cli.run import parse
from resdet.config import ClsConfig
from resdet.experiments.train import train


def main(arguments: Sequence[str]) -> None:
    """RECIPE [--setting VALUE …], or --resume RUN [--setting VALUE …]: train a classifier"""
    train(*parse(arguments, ClsConfig, "train_cls"))
