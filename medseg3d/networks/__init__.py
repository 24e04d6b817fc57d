"""Networks that bundles name with ``_target_`` beside MONAI's own."""

from medseg3d.networks.segmenters2d import segmenter2d
from medseg3d.networks.slicewise import SliceWise

__all__ = ["SliceWise", "segmenter2d"]
