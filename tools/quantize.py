"""``python tools/quantize.py …`` is ``resdet quantize …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["quantize", *sys.argv[1:]])
