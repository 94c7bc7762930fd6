"""Train a detector.

    python tools/train_det.py configs/shapes_r18.py
    python tools/train_det.py configs/voc07_r101.py --solver.lr 2e-3 --solver.batch-size 2
    python tools/train_det.py configs/bccd_r18.py --weights runs/shapes_r18
    torchrun --nproc-per-node 2 tools/train_det.py configs/voc07_r101.py --solver.batch-size 2
    python tools/train_det.py --resume runs/shapes_r18

`python tools/train_det.py RECIPE --help` lists every setting. The run folder runs/NAME holds model.safetensors (the
best model), last.safetensors, config.json, metrics.jsonl, metrics.json, TensorBoard events and curves.png; --resume
goes on from its state.pt exactly where the training stopped.
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["train-det", *sys.argv[1:]])
