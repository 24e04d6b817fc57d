"""Volumetric segmentation of CT and MRI with MONAI bundles.

Submodules load when they are first named (``medseg3d.datalist``, ``medseg3d.engines``, …): ``import medseg3d`` is
instant, and a bundle's expressions need one import line.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from types import ModuleType

SUBMODULES = (
    "augmentation",
    "bundles",
    "crossval",
    "data",
    "datalist",
    "demo",
    "dicom",
    "engines",
    "errors",
    "evaluation",
    "freezing",
    "geometry",
    "images",
    "imbalance",
    "inference",
    "labels",
    "losses",
    "metrics",
    "networks",
    "phantom",
    "plan",
    "report",
    "statistics",
    "transforms",
    "transforms2d",
    "volume",
)

__all__ = ["__version__", *SUBMODULES]

__version__ = version("medseg3d")


def __getattr__(name: str) -> ModuleType:
    if name in SUBMODULES:
        return import_module(f"medseg3d.{name}")
    raise AttributeError(f"module 'medseg3d' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
