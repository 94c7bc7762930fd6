"""``python tools/train_det.py …`` is ``resdet train-det …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["train-det", *sys.argv[1:]])
