"""SPPnet (2014): the convolutions run once over the image and stay as they were; spatial pyramids are pooled.

Only the fully connected layers are trained (SPPnet §4.1).
"""

from dataclasses import replace
from pathlib import Path

from resdet.config import load_config

base = load_config(Path(__file__).with_name("fast_rcnn_r18.py"))
config = replace(
    base,
    name="",
    model=replace(
        base.model,
        freeze=("conv1", "conv2_x", "conv3_x", "conv4_x"),
        pooling="pyramid",
        pyramid=(6, 3, 2, 1),
        box_head="conv_fc",
        fc_dims=(1024, 1024),
    ),
)
