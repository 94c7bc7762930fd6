"""``python tools/detect.py …`` is ``resdet detect …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["detect", *sys.argv[1:]])
