"""Inception-ResNet-v2 on VOC 2007, from timm's weights, cut at its map of stride 16."""

from dataclasses import replace
from pathlib import Path

from resdet.config import load_config

base = load_config(Path(__file__).with_name("voc07_inception_v4.py"))
config = replace(
    base,
    name="",
    model=replace(base.model, timm="inception_resnet_v2", freeze=("conv2d_1a", "conv2d_2a", "conv2d_2b")),
)
