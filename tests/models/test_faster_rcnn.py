"""The whole detector against one assembled from torchvision's parts under copied weights, and in odd situations."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from reference import anchors_literal
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FrozenBatchNorm2d, RoIAlign, RoIPool
from torchvision.transforms.functional import normalize

from resdet.config import DetConfig
from resdet.models.build import build_detector
from resdet.models.layers import conv
from resdet.models.roi_heads import concatenate
from resdet.models.weights.strict import load_strictly
from resdet.models.weights.torchvision import from_torchvision
from resdet.types import Target

CLASSES = 4
SCALES, RATIOS = (16, 32, 64), (0.5, 1, 2)
SIZES = torch.tensor([[96, 128], [80, 112]])
EVERYTHING = 10_000


def changed(config, **parts):
    """`config` with settings of its parts replaced: ``changed(CONFIG, rpn={"batch_size_per_image": 8})``."""
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in parts.items()})


# Few regions, small pooled: conv5_x on them takes most of the time.
CONFIG = changed(
    DetConfig(),
    model={
        "depth": 18,
        "freeze": (),
        "anchor_scales": SCALES,
        "anchor_ratios": RATIOS,
        "rpn_channels": 256,
        "pool_size": 4,
        "conv5_stride": 2,
    },
    rpn={
        "batch_size_per_image": 32,
        "pre_nms_topk": 200,
        "post_nms_topk": 16,
        "min_size": 1e-3,
        "cross_boundary": True,
    },
    roi={"batch_size_per_image": 8},
    test={"pre_nms_topk": 200, "post_nms_topk": 12, "max_detections": 30},
)


def random_resnet():
    net = torchvision.models.resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
    for module in net.modules():
        if isinstance(module, FrozenBatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def random_detector(config=CONFIG, resnet=None):
    """A detector that finds something: `resnet`'s weights, and layers of the head that tell regions apart."""
    model = build_detector(config, CLASSES)
    state = from_torchvision((resnet or random_resnet()).state_dict())
    for name, part in model.classifier_parts().items():
        own = {n.removeprefix(f"{name}."): tensor for n, tensor in state.items() if n.startswith(f"{name}.")}
        load_strictly(part, own, "torchvision")
    predictor = model.roi_heads.box_predictor
    for layer, std in (
        (model.rpn.head.objectness_logits, 0.05),
        (predictor.cls_score, 0.2),
        (predictor.bbox_pred, 0.05),
    ):
        nn.init.normal_(layer.weight, std=std)
        nn.init.normal_(layer.bias, std=0.1)
    return model.eval()


