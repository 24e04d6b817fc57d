"""Small CT series and masks that the tests of DICOM SEG share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from medseg3d.dicom.model import SeriesGrid
from medseg3d.phantom.dicom import Patient, write_ct_series

# 143 pixels a frame: no multiple of 8, so that the frames of a binary SEG do not begin at a byte.
SHAPE = (13, 11, 6)
LABELS = {"liver": 1, "left_kidney": 2, "tumour": 3}
DCMQI = Path(sys.executable).parent / "segimage2itkimage"


def affine_of(*, angles_deg=(0.0, 0.0, 0.0), spacing_mm=(0.8, 0.9, 3.0), mirror=1) -> np.ndarray:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag([mirror * spacing_mm[0], *spacing_mm[1:]])
    affine[:3, 3] = (-71.5, 33.25, 412.0)
    return affine


def make_series(folder: Path, shape=SHAPE, affine=None, patient="SEG-TEST") -> SeriesGrid:
    voxels = np.zeros(shape, np.int16)
    return write_ct_series(voxels, affine_of() if affine is None else affine, folder, patient=Patient(patient))


def make_mask(shape=SHAPE) -> np.ndarray:
    """A shell with a hole, a structure in two parts, one voxel in a corner; the last label's slices are sparse."""
    mask = np.zeros(shape, np.uint8)
    mask[1:7, 1:7, 1:5] = 1
    mask[3:5, 3:5, 2:4] = 0
    mask[8:10, 2:4, 0] = mask[8:11, 6:9, 4] = 2
    mask[-1, -1, -1] = 3
    return mask


def masks_by_dcmqi(seg: Path, folder: Path) -> dict[int, sitk.Image]:
    """Segment number → image, as dcmqi's converter reads them."""
    folder.mkdir()
    command = [DCMQI, "--inputDICOM", seg, "--outputDirectory", folder, "-t", "nrrd", "-p", "segment"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    images = [sitk.ReadImage(str(file)) for file in sorted(folder.glob("*.nrrd"))]
    found = {}
    for image in images:
        values = np.unique(sitk.GetArrayViewFromImage(image))
        for value in values[values > 0].tolist():
            found[value] = sitk.Equal(image, value)
    return found


def on_grid(image: sitk.Image, grid: SeriesGrid) -> np.ndarray:
    """The image's voxels on ``grid`` by their places in mm; every voxel's place must be that of a voxel of the grid."""
    places = np.argwhere(sitk.GetArrayViewFromImage(image))[:, ::-1]
    points = [image.TransformIndexToPhysicalPoint([int(n) for n in place]) for place in places]
    mask = np.zeros(grid.shape, bool)
    if points:
        exact = np.linalg.inv(grid.affine_lps)[:3] @ np.c_[points, np.ones(len(points))].T
        np.testing.assert_allclose(exact, np.rint(exact), atol=0.02)
        mask[tuple(np.rint(exact).astype(int))] = True
    return mask
