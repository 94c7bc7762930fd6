"""``python tools/check_data.py …`` is ``resdet check-data …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["check-data", *sys.argv[1:]])
