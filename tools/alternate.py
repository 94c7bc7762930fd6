"""Train a Faster R-CNN in four alternating steps (Faster R-CNN §3.2).

    python tools/alternate.py configs/bccd_r18.py
    python tools/alternate.py configs/voc07_vgg16.py --solver.steps 40000 --solver.milestones 30000

An RPN is trained; then a head, from the same start, on that RPN's proposals; then an RPN on the head's trunk, which
is kept; then the head again, on that trunk. The folder runs/RECIPE_alternating holds a run folder for each step: in
the last one, 4_head, RPN and head share their trunk, in 2_head they do not. A training that was interrupted goes on
where it stopped when it is given the same settings again.
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["alternate", *sys.argv[1:]])
