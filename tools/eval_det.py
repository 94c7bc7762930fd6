"""``python tools/eval_det.py …`` is ``resdet eval-det …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["eval-det", *sys.argv[1:]])
