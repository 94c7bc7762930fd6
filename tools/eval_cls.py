"""Evaluate classifiers on the validation images of a recipe.

    python tools/eval_cls.py configs/cifar10_r20.py --weights runs/cifar10_r20
    python tools/eval_cls.py configs/imagenet_r50.py --weights runs/imagenet_r50 --test.views 10-crop
    python tools/eval_cls.py configs/imagenet_r50.py --weights RUN1 RUN2 --test.views dense

Prints top-1 and top-5 errors, of several weights also those of their ensemble, and writes them into
runs/NAME/eval_cls/metrics.json.
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["eval-cls", *sys.argv[1:]])