def images_of(count=2, height=96, width=128):
    """Smooth random pictures, so that places differ."""
    coarse = torch.rand(count, 3, height // 8, width // 8)
    return (F.interpolate(coarse, (height, width), mode="bilinear") * 255).to(torch.uint8)


def target_of(boxes, labels):
    boxes = torch.tensor(boxes).reshape(-1, 4).float()
    return Target(boxes, torch.tensor(labels).long(), torch.zeros(len(boxes), dtype=torch.bool))


TARGETS = [
    target_of([[10, 10, 60, 70], [50.5, 20, 110, 90], [0, 40, 30, 96]], [2, 0, 3]),
    target_of([[20, 5, 90.5, 66]], [1]),
]


def assert_same_detections(result, expected):
    for ours, theirs in zip(result, expected, strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-4, atol=1e-2)


# ------------------------------------------------------------ against torchvision


class Twin(nn.Module):
    """The same detector out of torchvision's parts, its anchors from the literal loop."""

    def __init__(self, model, resnet, config):
        super().__init__()
        self.body = nn.Sequential(*list(resnet.children())[:7])  # conv1 to layer3
        if config.model.conv5_stride == 1:
            resnet.layer4[0].conv1.stride = resnet.layer4[0].downsample[0].stride = (1, 1)
        head = RPNHead(256, len(SCALES) * len(RATIOS))
        ours = model.rpn.head
        pairs = (head.conv[0][0], ours.convs[0]), (head.cls_logits, ours.objectness_logits)
        for layer, own in (*pairs, (head.bbox_pred, ours.anchor_deltas)):
            layer.load_state_dict(own.state_dict())
        self.rpn = RegionProposalNetwork(
            *(self.anchors, head, config.rpn.foreground_iou, config.rpn.background_iou),
            *(config.rpn.batch_size_per_image, config.rpn.foreground_fraction),
            {"training": config.rpn.pre_nms_topk, "testing": config.test.pre_nms_topk},
            {"training": config.rpn.post_nms_topk, "testing": config.test.post_nms_topk},
            config.rpn.nms_iou,
        )
        predictor = FastRCNNPredictor(512, CLASSES + 1)
        with torch.no_grad():  # background comes first, and has a box that nobody reads
            own = model.roi_heads.box_predictor
            for theirs, ours in zip(predictor.cls_score.parameters(), own.cls_score.parameters(), strict=True):
                theirs.copy_(ours.roll(1, 0))
            for theirs, ours in zip(predictor.bbox_pred.parameters(), own.bbox_pred.parameters(), strict=True):
                theirs.copy_(torch.cat([torch.zeros_like(ours[:4]), ours]))
        pool_size, pooling = config.model.pool_size, config.model.pooling
        align = RoIAlign(pool_size, 1 / 16, 0, aligned=pooling == "align_v2")
        self.pool = RoIPool(pool_size, 1 / 16) if pooling == "pool" else align
        self.heads = RoIHeads(
            lambda features, proposals, _: self.pool(features["0"], proposals),
            nn.Sequential(resnet.layer4, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            predictor,
            *(0.5, 0.5, config.roi.batch_size_per_image, config.roi.foreground_fraction, (10.0, 10.0, 5.0, 5.0)),
            *(config.test.min_score, config.test.nms_iou, config.test.max_detections),
        )

    @staticmethod
    def anchors(images, features):
        height, width = features[0].shape[2:]
        return [torch.tensor(anchors_literal(SCALES, RATIOS, height, width, 16))] * len(images.image_sizes)

    def forward(self, images, sizes, targets=None):
        x = normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        for image, (height, width) in zip(x, sizes.tolist(), strict=True):
            image[:, height:], image[:, :, width:] = 0, 0
        features = {"0": self.body(x)}
        proposals, rpn_losses = self.rpn(ImageList(x, sizes.tolist()), features, targets)
        detections, head_losses = self.heads(features, proposals, sizes.tolist(), targets)
        return detections, [
            *rpn_losses.values(),
            head_losses.get("loss_classifier"),
            head_losses.get("loss_box_reg"),
        ]


TORCHVISION_CASES = [("pool", 4, 1), ("align", 7, 2), ("align_v2", 4, 1)]


@pytest.mark.parametrize("pooling, pool_size, conv5_stride", TORCHVISION_CASES)
def test_detections_equal_torchvision(pooling, pool_size, conv5_stride):
    config = changed(CONFIG, model={"pooling": pooling, "pool_size": pool_size, "conv5_stride": conv5_stride})
    resnet = random_resnet()
    model = random_detector(config, resnet)
    twin = Twin(model, resnet, config).eval()
    images = images_of()
    with torch.no_grad():
        result = model(images, SIZES)
        expected, _ = twin(images, SIZES)
    for detections, theirs in zip(result, expected, strict=True):
        assert len(detections.scores) > 5 and len(set(detections.labels.tolist())) > 1
        assert torch.equal(detections.labels, theirs["labels"] - 1)
        torch.testing.assert_close(detections.scores, theirs["scores"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(detections.boxes, theirs["boxes"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("pooling, pool_size, conv5_stride", TORCHVISION_CASES)
def test_losses_and_gradients_equal_torchvision(pooling, pool_size, conv5_stride, monkeypatch):
    """With mini-batches of everything there is, so that nothing is drawn, and torchvision's β in the head.

    The one difference: torchvision divides by what was sampled, we by the nominal mini-batch. Without Winograd's
    algorithm: where two cells of a bin are the largest, its other rounding could choose the other one.
    """
    monkeypatch.setattr(conv, "WINOGRAD_CHANNELS", 10**6)
    config = changed(
        CONFIG,
        model={"pooling": pooling, "pool_size": pool_size, "conv5_stride": conv5_stride},
        rpn={"batch_size_per_image": EVERYTHING, "foreground_fraction": 1.0},
        roi={"batch_size_per_image": EVERYTHING, "foreground_fraction": 1.0, "beta": 1 / 9},
    )
    resnet = random_resnet()
    model = random_detector(config, resnet).train()
    twin = Twin(model, resnet, config).train()
    images = images_of()
    theirs = [{"boxes": target.boxes, "labels": target.labels + 1} for target in TARGETS]
    sampled = []
    twin.heads.box_roi_pool = lambda features, proposals, _: (
        sampled.append(sum(map(len, proposals))) or twin.pool(features["0"], proposals)
    )
    _, expected = twin(images, SIZES, theirs)
    labels, _ = twin.rpn.assign_targets_to_anchors(
        twin.anchors(ImageList(images, SIZES), [torch.zeros(2, 1, 6, 8)]), theirs
    )
    anchors = sum(int((label >= 0).sum()) for label in labels)
    weights = [count / (EVERYTHING * 2) for count in (anchors, anchors, *sampled, *sampled)]
    expected = [loss * weight for loss, weight in zip(expected, weights, strict=True)]
    losses = model(images, SIZES, TARGETS)
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=1e-4, atol=1e-8)

    sum(losses).backward()
    sum(expected).backward()
    predictor = model.roi_heads.box_predictor
    pairs = {
        "backbone": (model.backbone.conv1.conv.weight, twin.body[0].weight),
        "conv5_x": (model.roi_heads.box_head.conv5_x[1].conv2.weight, resnet.layer4[1].conv2.weight),
        "rpn": (model.rpn.head.convs[0].weight, twin.rpn.head.conv[0][0].weight),
        "anchor_deltas": (model.rpn.head.anchor_deltas.weight, twin.rpn.head.bbox_pred.weight),
        "cls_score": (predictor.cls_score.weight.grad.roll(1, 0), twin.heads.box_predictor.cls_score.weight),
        "bbox_pred": (predictor.bbox_pred.weight, twin.heads.box_predictor.bbox_pred.weight.grad[4:]),
    }
    for name, pair in pairs.items():
        ours, wanted = (getattr(tensor, "grad", None) if tensor.requires_grad else tensor for tensor in pair)
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item(), msg=name)


# ------------------------------------------------------------ batches


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(1)
    return random_detector()


def test_an_image_s_detections_do_not_depend_on_its_batch(detector):
    images, sizes = images_of(3), torch.tensor([[96, 128]] * 3)
    with torch.no_grad():
        together = detector(images, sizes)
        alone = [detector(images[n : n + 1], sizes[:1])[0] for n in range(3)]
    assert_same_detections(together, alone)
    assert all(len(detections.scores) > 5 for detections in alone)
    assert not torch.allclose(alone[0].scores[:5], alone[1].scores[:5])


def test_what_lies_in_the_padding_does_not_matter(detector):
    images = images_of()
    noisy = images.clone()
    noisy[1, :, 80:] = torch.randint(0, 256, noisy[1, :, 80:].shape)
    noisy[1, :, :, 112:] = torch.randint(0, 256, noisy[1, :, :, 112:].shape)
    with torch.no_grad():
        assert_same_detections(detector(noisy, SIZES), detector(images, SIZES))


def test_detections_are_sorted_and_lie_in_their_image(detector):
    with torch.no_grad():
        result = detector(images_of(), SIZES)
    for detections, (height, width) in zip(result, SIZES.tolist(), strict=True):
        assert (detections.scores.diff() <= 0).all() and detections.scores.min() >= 0.05
        assert (detections.boxes >= 0).all() and (detections.boxes[:, 2] <= width).all()
        assert (detections.boxes[:, 3] <= height).all()
        assert detections.labels.min() >= 0 and detections.labels.max() < CLASSES


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, train_only="rpn"),
        replace(CONFIG, train_only="roi_heads"),
        changed(CONFIG, model={"context": True}, roi={"ohem": True}),
        changed(CONFIG, model={"maxout": (0.5, 1.0)}),
        changed(CONFIG, model={"box_head": "conv_fc", "fc_dims": (16,), "dropout": 0.5}),
    ],
)
def test_losses_and_detections_come_from_one_pass(config, given):
    """They equal those of two, to the bit, whatever is drawn from the generator in between."""
    model, images = build_detector(config, CLASSES).eval(), images_of()
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.2)
    proposals = [target.boxes for target in TARGETS] if given else None
    with torch.no_grad():
        torch.manual_seed(5)
        expected = model(images, SIZES, TARGETS, proposals)
        alone = model(images, SIZES, None, proposals)
        torch.manual_seed(5)
        losses, found = model.losses_and_detections(images, SIZES, TARGETS, proposals)
    torch.testing.assert_close(losses, expected, rtol=0, atol=0)
    torch.testing.assert_close(found, alone, rtol=0, atol=0)
    assert sum(len(own.boxes) for own in found) > 0


