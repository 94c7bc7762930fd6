"""``python tools/propose.py …`` is ``resdet propose …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["propose", *sys.argv[1:]])
