"""``python tools/convert_data.py …`` is ``resdet convert-data …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["convert-data", *sys.argv[1:]])
