"""Residual networks as classifiers: nothing in here knows of detection."""
