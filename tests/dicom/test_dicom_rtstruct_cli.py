"""``medseg3d dicom rtstruct``: what it writes, what it refuses, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.rtstruct_read import read_rtstruct
from medseg3d.errors import CaseError, GeometryError, UsageError
from medseg3d.phantom.dicom import Patient, write_ct_series


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, SeriesGrid, np.ndarray]:
    """A folder with ct/ and masks/case.nii.gz with its sidecar, the grid, and the mask on it."""
    affine_ras = np.array([[-0.9, 0, 0, 80], [0, -0.9, 0, 60], [0, 0, 2.5, -400], [0, 0, 0, 1.0]])
    grid = write_ct_series(np.zeros((20, 16, 5), np.int16), affine_ras, tmp_path / "ct", patient=Patient("P1"))
    mask = np.zeros(grid.shape, np.uint8)
    mask[3:12, 2:12, 1:4] = 1
    mask[5:9, 5:9, 2] = 0
    mask[14, 3, 2] = 2
    # As a NIfTI tool stores it: RAS, so with other axis directions than the series.
    stored = nibabel.as_closest_canonical(nibabel.Nifti1Image(mask, grid.affine_ras))
    (tmp_path / "masks").mkdir()
    nibabel.save(stored, tmp_path / "masks" / "case.nii.gz")
    return tmp_path, grid, mask


def sidecar(folder: Path, **content: object) -> None:
    (folder / "masks" / "case.json").write_text(json.dumps(content), encoding="utf-8")


def run(folder: Path, *options: str, mask: str = "case.nii.gz"):
    command = ["dicom", "rtstruct", str(folder / "masks" / mask), "--series", str(folder / "ct"),
               "-o", str(folder / "out" / "rs.dcm"), *options]  # fmt: skip
    return CliRunner().invoke(app, command)


def test_labels_come_from_the_sidecar_and_the_mask_comes_back(study):
    folder, grid, mask = study
    sidecar(folder, labels={"liver": 1, "tumour": 2}, bundle="ct_organ_segmentation", bundle_version="0.3.0")
    done = run(folder)
    assert done.exit_code == 0, done.output
    assert "rs.dcm: written." in done.output
    for segment in read_rtstruct(folder / "out" / "rs.dcm", grid).segments:
        np.testing.assert_array_equal(segment.mask, mask == segment.number)
    dataset = pydicom.dcmread(folder / "out" / "rs.dcm")
    assert dataset.StructureSetROISequence[0].ROIGenerationDescription == "ct_organ_segmentation 0.3.0"
    assert [p.name for p in (folder / "out").iterdir()] == ["rs.dcm"]


def test_labels_may_be_given_and_empty_ones_are_told(study):
    folder, _, _ = study
    done = run(folder, "--labels", "liver=1", "--labels", "GTV 1=2", "--labels", "spleen=3", "--description", "Review")
    assert done.exit_code == 0, done.output
    assert "note: empty segment: No voxel is spleen" in done.output
    dataset = pydicom.dcmread(folder / "out" / "rs.dcm")
    assert [r.ROIName for r in dataset.StructureSetROISequence] == ["liver", "GTV 1", "spleen"]
    assert dataset.SeriesDescription == "Review"


def test_holes_may_be_contours_of_their_own(study):
    folder, grid, mask = study
    done = run(folder, "--labels", "liver=1", "--labels", "tumour=2", "--holes", "xor")
    assert done.exit_code == 0, done.output
    contours = pydicom.dcmread(folder / "out" / "rs.dcm").ROIContourSequence[0].ContourSequence
    assert [c.ContourGeometricType for c in contours] == ["CLOSEDPLANAR_XOR"] * 4
    assert read_rtstruct(folder / "out" / "rs.dcm", grid).segments[0].count == (mask == 1).sum()


def test_labels_that_nobody_names_are_asked_for(study):
    done = run(study[0])
    assert isinstance(done.exception, UsageError)
    assert "there is no case.json beside it that says so. Give the labels" in str(done.exception)


def test_a_mask_on_another_grid_is_refused_with_the_distance(study):
    folder, _, _ = study
    image = nibabel.load(folder / "masks" / "case.nii.gz")
    affine = image.affine.copy()
    affine[2, 3] += 2.5
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), folder / "masks" / "moved.nii.gz")
    done = run(folder, "--labels", "liver=1", "--labels", "tumour=2", mask="moved.nii.gz")
    assert isinstance(done.exception, GeometryError)
    assert "lies up to 2.50 mm away from the series" in str(done.exception)
    assert not (folder / "out").exists()


def test_a_folder_without_images_and_a_mask_as_output_are_refused(study):
    folder, _, _ = study
    (folder / "empty").mkdir()
    mask = str(folder / "masks" / "case.nii.gz")
    done = CliRunner().invoke(app, ["dicom", "rtstruct", mask, "--series", str(folder / "empty"), "-o", "x.dcm"])
    assert isinstance(done.exception, CaseError)
    assert "no DICOM images here" in str(done.exception)
    done = CliRunner().invoke(app, ["dicom", "rtstruct", mask, "--series", str(folder / "ct"), "-o", mask])
    assert isinstance(done.exception, UsageError)
    assert "is the mask itself: name another file" in str(done.exception)
