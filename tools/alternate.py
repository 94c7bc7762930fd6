"""``python tools/alternate.py …`` is ``resdet alternate …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["alternate", *sys.argv[1:]])
