"""From images to masks: find cases, predict by sliding window, go back to the image's own grid, correct, write."""

from __future__ import annotations

from medseg3d.inference.cases import find_cases
from medseg3d.inference.detector import ObjectDetector, evaluate_detections
from medseg3d.inference.ensemble import Partner
from medseg3d.inference.first_stage import FirstStaged
from medseg3d.inference.grid import ToImageGridd
from medseg3d.inference.images2d import find_images
from medseg3d.inference.postprocess import FillHolesd, KeepLargestComponentd, RemoveSmallComponentsd
from medseg3d.inference.regions import ToLabelsd
from medseg3d.inference.report import CaseResult, SegmentReport
from medseg3d.inference.segmenter import Segmenter
from medseg3d.inference.segmenter2d import Segmenter2d
from medseg3d.inference.sliding import SlidingWindow
from medseg3d.inference.tiles import TiledImage, WholeImage
from medseg3d.inference.weights import load_weights

__all__ = [
    "CaseResult",
    "FillHolesd",
    "FirstStaged",
    "KeepLargestComponentd",
    "ObjectDetector",
    "Partner",
    "RemoveSmallComponentsd",
    "SegmentReport",
    "Segmenter",
    "Segmenter2d",
    "SlidingWindow",
    "TiledImage",
    "ToImageGridd",
    "ToLabelsd",
    "WholeImage",
    "evaluate_detections",
    "find_cases",
    "find_images",
    "load_weights",
]
