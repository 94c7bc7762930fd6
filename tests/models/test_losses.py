"""resdet.models.losses against literal loops and torchvision's losses."""

import math

import pytest
import torch
from reference import smooth_l1_literal
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import fastrcnn_loss

from resdet.models.losses import head_loss, region_losses, rpn_loss, smooth_l1
from resdet.models.targets import AnchorTargets

ANCHORS, CLASSES, REGIONS = 50, 3, 24


@pytest.fixture
def anchor_targets():
    """Of three images; the second has no object, the third nothing at all."""
    order = torch.randperm(ANCHORS)
    return [
        AnchorTargets(order[:5], order[5:20], torch.randn(5, 4) * 0.3),
        AnchorTargets(order[:0], order[30:40], torch.zeros(0, 4)),
        AnchorTargets(order[:0], order[:0], torch.zeros(0, 4)),
    ]


@pytest.fixture
def regions():
    """Class logits, deltas, classes and box targets of the head; torchvision counts background first."""
    classes = torch.randint(0, CLASSES + 1, (REGIONS,))
    box_targets = torch.randn(REGIONS, 4) * (classes < CLASSES)[:, None]
    return torch.randn(REGIONS, CLASSES + 1), torch.randn(REGIONS, CLASSES, 4), classes, box_targets


@pytest.mark.parametrize("beta", [0, 1 / 9, 1.0])
def test_smooth_l1_equals_the_formula(beta):
    x = torch.cat([torch.linspace(-2, 2, 41), torch.tensor([beta, -beta, 0.0])])
    expected = math.fsum(smooth_l1_literal(value, beta) for value in x.tolist())
    torch.testing.assert_close(smooth_l1(x, beta), torch.tensor(expected))


def test_sigma_3_of_the_authors_is_beta_one_ninth():
    for x in (0.05, -0.1, 0.2, -3.0):
        sigma = 3.0
        theirs = 0.5 * (sigma * x) ** 2 if abs(x) < 1 / sigma**2 else abs(x) - 0.5 / sigma**2
        assert smooth_l1(torch.tensor(x), 1 / 9).item() == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("beta", [1 / 9, 1.0])
def test_rpn_loss_equals_the_literal_loop(anchor_targets, beta):
    logits, deltas = torch.randn(3, ANCHORS) * 3, torch.randn(3, ANCHORS, 4)
    objectness = box = 0.0
    for n, target in enumerate(anchor_targets):
        for row, k in enumerate(target.positive.tolist()):
            objectness -= math.log(1 / (1 + math.exp(-logits[n, k].item())))
            for predicted, wanted in zip(deltas[n, k].tolist(), target.deltas[row].tolist(), strict=True):
                box += smooth_l1_literal(predicted - wanted, beta)
        for k in target.negative.tolist():
            objectness -= math.log(1 - 1 / (1 + math.exp(-logits[n, k].item())))
    expected = torch.tensor([objectness, box]) / (256 * 3)
    result = rpn_loss(logits, deltas, anchor_targets, batch=256, beta=beta)
    torch.testing.assert_close(torch.stack(result), expected, rtol=1e-4, atol=1e-7)
    weighted = rpn_loss(logits, deltas, anchor_targets, batch=256, beta=beta, box_weight=10)
    torch.testing.assert_close(torch.stack(weighted), expected * torch.tensor([1, 10]), rtol=1e-4, atol=1e-7)


def test_rpn_loss_equals_the_formulas_of_torchvision_but_for_the_normaliser(anchor_targets):
    """torchvision divides by the anchors that were sampled, here 30; we by the nominal mini-batch."""
    logits, deltas = torch.randn(3, ANCHORS) * 3, torch.randn(3, ANCHORS, 4)
    chosen = [torch.cat([t.positive, t.negative]) for t in anchor_targets]
    wanted = [torch.cat([torch.ones(len(t.positive)), torch.zeros(len(t.negative))]) for t in anchor_targets]
    sampled = torch.cat([row[k] for row, k in zip(logits, chosen, strict=True)])
    objectness = F.binary_cross_entropy_with_logits(sampled, torch.cat(wanted))
    of_positive = torch.cat([row[t.positive] for row, t in zip(deltas, anchor_targets, strict=True)])
    box_targets = torch.cat([t.deltas for t in anchor_targets])
    box = F.smooth_l1_loss(of_positive, box_targets, beta=1 / 9, reduction="sum") / len(sampled)
    result = rpn_loss(logits, deltas, anchor_targets, batch=256, beta=1 / 9)
    assert len(sampled) == 30
    torch.testing.assert_close(torch.stack(result) * 256 * 3 / 30, torch.stack([objectness, box]))


