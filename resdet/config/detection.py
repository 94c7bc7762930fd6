"""The settings of a detector's training.

The defaults are the ResNet entry on PASCAL VOC (He et al. 2015, appendix A, with the settings of Faster R-CNN).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from resdet.config.ranges import (
    BatchSize,
    Cells,
    Channels,
    Count,
    Decay,
    Factor,
    Fraction,
    NonEmpty,
    Pixels,
    Positive,
    Range,
    Seed,
    Workers,
)
from resdet.config.solver import SolverConfig

# In the order of the VOC results tables.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)
# The 80 of COCO, in the order of its category ids.
COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they reach the network."""

    format: Literal["voc", "coco", "yolo"] = "voc"
    """of the data set's files (datasets/README.md)"""
    root: str = "datasets/VOCdevkit"
    """folder of the data set"""
    train: str = "2007_trainval"
    """training splits, joined by "+": 2007_trainval+2012_trainval, train2017, train"""
    val: str = "2007_test"
    """evaluation splits, written as those for training"""
    classes: tuple[str, ...] = VOC_CLASSES
    """class names in the order of the labels; empty takes all names that the training annotations hold, sorted"""
    other_classes: Literal["error", "ignore"] = "error"
    """what to do about an object of a class that is not among `classes`"""
    difficult: bool = False
    """train on VOC's difficult objects and COCO's crowd regions too (the papers do not; they never count in
    evaluation)"""
    proposals: tuple[str, ...] = ()
    """files of region proposals, of training and of validation images, best first; with an RPN, they take the place
    of its own"""
    repeat: Fraction = 0.0
    """classes in less than this share of the images are shown more often, √(repeat / share) times (repeat-factor
    sampling: Gupta et al. 2019; 0.001 there); 0 shows every image once"""
    empty_images: bool = True
    """train on images in which nothing is annotated, too"""
    short_sides: NonEmpty[Pixels] = (600,)
    """pixels; an image's shorter side in training, drawn anew each time if there are several (Fast R-CNN §4)"""
    test_short_side: Pixels = 600
    """pixels; an image's shorter side in evaluation (Faster R-CNN §3.3)"""
    max_side: Pixels = 1000
    """pixels; the longer side never exceeds this (Fast R-CNN §4)"""
    flip: Fraction = 0.5
    """probability of a horizontal flip (Fast R-CNN §2.3)"""
    photometric: Fraction = 0.0
    """probability of a change of brightness, contrast, saturation and hue"""
    group_by_aspect: bool = True
    """landscape and portrait images do not share a batch, which saves padding"""
    workers: Workers = 2
    """processes that read images, for each training process; 0 reads in the training process"""
    source: str = "see datasets/README.md"
    """where the data set comes from, shown when it is missing"""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    proposals: Literal["rpn", "given"] = "rpn"
    """from the region proposal network, or from the files of `data.proposals`"""
    trunk: Literal["resnet", "plain", "preact", "vgg16", "zf", "timm"] = "resnet"
    """resnet as in 2015, plain without its shortcuts, preact as in 2016; VGG-16 and ZF are older; timm has more"""
    timm: str = ""
    """name of timm's network, for a trunk of timm"""
    depth: Literal[18, 34, 50, 101, 152] = 101
    """layers of the ResNet (He et al. 2015, Table 1)"""
    style: Literal["torchvision", "msra"] = "torchvision"
    """family of the trunk's weights: fixes channel order, pixel mean and the place of the stride"""
    norm: Literal["frozen", "group", "sync_batch"] = "frozen"
    """frozen batch normalisation for fine-tuning (appendix A); group and sync_batch train from scratch"""
    freeze: tuple[str, ...] = ("conv1", "conv2_x")
    """stages that are not trained"""
    anchor_scales: NonEmpty[Annotated[float, Range(1, 10_000)]] = (128, 256, 512)
    """pixels of the resized image; square root of an anchor's area (Faster R-CNN §3.3)"""
    anchor_ratios: NonEmpty[Annotated[float, Range(0.01, 100)]] = (0.5, 1, 2)
    """height over width (Faster R-CNN §3.3)"""
    anchor_center: Literal["cell", "corner"] = "cell"
    """anchors sit at the centre of their cell of 16 pixels, or at its upper left corner as in detectron2"""
    rpn_channels: Channels = 512
    """channels of the RPN's 3×3 convolution (Faster R-CNN §3.1)"""
    pooling: Literal["pool", "align", "pyramid", "warp"] = "pool"
    """RoI max pooling as in the papers, RoI align (Mask R-CNN §3), spatial pyramids (SPPnet §2.2), or every region
    cut out of the image and warped (R-CNN)"""
    pool_size: Cells = 7
    """cells along each side of a pooled region: 7 with conv5_stride 1, 14 with conv5_stride 2; pixels if warped"""
    pyramid: NonEmpty[Cells] = (6, 3, 2, 1)
    """bins along each side of a pyramid's levels (SPPnet §4)"""
    maxout: tuple[Annotated[float, Range(0.01, 1)], ...] = ()
    """sizes, in shares of the image's, each region is pooled from the two that suit it, the larger feature of both
    (networks on conv feature maps, §3.3: 0.4 0.48 0.57 0.72 1); empty pools from one map"""
    body: Literal["conv5", "layers"] = "conv5"
    """what follows the pooling: the network's own conv5_x, or `convs` and `fcs` (networks on conv feature maps)"""
    convs: tuple[Channels, ...] = ()
    """channels of the 3×3 convolutions of a body of layers"""
    fcs: tuple[Channels, ...] = (4096, 4096)
    """outputs of its fully connected layers (fc6 and fc7 of VGG-16)"""
    dropout: Decay = 0.5
    """of their outputs"""
    conv5_stride: Literal[1, 2] = 1
    """stride of conv5_x on pooled regions"""
    context: bool = False
    """the whole image goes through conv5_x as one more region, whose vector joins every other's (He et al. 2015,
    appendix B)"""


