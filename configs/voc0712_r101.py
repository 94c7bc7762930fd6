"""ResNet-101 on VOC 2007 and 2012 trainval, tested on 2007 test: the 76.4 of He et al. 2015, Table 7."""

from resdet.config import DataConfig, DetConfig, SolverConfig

config = DetConfig(
    init_weights="torchvision",
    data=DataConfig(
        train="2007_trainval+2012_trainval",
        source="VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar and VOCtrainval_11-May-2012.tar from "
        "http://host.robots.ox.ac.uk/pascal/VOC/, unpacked in datasets/",
    ),
    # Three times the images of 2007 alone: the authors' code for 07+12 trains 110k steps, the first 80k at 0.001.
    solver=SolverConfig(steps=110_000, milestones=(80_000,)),
)
