"""``python tools/train.py …`` is ``resdet train …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
