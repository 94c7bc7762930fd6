"""Train a classifier.

    python tools/train_cls.py configs/cifar10_r20_quick.py --data.root datasets/cifar10
    python tools/train_cls.py configs/imagenet_r50.py --data.root /data/imagenet
    torchrun --nproc-per-node 8 tools/train_cls.py configs/imagenet_r50.py
    python tools/train_cls.py --resume runs/cifar10_r20_quick

`python tools/train_cls.py RECIPE --help` lists every setting. The run folder runs/NAME is that of train_det.py;
`train_det.py … --weights runs/NAME` makes a detector of an ImageNet network trained here.
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["train-cls", *sys.argv[1:]])
