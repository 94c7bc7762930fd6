"""``python tools/train_cls.py …`` is ``resdet train-cls …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["train-cls", *sys.argv[1:]])