def test_the_limits_at_test_time_and_in_training_are_two(monkeypatch):
    config = changed(CONFIG, rpn={"post_nms_topk": 7}, test={"post_nms_topk": 3})
    model = random_detector(config)
    seen = []
    propose = model.rpn.propose
    monkeypatch.setattr(model.rpn, "propose", lambda *a, **k: seen.append(propose(*a, **k)) or seen[-1])
    with torch.no_grad():
        model(images_of(1), SIZES[:1])
        model(images_of(1), SIZES[:1], [target_of([], [])])
    assert [len(proposals[0]) for proposals in seen] == [3, 7]


def test_concatenate_keeps_each_region_s_image():
    rois, image_index = concatenate([torch.zeros(2, 4), torch.zeros(0, 4), torch.ones(1, 4)])
    assert rois.tolist() == [[0] * 4, [0] * 4, [1] * 4]
    assert image_index.tolist() == [0, 0, 2] and image_index.dtype == torch.int64


# ------------------------------------------------------------ training


def assert_trains(model, images, sizes, targets):
    """Four finite losses, and finite gradients of everything that is trained."""
    model.zero_grad()
    losses = model(images, sizes, targets)
    assert all(loss.ndim == 0 and loss.isfinite() and loss >= 0 for loss in losses)
    sum(losses).backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
        assert p.grad is None or p.grad.isfinite().all(), name
    return losses


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "targets",
    [
        TARGETS,
        [target_of([], []), TARGETS[1]],
        [target_of([], []), target_of([], [])],
        [target_of([[0, 0, 128, 96], [0, 0, 5, 5], [100, 90, 128, 96]], [0, 1, 2]), TARGETS[1]],
        [target_of([[-20, -30, 60, 50], [100, 60, 160, 120]], [0, 1]), TARGETS[1]],
        [target_of([[10, 10, 10, 10], [20, 20, 20.001, 90]], [0, 1]), TARGETS[1]],
    ],
    ids=["boxes", "one image without", "none at all", "at the border", "over the border", "without area"],
)
def test_losses_and_gradients_are_finite_in_either_mode(detector, targets, training):
    losses = assert_trains(detector.train(training), images_of(), SIZES, targets)
    assert losses.rpn_cls > 0 and losses.roi_cls > 0
    if not any(len(target.boxes) for target in targets):
        assert losses.rpn_box == 0 and losses.roi_box == 0


