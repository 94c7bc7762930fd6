"""The settings of a detector.

The defaults are the ResNet entry on PASCAL VOC (He et al. 2015, appendix A, with the settings of Faster R-CNN).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from resdet.config.classes import VOC_CLASSES
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

DataFormat = Literal["voc", "coco", "yolo", "labelme", "csv", "via"]
ProposalMethod = Literal["selective-search", "edge-boxes", "rpn"]
Depth = Literal[18, 34, 50, 101, 152]


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they reach the network."""

    format: DataFormat = "voc"
    """Format of the data set's files (see datasets/README.md)."""
    root: str = "datasets/VOCdevkit"
    """Folder of the data set."""
    train: str = "2007_trainval"
    """Training splits, joined by "+": for example 2007_trainval+2012_trainval, train2017 or train."""
    val: str = "2007_test"
    """Validation splits, written like the training splits."""
    split_file: str = ""
    """File that `resdet split` wrote: `train` and `val` then name its splits, and the images are those of the whole
    data set that it lists; if empty, they name the data set's own splits."""
    classes: tuple[str, ...] = VOC_CLASSES
    """Class names in the order of the labels; if empty, all names in the training annotations, sorted."""
    other_classes: Literal["error", "ignore"] = "error"
    """What to do with objects of a class that is not in `classes`: stop with an error, or ignore them."""
    exif: Literal["auto", "upright", "stored"] = "auto"
    """What boxes are relative to in photographs that are stored on their side: the upright image, or the pixels as
    stored; auto decides for each image by the size that its annotation states."""
    difficult: bool = False
    """Whether to train on VOC's difficult objects and COCO's crowd regions too. The papers do not; they never count
    in evaluation."""
    proposals: tuple[str, ...] = ()
    """Files of region proposals for the training and validation images, best first; a detector with an RPN uses
    them in place of its own proposals."""
    repeat: Fraction = 0.0
    """Repeat-factor sampling (Gupta et al. 2019; 0.001 there): images with a class that fewer than this share of
    the images contain are repeated √(repeat / share) times; 0 shows every image once."""
    empty_images: bool = True
    """Whether to train on images without annotations too."""
    short_sides: NonEmpty[Pixels] = (600,)
    """Shorter side of training images in pixels; with several values, one is drawn for each image (Fast R-CNN
    §4)."""
    test_short_side: Pixels = 600
    """Shorter side of images in evaluation, in pixels (Faster R-CNN §3.3)."""
    max_side: Pixels = 1000
    """Maximum longer side of an image in pixels (Fast R-CNN §4)."""
    augmentation: str = "none"
    """Random changes to training images before they are resized: none, light (colors, size and position, blur,
    noise), strong (more of these, and crops), or a JSON or YAML file that albumentations.save wrote; a box that is
    cut is kept if 30 % of its area and 2 pixels of each side are left."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip, after the augmentation (Fast R-CNN §2.3)."""
    photometric: Fraction = 0.0
    """Probability of a random change of brightness, contrast, saturation and hue, after the augmentation."""
    group_by_aspect: bool = True
    """Whether to keep landscape and portrait images in separate batches, which saves padding."""
    workers: Workers = 2
    """Number of data loading processes per training process; 0 loads images in the training process."""
    source: str = "see datasets/README.md"
    """Where the data set can be downloaded, shown if it is missing."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    proposals: Literal["rpn", "given"] = "rpn"
    """Where proposals come from: the region proposal network, or the files in `data.proposals`."""
    backbone: Literal["resnet", "plain", "preact", "vgg16", "zf", "timm"] = "resnet"
    """Backbone network: ResNet (2015), the same without shortcuts (plain), pre-activation ResNet (2016), VGG-16,
    ZF, or a network of timm."""
    timm: str = ""
    """Name of the timm network, if the backbone is timm."""
    depth: Depth = 101
    """Number of layers of the ResNet (He et al. 2015, Table 1)."""
    style: Literal["torchvision", "msra", "caffe2"] = "torchvision"
    """Source of the backbone's weights, which determines channel order, pixel mean and deviation, and the position
    of the stride: torchvision, MSRA's ResNets, or Caffe2's ResNeXts."""
    features: Literal["c4", "dc5", "fpn"] = "c4"
    """Feature maps that the RPN and the RoI heads share: that of conv4_x (c4: He et al. 2015, appendix A), that of
    conv5_x with dilation in place of its stride (dc5: detectron2), or a feature pyramid (fpn: Lin et al. 2017)."""
    fpn_channels: Channels = 256
    """Channels of each level of the feature pyramid (Lin et al. 2017, §3)."""
    groups: Annotated[int, Range(1, 64)] = 1
    """Number of groups of the 3×3 convolutions of a ResNet of 50 layers or more (ResNeXt: Xie et al. 2017; 32
    there)."""
    width_per_group: Annotated[int, Range(1, 1024)] = 64
    """Channels of each group in conv2_x; doubled in every later stage (ResNeXt 32×8d has 8)."""
    norm: Literal["frozen", "group", "batch", "sync_batch"] = "frozen"
    """Normalization layers of the backbone: frozen batch norm for fine-tuning (He et al. 2015, appendix A); group
    norm, batch norm or, over the images of all processes, synchronized batch norm for training from scratch."""
    head_norm: Literal["none", "group", "batch", "sync_batch"] = "none"
    """Normalization layers of the feature pyramid's own convolutions and of those of a conv_fc box head."""
    norm_eps: Annotated[float, Range(0, 0.1)] = 1e-5
    """What batch norm adds to the variance; torchvision's fasterrcnn_resnet50_fpn was trained with 0."""
    freeze: tuple[str, ...] = ("conv1", "conv2_x")
    """Stages of the backbone that are not trained."""
    anchor_scales: NonEmpty[Annotated[float, Range(1, 10_000)]] = (128, 256, 512)
    """Anchor sizes (square roots of their areas) in pixels of the resized image (Faster R-CNN §3.3); of a feature
    pyramid, each of its five levels has an equal share of them in ascending order (Lin et al. 2017, §4.1: 32 64 128
    256 512)."""
    anchor_ratios: NonEmpty[Annotated[float, Range(0.01, 100)]] = (0.5, 1, 2)
    """Anchor aspect ratios, height over width (Faster R-CNN §3.3)."""
    anchor_center: Literal["cell", "corner"] = "cell"
    """Position of anchors in their cell of the feature map: the center, or the upper left corner as in detectron2,
    which is the center of what the cell sees."""
    anchor_rounding: bool = False
    """Whether to round anchors as torchvision does: their corners to whole pixels, and the distance from one to the
    next, which is the padded image's size divided by the feature map's."""
    rpn_channels: Channels = 512
    """Output channels of the RPN's 3×3 convolutions (Faster R-CNN §3.1)."""
    rpn_depth: Annotated[int, Range(1, 16)] = 1
    """Number of 3×3 convolutions of the RPN; torchvision's fasterrcnn_resnet50_fpn_v2 has 2."""
    pooling: Literal["pool", "align", "align_v2", "pyramid", "warp"] = "pool"
    """How regions are pooled: RoI max pooling (Fast R-CNN §2.1), RoI align (Mask R-CNN §3) as in torchvision or as
    in detectron2 (align_v2), spatial pyramid pooling (SPPnet §2.2), or cropped from the image and warped
    (R-CNN)."""
    pool_size: Cells = 7
    """Side of a pooled region in cells (7 with conv5_stride 1, 14 with conv5_stride 2), or in pixels if regions are
    warped."""
    pyramid: NonEmpty[Cells] = (6, 3, 2, 1)
    """Bins per side of each level of the spatial pyramid (SPPnet §4)."""
    sampling_ratio: Annotated[int, Range(0, 64)] = 0
    """Samples per side of each bin of RoI align; 0 takes one for each cell that the bin spans, as detectron2 does,
    torchvision's detectors take 2."""
    maxout: tuple[Annotated[float, Range(0.01, 1)], ...] = ()
    """Image scales, as fractions of the image's size, for maxout over scales: each region is pooled at the two
    adjacent scales that suit it, and the larger feature is kept (networks on conv feature maps, §3.3: 0.4 0.48 0.57
    0.72 1); if empty, one scale is used."""
    box_head: Literal["conv5", "conv_fc"] = "conv5"
    """Box head after pooling: the ResNet's own conv5_x, or the layers in `conv_dims` and `fc_dims` (networks on
    conv feature maps)."""
    conv_dims: tuple[Channels, ...] = ()
    """Output channels of each 3×3 convolution of a conv_fc box head."""
    fc_dims: tuple[Channels, ...] = (4096, 4096)
    """Output size of each fully connected layer of a conv_fc box head (fc6 and fc7 of VGG-16)."""
    dropout: Decay = 0.5
    """Dropout probability after each fully connected layer."""
    conv5_stride: Literal[1, 2] = 1
    """Stride of conv5_x on pooled regions."""
    context: bool = False
    """Whether to pass the whole image through the box head as one more region and concatenate its feature vector to
    that of every region (He et al. 2015, appendix B)."""


