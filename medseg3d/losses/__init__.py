"""Losses that MONAI lacks."""

from medseg3d.losses.classification import ClassificationLoss
from medseg3d.losses.deep_supervision import StackedDeepSupervisionLoss
from medseg3d.losses.segmentation import SegmentationLoss

__all__ = ["ClassificationLoss", "SegmentationLoss", "StackedDeepSupervisionLoss"]
