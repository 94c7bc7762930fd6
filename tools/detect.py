"""Draw a detector's boxes on images.

    python tools/detect.py photo.jpg --weights runs/shapes_r18
    python tools/detect.py folder/ --weights model.safetensors --min-score 0.7 --output pictures

Writes a picture for each image and detections.json: for each file a list of class, score and box (x1, y1, x2, y2 in
pixels).
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["detect", *sys.argv[1:]])
