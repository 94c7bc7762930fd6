"""Write a data set in another format: VOC's, COCO's or YOLO's.

    python tools/convert_data.py datasets/bccd datasets/bccd_coco --to coco
    python tools/convert_data.py datasets/coco128 datasets/coco128_yolo --to yolo --link

Images are copied, or linked to. What the new format cannot hold (COCO's mask areas and numbers, YOLO's lack of
difficult objects) is said; segmentations, keypoints and captions are not read at all.
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["convert-data", *sys.argv[1:]])
