"""``python tools/split.py …`` is ``resdet split …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["split", *sys.argv[1:]])
