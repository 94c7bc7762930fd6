"""Evaluate a detector on the validation data of a recipe.

    python tools/eval_det.py configs/shapes_r18.py --weights runs/shapes_r18
    python tools/eval_det.py configs/shapes_r18.py --weights runs/shapes_r18 --test.after-nms 100

Prints the AP of each class and writes into runs/NAME/eval: metrics.json, precision_recall.png, detections.png
(annotations and detections side by side) and the detections in VOC's results format.
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["eval-det", *sys.argv[1:]])
