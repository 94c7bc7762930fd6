"""``python tools/eval_cls.py …`` is ``resdet eval-cls …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["eval-cls", *sys.argv[1:]])
