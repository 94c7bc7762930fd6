"""Convert detectron2's C4 detectors (faster_rcnn_R_50_C4 and its like) to resdet, and resdet's to detectron2.

    python tools/convert_weights.py model_final_b1acc2.pkl runs/voc_c4.safetensors
    python tools/convert_weights.py model_final.pth mine.safetensors --classes cat dog
    python tools/convert_weights.py runs/mine exported.pth --to detectron2

The converted file holds the settings with which it finds what it found in detectron2: detect with it, evaluate it,
or start a training from it. 80 classes are taken for COCO's, 20 for VOC's; others need --classes.

The way back takes a run folder or a .safetensors file, writes .pth or .pkl (that one is read with numpy 1.26 or
newer), and prints the settings that detectron2 needs for the detector. MSRA's and torchvision's ResNets need no
conversion: pass the file to train_det as --weights.
"""

import sys

from resdet.cli import main

if __name__ == "__main__":
    main(["convert-weights", *sys.argv[1:]])
