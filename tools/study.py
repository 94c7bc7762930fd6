"""Train a named set of networks and draw them together.

    python tools/study.py degradation --solver.steps 8000 --solver.milestones 4000 6000
    python tools/study.py shortcuts
    python tools/study.py lineage --solver.steps 300 --solver.milestones 240

Settings go to every network of the study; what a network is compared by goes before them. A study that was
interrupted goes on where it stopped when it is given the same settings again. The folder runs/STUDY holds a run
folder for each network and table.md. Of classifiers (degradation, depth, shortcuts, activations) it holds
errors.png (He et al. 2015, Fig. 6) and responses.png (Fig. 7) too, of detectors (lineage, improvements,
proposals, anchors, sharing, lambda) study.png, with accuracy and seconds.
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
