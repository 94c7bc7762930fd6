"""``python tools/study.py …`` is ``resdet study …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
