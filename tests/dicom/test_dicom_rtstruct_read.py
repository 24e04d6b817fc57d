"""RTSTRUCT to masks: real structure sets against an independent rasterisation, and every fault by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as MatplotlibPath

from medseg3d.dicom.model import FileRef, SeriesGrid, SliceRef
from medseg3d.dicom.rtstruct_read import read_rtstruct
from medseg3d.geometry import lps_to_ras

SARCOMA = [(f"STS_{n:03}", modality) for n in range(1, 13) for modality in ("CT", "PET")]


def grid_of_folder(folder: Path) -> SeriesGrid:
    """A plain axial series as the test itself understands it."""
    images = sorted(
        (pydicom.dcmread(f, stop_before_pixels=True) for f in folder.iterdir()),
        key=lambda d: float(d.ImagePositionPatient[2]),
    )
    first, last = images[0], images[-1]
    row_mm, column_mm = map(float, first.PixelSpacing)
    affine_lps = np.diag([column_mm, row_mm, 1.0, 1.0])
    affine_lps[:3, 3] = first.ImagePositionPatient
    affine_lps[2, 2] = (last.ImagePositionPatient[2] - first.ImagePositionPatient[2]) / (len(images) - 1)
    slices = tuple(SliceRef(FileRef(Path(d.filename)), d.SOPClassUID, d.SOPInstanceUID) for d in images)
    return SeriesGrid(
        (first.Columns, first.Rows, len(images)), lps_to_ras(affine_lps), first.StudyInstanceUID,
        first.SeriesInstanceUID, first.FrameOfReferenceUID, slices,
    )  # fmt: skip


def masks_by_matplotlib(dataset: pydicom.Dataset, grid: SeriesGrid) -> np.ndarray:
    """Centres inside each contour by Agg's point-in-polygon, exclusive-or over the contours of a slice."""
    mask = np.zeros(grid.shape, bool)
    origin, spacing = grid.affine_lps[:3, 3], np.diag(grid.affine_lps)[:3]
    i, j = np.meshgrid(np.arange(grid.shape[0]), np.arange(grid.shape[1]), indexing="ij")
    centres_mm = np.stack([origin[0] + i * spacing[0], origin[1] + j * spacing[1]], axis=-1)
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        k = round((points[0, 2] - origin[2]) / spacing[2])
        near = ((centres_mm > points[:, :2].min(0)) & (centres_mm < points[:, :2].max(0))).all(-1)
        inside = MatplotlibPath(np.vstack([points[:, :2], points[:1, :2]])).contains_points(centres_mm[near])
        mask[near, k] ^= inside
    return mask


@pytest.mark.real_data
@pytest.mark.parametrize(("patient", "modality"), SARCOMA)
def test_real_contours_are_filled_as_by_an_independent_even_odd_rule(data_dir, patient, modality):
    folder = data_dir / "ct_pet_mr_sarcoma" / patient / modality
    grid = grid_of_folder(folder / "image")
    (file,) = (folder / "mask").iterdir()
    annotation = read_rtstruct(file, grid)
    (segment,) = annotation.segments
    expected = masks_by_matplotlib(pydicom.dcmread(file), grid)
    assert expected.sum() > 100
    np.testing.assert_array_equal(segment.mask, expected)
    assert segment.meaning == "GTV"
    assert {f.code for f in annotation.findings} <= {"missing_source_slices", "holes", "outside_series"}
