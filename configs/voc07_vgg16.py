"""VGG-16 on VOC 2007: the detector of the Faster R-CNN paper, 69.9 mAP there (four alternating steps).

Its fully connected layers are the head (Fast R-CNN §2.2); conv1_1 to conv2_2 are not trained (Fast R-CNN §4.5).
"""

from resdet.config import DataConfig, DetConfig, ModelConfig

config = DetConfig(
    init_weights="torchvision",
    data=DataConfig(
        source="VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar from "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, unpacked in datasets/",
    ),
    model=ModelConfig(
        backbone="vgg16",
        freeze=("conv1_1", "conv1_2", "conv2_1", "conv2_2"),
        box_head="conv_fc",
    ),
)