def test_the_mode_changes_nothing(detector):
    """Frozen normalisation: with targets losses, without them detections, in training and in evaluation alike."""
    images, results = images_of(), []
    for training in (True, False):
        torch.manual_seed(3)
        with torch.no_grad():
            results.append((detector.train(training)(images, SIZES), detector(images, SIZES, TARGETS)))
    assert_same_detections(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_frozen_stages_have_no_gradient():
    model = random_detector(changed(CONFIG, model={"freeze": ("conv1", "conv2_x")})).train()
    assert_trains(model, images_of(), SIZES, TARGETS)
    frozen = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is None}
    assert frozen == {"conv1", "conv2_x"}
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None} == {"backbone"}


@pytest.mark.parametrize("pooling", ["pool", "align"])
def test_no_proposal_at_all(pooling):
    model = random_detector(changed(CONFIG, model={"pooling": pooling}, rpn={"min_size": 1e6}))
    images = images_of()
    with torch.no_grad():
        result = model(images, SIZES)
    assert [(d.boxes.shape, d.scores.shape, d.labels.shape) for d in result] == [((0, 4), (0,), (0,))] * 2
    # The ground truth still makes regions; without it there is none.
    assert assert_trains(model, images, SIZES, TARGETS).roi_cls > 0
    assert assert_trains(model, images, SIZES, [target_of([], []), TARGETS[1]]).roi_cls > 0
    losses = assert_trains(model, images, SIZES, [target_of([], [])] * 2)
    assert losses.roi_cls == losses.roi_box == 0 and losses.rpn_cls > 0


