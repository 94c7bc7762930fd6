"""``python tools/new_recipe.py …`` is ``resdet new-recipe …``; ``--help`` prints its manual."""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["new-recipe", *sys.argv[1:]])
