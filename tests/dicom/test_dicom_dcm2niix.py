"""The same series converted by dcm2niix, which shares no code with this importer: voxels, places, gradients."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from medseg3d.dicom import ConvertOptions, convert

pytestmark = pytest.mark.real_data

AFFINE_TOLERANCE_MM = 1e-3
# dcm2niix multiplies in float32, this importer in float64 and rounds to float32: some units in the last place.
FLOAT_TOLERANCE = 2.0**-21
# Philips has two scales, "precise" and "displayed"; RescaleSlope is the second. (Not for PET: dcm2niix then takes the
# slope of one slice for all.)
AS_DISPLAYED = ("-p", "n")
SARCOMA = [f"STS_{number:03}" for number in range(1, 13)]


@pytest.fixture(scope="module")
def dcm2niix() -> str:
    beside = Path(sys.executable).with_name("dcm2niix")
    found = str(beside) if beside.is_file() else shutil.which("dcm2niix")
    if found is None:
        pytest.skip("dcm2niix is not installed (pip install dcm2niix)")
    return found


def by_dcm2niix(program: str, source: Path, folder: Path, *options: str) -> Path:
    """The NIfTI that dcm2niix makes of a folder with one series."""
    folder.mkdir()
    command = [program, "-z", "n", *options, "-f", "volume", "-o", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (image,) = folder.glob("*.nii")
    return image


def by_us(source: Path, folder: Path, **options) -> Path:
    (result,) = convert(source, folder, options=ConvertOptions(suffix=".nii", **options))
    assert result.image is not None, result.findings
    return result.image


def canonical(path: Path) -> nibabel.Nifti1Image:
    return nibabel.as_closest_canonical(nibabel.load(path))


@pytest.mark.parametrize("patient", SARCOMA)
@pytest.mark.parametrize("modality", ["CT", "PET"])
def test_ct_and_pet_are_equal_in_voxels_and_place(data_dir, tmp_path, dcm2niix, patient, modality):
    source = data_dir / "ct_pet_mr_sarcoma" / patient / modality / "image"
    theirs = canonical(by_dcm2niix(dcm2niix, source, tmp_path / "dcm2niix"))
    ours = canonical(by_us(source, tmp_path / "medseg3d"))
    assert_allclose(ours.affine, theirs.affine, rtol=0, atol=AFFINE_TOLERANCE_MM)
    if modality == "CT":
        assert ours.get_data_dtype() == np.int16
        assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))
    else:
        assert_allclose(ours.get_fdata(), theirs.get_fdata(), rtol=FLOAT_TOLERANCE)


def directions_ras(image: Path) -> np.ndarray:
    """Gradients of a volume in patient axes, from its bvec as FSL reads it: (n, 3)."""
    affine = nibabel.load(image).affine[:3, :3]
    vectors = np.loadtxt(image.with_suffix(".bvec"))
    if np.linalg.det(affine) > 0:
        vectors[0] *= -1
    return (affine / np.linalg.norm(affine, axis=0) @ vectors).T


@pytest.mark.parametrize("name", ["001", "001_implicit"])
def test_diffusion_is_equal_in_voxels_weights_and_directions(data_dir, tmp_path, dcm2niix, name):
    source = data_dir / "dicom_conformance/dicom2nifti/philips_enhanced/dti" / name
    theirs = by_dcm2niix(dcm2niix, source, tmp_path / "dcm2niix", *AS_DISPLAYED)
    ours = by_us(source, tmp_path / "medseg3d", four_d=True)
    # dcm2niix puts the unweighted volume last, here it is the first.
    order = [3, 0, 1, 2]
    assert_array_equal(np.loadtxt(ours.with_suffix(".bval")), np.loadtxt(theirs.with_suffix(".bval"))[order])
    reference = np.loadtxt(source.with_name(f"{name}_ground_truth.bval"))
    assert_array_equal(np.loadtxt(ours.with_suffix(".bval")), reference)
    # dicom2nifti's own bvec holds the directions in LPS, whatever the image's axes are; dcm2niix follows FSL.
    assert_allclose(directions_ras(ours), directions_ras(theirs)[order], atol=1e-5)
    lps = np.loadtxt(source.with_name(f"{name}_ground_truth.bvec")).T
    assert_allclose(directions_ras(ours), lps * [-1, -1, 1], atol=1e-5)
    ours_image, theirs_image = canonical(ours), canonical(theirs)
    assert_allclose(ours_image.affine, theirs_image.affine, rtol=0, atol=AFFINE_TOLERANCE_MM)
    assert_allclose(ours_image.get_fdata(), theirs_image.get_fdata()[..., order], rtol=1e-5)


def test_a_time_series_has_its_step(data_dir, tmp_path, dcm2niix):
    source = data_dir / "dicom_conformance/dicom2nifti/philips_enhanced/fmri/001"
    theirs = by_dcm2niix(dcm2niix, source, tmp_path / "dcm2niix", *AS_DISPLAYED)
    ours = by_us(source, tmp_path / "medseg3d", four_d=True)
    assert nibabel.load(ours).header.get_zooms()[3] == nibabel.load(theirs).header.get_zooms()[3] == 3.0
    assert_allclose(canonical(ours).get_fdata(), canonical(theirs).get_fdata(), rtol=1e-5)
