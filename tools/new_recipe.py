"""Look at a data set and write a recipe for it.

    python tools/new_recipe.py datasets/mine
    python tools/new_recipe.py datasets/mine --format yolo --train train --val val --output configs/mine.py

The folder may be in VOC's, COCO's or YOLO's format. The recipe names the classes and proposes image size, anchors
and schedule, and says why; it is a Python file like the others in configs/, to be read and changed.
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["new-recipe", *sys.argv[1:]])