def test_rpn_loss_stays_finite_for_huge_logits(anchor_targets):
    logits = torch.full((3, ANCHORS), 1e4, requires_grad=True)
    objectness, _ = rpn_loss(logits, torch.zeros(3, ANCHORS, 4), anchor_targets, batch=256, beta=1 / 9)
    objectness.backward()
    assert objectness.item() == pytest.approx(1e4 * 25 / 768) and logits.grad.isfinite().all()


def test_every_image_needs_its_targets(anchor_targets):
    """A shorter list would leave images out unseen."""
    with pytest.raises(ValueError):
        rpn_loss(torch.zeros(3, ANCHORS), torch.zeros(3, ANCHORS, 4), anchor_targets[:2], batch=256, beta=1.0)


@pytest.mark.parametrize("beta", [1 / 9, 1.0])
def test_head_loss_equals_the_literal_loop(regions, beta):
    class_logits, box_deltas, classes, box_targets = regions
    classification = box = 0.0
    for r, label in enumerate(classes.tolist()):
        exponentials = [math.exp(value) for value in class_logits[r].tolist()]
        classification -= math.log(exponentials[label] / sum(exponentials))
        if label < CLASSES:  # background has no box
            for predicted, wanted in zip(box_deltas[r, label].tolist(), box_targets[r].tolist(), strict=True):
                box += smooth_l1_literal(predicted - wanted, beta)
    result = head_loss(*regions, 2, batch=128, beta=beta)
    torch.testing.assert_close(torch.stack(result), torch.tensor([classification, box]) / (128 * 2))


def test_head_loss_equals_torchvision_but_for_the_normaliser(regions):
    """torchvision divides by the regions that were sampled and puts background first."""
    class_logits, box_deltas, classes, box_targets = regions
    background_first = class_logits.roll(1, 1)
    with_background = torch.cat([torch.zeros(REGIONS, 4), box_deltas.flatten(1)], dim=1)
    labels = (classes + 1) % (CLASSES + 1)
    expected = fastrcnn_loss(background_first, with_background, [labels], [box_targets])
    result = head_loss(*regions, 2, batch=128, beta=1 / 9)
    torch.testing.assert_close(torch.stack(result) * 128 * 2 / REGIONS, torch.stack(expected))


def test_only_the_true_class_s_box_is_trained(regions):
    class_logits, box_deltas, classes, box_targets = regions
    box_deltas.requires_grad_()
    _, box = head_loss(class_logits, box_deltas, classes, box_targets, 2, batch=128, beta=1.0)
    box.backward()
    trained = box_deltas.grad.abs().sum(2) > 0  # (R, C)
    assert torch.equal(trained, F.one_hot(classes, CLASSES + 1)[:, :CLASSES].bool())


def test_losses_of_no_region_are_zero_and_differentiable():
    class_logits = torch.zeros(0, CLASSES + 1, requires_grad=True)
    box_deltas = torch.zeros(0, CLASSES, 4, requires_grad=True)
    losses = head_loss(class_logits, box_deltas, torch.zeros(0).long(), torch.zeros(0, 4), 2, batch=128, beta=1.0)
    sum(losses).backward()
    assert [loss.item() for loss in losses] == [0, 0]
    assert class_logits.grad is not None and box_deltas.grad is not None


def test_only_background_gives_no_box_loss(regions):
    class_logits, box_deltas, classes, box_targets = regions
    background = torch.full_like(classes, CLASSES)
    classification, box = head_loss(class_logits, box_deltas, background, box_targets, 2, batch=128, beta=1.0)
    assert classification > 0 and box == 0


def test_the_loss_of_each_region_sums_up_to_the_heads():
    class_logits, box_deltas = torch.randn(9, 4), torch.randn(9, 3, 4)
    classes, box_targets = torch.tensor([0, 1, 2, 3, 3, 0, 2, 3, 1]), torch.randn(9, 4)
    own = region_losses(class_logits, box_deltas, classes, box_targets, beta=0.5)
    whole = head_loss(class_logits, box_deltas, classes, box_targets, 1, batch=9, beta=0.5)
    torch.testing.assert_close(own.sum() / 9, sum(whole))
    for k in range(9):
        one = slice(k, k + 1)
        alone = head_loss(class_logits[one], box_deltas[one], classes[one], box_targets[one], 1, batch=1, beta=0.5)
        torch.testing.assert_close(own[k], sum(alone))
