"""Measures of a segmentation against a reference: arrays in, numbers out. No torch."""

from medseg3d.metrics.calibration import Calibration, ReliabilityBin, calibration
from medseg3d.metrics.case import CaseScores, score_labels
from medseg3d.metrics.dataset import DatasetCounts, count_labels
from medseg3d.metrics.lesions import Lesion, LesionScores, score_lesions
from medseg3d.metrics.overlap import LabelOverlap, dice, label_overlaps
from medseg3d.metrics.regions import Region, as_regions
from medseg3d.metrics.surface import SurfaceDistances, surfel_distances, voxel_surface_distances

__all__ = [
    "Calibration",
    "CaseScores",
    "DatasetCounts",
    "LabelOverlap",
    "Lesion",
    "LesionScores",
    "Region",
    "ReliabilityBin",
    "SurfaceDistances",
    "as_regions",
    "calibration",
    "count_labels",
    "dice",
    "label_overlaps",
    "score_labels",
    "score_lesions",
    "surfel_distances",
    "voxel_surface_distances",
]