@pytest.mark.parametrize("height, width", [(1, 1), (16, 200), (33, 47)])
def test_images_of_any_size_run(detector, height, width):
    images, sizes = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8), torch.tensor([[height, width]])
    with torch.no_grad():
        (detections,) = detector(images, sizes)
        losses = detector(images, sizes, [target_of([[0, 0, width, height]], [1])])
    assert detections.boxes.isfinite().all() and all(loss.isfinite() for loss in losses)


def test_the_paper_s_rule_on_cross_boundary_anchors_reaches_the_loss():
    """No anchor fits into a small image: with the paper's rule the RPN has nothing to learn there."""
    images, sizes = images_of(1, 16, 16), torch.tensor([[16, 16]])
    inner = random_detector(changed(CONFIG, model={"anchor_scales": (64,)}, rpn={"cross_boundary": False}))
    with torch.no_grad():
        losses = inner(images, sizes, [target_of([[0, 0, 16, 16]], [1])])
    assert losses.rpn_cls == losses.rpn_box == 0 and losses.roi_cls > 0


@pytest.mark.parametrize("model", [{"norm": "group"}, {"norm": "sync_batch"}, {"depth": 50, "style": "msra"}])
def test_every_kind_of_backbone_trains(model):
    detector = build_detector(changed(CONFIG, model=model), CLASSES).train()
    assert_trains(detector, images_of(), SIZES, TARGETS)


# ------------------------------------------------------------ GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pooling", ["pool", "align"])
def test_detections_on_the_gpu_equal_those_on_the_cpu(pooling):
    model = random_detector(changed(CONFIG, model={"pooling": pooling}))
    images = images_of()
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        on_cpu = model(images, SIZES)
        on_gpu = model.cuda()(images.cuda(), SIZES.cuda())
    assert_same_detections([type(d)(*(tensor.cpu() for tensor in d)) for d in on_gpu], on_cpu)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_runs_on_the_gpu():
    model = random_detector().train().cuda()
    targets = [Target(*(tensor.cuda() for tensor in target)) for target in TARGETS]
    assert_trains(model, images_of().cuda(), SIZES.cuda(), targets)
