"""Faster R-CNN: anchors, proposals, targets, losses and heads."""
