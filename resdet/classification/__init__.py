"""Image classification with the residual networks: what is trained before a detector."""
