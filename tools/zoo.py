"""``python tools/zoo.py …`` is ``resdet zoo …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["zoo", *sys.argv[1:]])
