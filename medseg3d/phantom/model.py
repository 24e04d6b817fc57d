"""What a phantom case is: its modality, labels and arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg3d.geometry import Affine

__all__ = [
    "AXIAL",
    "FAR_MM",
    "LABELS",
    "LESION_FRACTION",
    "MIN_SIZE",
    "REFORMATTED",
    "TUMOUR_CHANNELS",
    "TUMOUR_LABELS",
    "TUMOUR_REGIONS",
    "Field",
    "Modality",
    "PhantomCase",
    "Size",
]

Modality = Literal["ct", "mri", "mri_tumor"]
Size = tuple[int, int, int]
Field = NDArray[np.float32]

LABELS = {
    "liver": 1,
    "spleen": 2,
    "left_kidney": 3,
    "right_kidney": 4,
    "aorta": 5,
    "lungs": 6,
    "spine": 7,
    "lesion": 8,
}
TUMOUR_LABELS = {"necrotic_core": 1, "oedema": 2, "enhancing": 3}
TUMOUR_REGIONS = {"whole_tumour": [1, 2, 3], "tumour_core": [1, 3], "enhancing_tumour": [3]}
TUMOUR_CHANNELS = {"T1": "t1", "T1c": "t1ce", "T2": "t2", "FLAIR": "flair"}  # and how their files end, as in BraTS
MIN_SIZE: Size = (32, 32, 16)  # below this a voxel is wider than the aorta
LESION_FRACTION = 0.6

AXIAL = ("RAS", "LPS", "LAS", "RPS", "LPI", "RAI")
REFORMATTED = ("RSA", "LIP", "PIR", "ASL")
FAR_MM = 1e3


@dataclass(frozen=True)
class PhantomCase:
    """One synthetic study; image and label share one grid.

    Attributes:
        image: int16 Hounsfield units (CT) or float32 in arbitrary units (MRI); of brains with a first axis of the
            channels T1, T1c, T2 and FLAIR.
        label: uint8 ids as in ``LABELS``, or ``TUMOUR_LABELS``.
        affine: 4×4, voxel index to mm in RAS+.
    """

    image: NDArray[Any]
    label: NDArray[np.uint8]
    affine: Affine