@dataclass(frozen=True)
class RPNConfig:
    """Training of the region proposal network (Faster R-CNN §3.1)."""

    batch_size_per_image: Count = 256
    """Number of anchors sampled from an image (Faster R-CNN §3.1.3)."""
    foreground_fraction: Fraction = 0.5
    """Maximum fraction of positive anchors in the sample (§3.1.3)."""
    foreground_iou: Positive = 0.7
    """IoU with an object from which an anchor is positive (§3.1.2)."""
    background_iou: Fraction = 0.3
    """IoU with every object below which an anchor is negative (§3.1.2)."""
    cross_boundary: bool = False
    """Whether to train on anchors that cross the image boundary; the paper leaves them out (§3.3)."""
    pre_nms_topk: Count = 12000
    """Number of top-scoring proposals of each feature map kept before non-maximum suppression in training."""
    post_nms_topk: Count = 2000
    """Number of top-scoring proposals kept after non-maximum suppression in training (§3.3); also limits given
    proposals."""
    nms_iou: Fraction = 0.7
    """IoU threshold of non-maximum suppression of proposals, in training and in evaluation (§3.3)."""
    min_size: Annotated[float, Range(0, 10_000)] = 0.0
    """Minimum side of a proposal in pixels."""
    beta: Factor = 1 / 9
    """Threshold below which the smooth L1 loss is quadratic; 1/9 is the authors' σ = 3."""
    box_weight: Factor = 1.0
    """Weight of the box loss; 1 is about the paper's λ = 10 (eq. 1, see CONVENTIONS.md)."""


