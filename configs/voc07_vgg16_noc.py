"""VGG-16 on VOC 2007 with a network on conv feature maps: two convolutions and two hidden layers (NoC, §3).

Regions are pooled from two scales, the larger feature of both (NoC §3.3).
"""

from dataclasses import replace
from pathlib import Path

from resdet.config import load_config

base = load_config(Path(__file__).with_name("voc07_vgg16.py"))
config = replace(base, name="", model=replace(base.model, conv_dims=(256, 256), maxout=(0.5, 1.0)))
