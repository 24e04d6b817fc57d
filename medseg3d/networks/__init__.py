"""Networks that bundles name with ``_target_`` beside MONAI's own."""

from medseg3d.networks.slicewise import SliceWise

__all__ = ["SliceWise"]
