"""Look at a data set before training on it.

    python tools/check_data.py configs/bccd_r18.py
    python tools/check_data.py configs/voc07_r101.py --data.format coco --data.root DIR --data.train train

Opens every image and reads every annotation of a recipe: unreadable images, images of another size than stated,
missing, doubled, or in both splits (also as a copy of another size or compression), boxes outside or without area,
class names with odd spelling; counts classes and sizes, and how many objects the recipe's anchors reach. Prints a
summary and writes into runs/NAME/data: report.json, histograms.png, and worst.png with images to look at.
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["check-data", *sys.argv[1:]])
