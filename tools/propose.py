"""Make region proposals for the images of a recipe, training and validation.

    python tools/propose.py configs/bccd_r18.py --method selective-search --output runs/bccd_selective_search.npz
    python tools/propose.py configs/bccd_r18.py --method edge-boxes --edges model.yml.gz --output runs/edges.npz
    python tools/propose.py configs/bccd_r18.py --method rpn --weights runs/bccd_r18 --output runs/rpn.npz

Selective search needs the extra `proposals`; EdgeBoxes needs OpenCV's extra modules and its model of structured
edges. A detector is given the file with --model.proposals given --data.proposals FILE.
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["propose", *sys.argv[1:]])
