"""Measures of a segmentation against a reference: arrays in, numbers out. No torch."""

from medseg3d.metrics.overlap import LabelOverlap, dice, label_overlaps

__all__ = ["LabelOverlap", "dice", "label_overlaps"]
