"""Volumetric segmentation of CT and MRI with MONAI bundles."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("medseg3d")
