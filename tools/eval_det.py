"""Evaluate a detector on the validation data of a recipe.

    python tools/eval_det.py configs/shapes_r18.py --weights runs/shapes_r18
    python tools/eval_det.py configs/shapes_r18.py --weights runs/shapes_r18 --test.after-nms 100
    python tools/eval_det.py configs/shapes_r18.py --detections runs/shapes_r18/eval/coco_results.json

Prints VOC's and COCO's AP of each class, COCO's 12 numbers, what mending each kind of error would give, and the
average recall of the proposals. Writes into runs/NAME/eval:

- metrics.json, all of that and the confusion matrix (rows annotated, columns detected with a score of at least
  0.25, background last);
- the detections as COCO's results JSON and, in voc/, as VOC's text files, of which either can be scored again with
  --detections, without a model (the report goes into runs/NAME/eval_saved then);
- precision_recall.png, class_ap.png, confusion.png, errors.png, proposal_recall.png, and detections.png
  (annotations and detections side by side).
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["eval-det", *sys.argv[1:]])
