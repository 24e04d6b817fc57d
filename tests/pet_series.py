"""A PET series in SUV, made of a phantom's CT files: in their study and frame of reference, on a grid of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from medseg3d.dicom.model import SeriesGrid
from medseg3d.phantom.dicom import Patient, write_ct_series

SLOPE = 0.01
PET_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.128"


def write_pet_series(
    suv: NDArray[Any], affine_ras: NDArray[Any], folder: Path, *, patient: Patient, **changes: Any
) -> SeriesGrid:
    """Write ``suv``, rounded to hundredths; ``changes`` are attributes that every file gets in the end."""
    stored = np.rint(np.asarray(suv) / SLOPE).astype(np.int16)
    grid = write_ct_series(stored - 1024, affine_ras, folder, patient=patient)
    for path in folder.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = PET_IMAGE_STORAGE
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SOPInstanceUID[:60]}.9"
        dataset.SeriesInstanceUID = f"{dataset.SeriesInstanceUID[:60]}.9"
        dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = "PT", 2, "Phantom PET"
        dataset.Units, dataset.RescaleSlope, dataset.RescaleIntercept = "GML", SLOPE, 0
        del dataset.RescaleType
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)
    return grid