@dataclass(frozen=True)
class RPNConfig:
    """Training of the region proposal network (Faster R-CNN §3.1)."""

    batch: Count = 256
    """anchors sampled from an image (§3.1.3)"""
    foreground_fraction: Fraction = 0.5
    """at most this share of them is positive (§3.1.3)"""
    foreground_iou: Positive = 0.7
    """an anchor with at least this IoU is positive (§3.1.2)"""
    background_iou: Fraction = 0.3
    """an anchor with less than this IoU with every object is negative (§3.1.2)"""
    cross_boundary: bool = False
    """train on anchors that leave the image; the paper leaves them out (§3.3)"""
    before_nms: Count = 12000
    """proposals kept by score before non-maximum suppression in training"""
    after_nms: Count = 2000
    """proposals kept in training (§3.3), of those given too"""
    nms_iou: Fraction = 0.7
    """overlap above which the worse proposal goes, also at test time (§3.3)"""
    min_size: Annotated[float, Range(0, 10_000)] = 0.0
    """pixels; proposals with a shorter side are dropped"""
    beta: Factor = 1 / 9
    """smooth L1 is quadratic below this; the authors' σ = 3"""
    box_weight: Factor = 1.0
    """of the box term; 1 is about the paper's λ = 10 (eq. 1, see CONVENTIONS.md)"""


BoxStd = Annotated[float, Range(0.001, 100)]


@dataclass(frozen=True)
class RoIConfig:
    """Training of the head (Fast R-CNN §2.3)."""

    batch: Count = 128
    """regions sampled from an image"""
    foreground_fraction: Fraction = 0.25
    """at most this share of them covers an object"""
    foreground_iou: Positive = 0.5
    """a region with at least this IoU with an object is foreground"""
    background_iou: tuple[Fraction, Fraction] = (0.0, 0.5)
    """background has a highest IoU in [low, high); Fast R-CNN has 0.1 for low, joint training 0"""
    box_stds: tuple[BoxStd, BoxStd, BoxStd, BoxStd] = (0.1, 0.1, 0.2, 0.2)
    """box targets are divided by these (the authors' code)"""
    beta: Factor = 1.0
    """smooth L1 is quadratic below this (Fast R-CNN eq. 3)"""
    mining: bool = False
    """train on the regions of the highest loss among all proposals, not on random ones (online hard example mining,
    Shrivastava et al. 2016)"""


@dataclass(frozen=True)
class TestConfig:
    """From scores to detections."""

    before_nms: Count = 6000
    """proposals kept by score before non-maximum suppression"""
    after_nms: Count = 300
    """proposals that reach the head (He et al. 2015, appendix A), of those given too"""
    min_score: Fraction = 0.05
    """detections with a lower score are dropped (the authors' code)"""
    nms_iou: Fraction = 0.3
    """overlap above which the worse detection of a class goes (the authors' code)"""
    max_detections: Count = 100
    """kept for an image"""
    refine: bool = False
    """pool again from the boxes that were found, and join both predictions (He et al. 2015, appendix B)"""
    vote_iou: Fraction = 0.0
    """overlap from which boxes of a class vote, by their scores, on where a detection is (appendix B; 0.5 there); 0
    takes no vote"""
    scales: tuple[Pixels, ...] = ()
    """pixels; shorter sides of the images, of which each region is pooled from the two that suit it (appendix B:
    200 400 600 800 1000); empty has one scale"""
    flip: bool = False
    """look at the mirror image too, and take the mean"""
    soft_nms: Annotated[float, Range(0.001, 100, or_zero=True)] = 0.0
    """σ with which scores of overlapping boxes decay in place of suppression (Bodla et al. 2017: 0.5); 0 suppresses
    """
    ensemble: tuple[str, ...] = ()
    """run folders or weights files of further detectors of the same classes: proposals are joined, the heads' means
    taken (appendix B)"""
    batch_size: BatchSize = 1
    """images at a time in each process"""
    metric: Literal["map07", "map", "ap", "ap50"] = "map07"
    """what picks the best checkpoint: VOC2007's 11-point mAP, VOC's area under the curve, or COCO's AP or AP50"""


@dataclass(frozen=True)
class DetConfig:
    """One training of a detector."""

    name: str = ""
    """of the run folder; the recipe's file name if empty"""
    runs: str = "runs"
    """folder of the run folders"""
    weights: str = ""
    """start from: "torchvision" or "torchvision-v2" (ImageNet; V2 is of a newer recipe), a run folder, or a weights
    file of resdet, torchvision or MSRA; empty starts from scratch"""
    learn: Literal["all", "rpn", "head"] = "all"
    """train all, or only the RPN or the head, and what of the trunk is not frozen (Faster R-CNN §3.2)"""
    seed: Seed = 0
    """all randomness follows from this and the step"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    test: TestConfig = field(default_factory=TestConfig)
