"""``python tools/push.py …`` is ``resdet push …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["push", *sys.argv[1:]])