BoxStd = Annotated[float, Range(0.001, 100)]


@dataclass(frozen=True)
class RoIConfig:
    """Training of the head (Fast R-CNN §2.3)."""

    batch_size_per_image: Count = 128
    """Number of regions sampled from an image (Fast R-CNN §2.3)."""
    foreground_fraction: Fraction = 0.25
    """Maximum fraction of foreground regions in the sample."""
    foreground_iou: Positive = 0.5
    """IoU with an object from which a region is foreground."""
    background_iou: tuple[Fraction, Fraction] = (0.0, 0.5)
    """Range [low, high) of the highest IoU of background regions; Fast R-CNN sets low to 0.1, joint training to
    0."""
    box_stds: tuple[BoxStd, BoxStd, BoxStd, BoxStd] = (0.1, 0.1, 0.2, 0.2)
    """Standard deviations by which box targets are divided (the authors' code)."""
    beta: Factor = 1.0
    """Threshold below which the smooth L1 loss is quadratic (Fast R-CNN eq. 3)."""
    ohem: bool = False
    """Whether to train on the regions with the highest loss instead of random ones (online hard example mining,
    Shrivastava et al. 2016)."""


@dataclass(frozen=True)
class TestConfig:
    """From scores to detections."""

    pre_nms_topk: Count = 6000
    """Number of top-scoring proposals of each feature map kept before non-maximum suppression."""
    post_nms_topk: Count = 300
    """Number of top-scoring proposals kept after non-maximum suppression (He et al. 2015, appendix A); also limits
    given proposals."""
    min_score: Fraction = 0.05
    """Minimum score of a detection (the authors' code)."""
    nms_iou: Fraction = 0.3
    """IoU threshold of non-maximum suppression among the detections of a class (the authors' code)."""
    max_detections: Count = 100
    """Maximum number of detections per image."""
    coco_max_dets: Annotated[int, Range(100, 1_000_000)] = 100
    """Maximum number of detections of a class in an image that COCO's AP and AR count (maxDets of COCO's tools; 100
    gives the standard numbers); raise it, and `max_detections`, where images hold more objects."""
    refine: bool = False
    """Whether to pool again from the detected boxes and merge both predictions (box refinement: He et al. 2015,
    appendix B)."""
    vote_iou: Fraction = 0.0
    """Box voting: IoU from which boxes of a class contribute to a detection's position, weighted by their scores
    (He et al. 2015, appendix B; 0.5 there); 0 turns voting off."""
    scales: tuple[Pixels, ...] = ()
    """Shorter sides of an image pyramid in pixels; each region is pooled at the two adjacent scales that suit it
    (He et al. 2015, appendix B: 200 400 600 800 1000); if empty, one scale is used."""
    flip: bool = False
    """Whether to average predictions with those of the horizontally flipped image."""
    soft_nms_sigma: Annotated[float, Range(0.001, 100, or_zero=True)] = 0.0
    """Sigma of Gaussian soft-NMS, which decays the scores of overlapping boxes (Bodla et al. 2017; 0.5 there); 0
    uses ordinary non-maximum suppression."""
    ensemble: tuple[str, ...] = ()
    """Run folders or weights files of additional detectors of the same classes: their proposals are pooled, and
    their predictions averaged (He et al. 2015, appendix B)."""
    batch_size: BatchSize = 1
    """Largest number of images in an evaluation batch of each process; only images of one size share a batch."""
    metric: Literal["map07", "map", "ap", "ap50"] = "map07"
    """Metric that selects the best checkpoint: VOC2007's 11-point mAP, VOC's area under the curve, or COCO's AP or
    AP50."""


@dataclass(frozen=True)
class DetConfig:
    """A training run of a detector."""

    name: str = ""
    """Name of the run folder; defaults to the recipe's file name."""
    runs: str = "runs"
    """Folder that contains the run folders."""
    init_weights: str = ""
    """Weights to start training from: "torchvision" or "torchvision-v2" (ImageNet; V2 comes from a newer recipe),
    "timm", a run folder, a weights file of resdet, torchvision or MSRA, or a detector that `resdet zoo` lists; if
    empty, training starts from scratch."""
    train_only: Literal["", "rpn", "roi_heads"] = ""
    """Part to train alone, with the unfrozen stages of the backbone (alternating training, Faster R-CNN §3.2); if
    empty, all parts are trained."""
    seed: Seed = 0
    """Random seed; all randomness follows from it and the step."""
    device: str = "auto"
    """Device to run on: auto, cpu, cuda or cuda:N."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    test: TestConfig = field(default_factory=TestConfig)
