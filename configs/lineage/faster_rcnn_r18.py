"""Faster R-CNN (2015): a network proposes the regions, on the map from which they are pooled.

The last of the lineage, on blood cells with ResNet-18. Its members differ in nothing but the method; all start from
the classifier of configs/cifar10_r18_64.py, which is to be trained first.
"""

from dataclasses import replace
from pathlib import Path

from resdet.config import load_config

base = load_config(Path(__file__).parents[1] / "bccd_r18.py")
config = replace(
    base,
    name="",
    init_weights="runs/cifar10_r18_64",
    model=replace(base.model, norm="frozen", pooling="pool"),
)
