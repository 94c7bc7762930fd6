"""R-CNN (2014): every region that selective search proposes is cut out, warped and sent through the whole network.

At 64×64 pixels the network sees a cell at about the size that it has in the other recipes' images.
"""

from dataclasses import replace
from pathlib import Path

from resdet.config import load_config

base = load_config(Path(__file__).with_name("fast_rcnn_r18.py"))
config = replace(base, name="", model=replace(base.model, pooling="warp", pool_size=64))
