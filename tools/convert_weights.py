"""``python tools/convert_weights.py …`` is ``resdet convert-weights …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["convert-weights", *sys.argv[1:]])
