"""NIfTI written slice by slice, read back by nibabel, gzip and ITK."""

from __future__ import annotations

import gzip
import math
import subprocess
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medseg3d.dicom import nifti
from medseg3d.dicom.nifti import NIFTI_SUFFIXES, nifti_header, write_nifti
from medseg3d.errors import DicomError

OBLIQUE = np.array(
    [[-0.9 * 0.8, 0, 3 * 0.6, 12.5], [0, -0.7, 0, -40.25], [0.9 * 0.6, 0, 3 * 0.8, 7.0], [0, 0, 0, 1]], float
)


def voxels(dtype, shape=(13, 11, 7)) -> np.ndarray:
    rng = np.random.default_rng(3)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 1e3, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, endpoint=True, dtype=np.int64).astype(dtype)


def slices(volume):
    return (volume[..., k] for k in range(volume.shape[-1]))


@pytest.mark.parametrize("suffix", NIFTI_SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32])
def test_voxels_and_both_forms_come_back(tmp_path, suffix, dtype):
    volume, path = voxels(dtype), tmp_path / f"a{suffix}"
    write_nifti(path, nifti_header(volume.shape, OBLIQUE, dtype), slices(volume))
    image = nibabel.load(path)
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume)
    for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(form, OBLIQUE, atol=1e-5)
    assert image.header.get_xyzt_units() == ("mm", "unknown")
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


def test_itk_reads_the_same_place(tmp_path):
    volume = voxels(np.int16)
    write_nifti(tmp_path / "a.nii.gz", nifti_header(volume.shape, OBLIQUE, np.int16), slices(volume))
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, volume)
    position = image.TransformIndexToPhysicalPoint((12, 10, 6))
    np.testing.assert_allclose(position, ((np.diag([-1, -1, 1, 1]) @ OBLIQUE) @ [12, 10, 6, 1])[:3], atol=1e-4)


def test_a_sheared_grid_has_no_qform_that_lies():
    tilted = np.diag([-1.0, -1.0, 3.0, 1.0])
    tilted[1, 2] = -3 * math.tan(math.radians(10))
    header = nifti_header((64, 64, 20), tilted, np.int16)
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)
    np.testing.assert_allclose(header.get_best_affine(), tilted, atol=1e-5)
    # A shear below GRID_TOLERANCE_MM over the whole volume is what any rounding leaves.
    tilted[1, 2] = -0.001
    assert int(nifti_header((64, 64, 20), tilted, np.int16)["qform_code"]) == 1


def test_a_fourth_axis_is_in_seconds_where_they_are_known(tmp_path):
    volume = voxels(np.int16, (5, 4, 3, 2))
    header = nifti_header(volume.shape, OBLIQUE, np.int16, seconds=2.5)
    write_nifti(tmp_path / "a.nii.gz", header, (volume[..., k, t] for t in range(2) for k in range(3)))
    image = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume)
    assert image.header.get_zooms()[3] == 2.5
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert nifti_header(volume.shape, OBLIQUE, np.int16).get_xyzt_units() == ("mm", "unknown")


@pytest.mark.parametrize("threads", [1, 3])
def test_many_compressed_parts_are_one_stream(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(nifti, "CHUNK_BYTES", 500)
    volume = np.arange(40 * 30 * 20, dtype=np.int16).reshape(40, 30, 20)
    path = tmp_path / "a.nii.gz"
    write_nifti(path, nifti_header(volume.shape, OBLIQUE, np.int16), slices(volume), threads=threads)
    assert subprocess.run(["gzip", "--test", path], check=False).returncode == 0
    content = path.read_bytes()
    # One member: a reader that stops at the end of the first one has everything.
    whole = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    assert len(whole.decompress(content)) == 352 + volume.nbytes
    assert whole.eof
    assert whole.unused_data == b""
    assert gzip.decompress(content)[352:] == volume.tobytes(order="F")


def test_equal_volumes_are_equal_files(tmp_path):
    volume = voxels(np.int16)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, nifti_header(volume.shape, OBLIQUE, np.int16), slices(volume))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("count", [2, 8])
def test_a_wrong_number_of_slices_leaves_no_file(tmp_path, count):
    header = nifti_header((4, 4, 7), OBLIQUE, np.int16)
    with pytest.raises(DicomError, match=rf"a\.nii: {count} slices came, 7 were announced"):
        write_nifti(tmp_path / "a.nii", header, (np.zeros((4, 4), np.int16) for _ in range(count)))
    with pytest.raises(DicomError, match=r"slice 1 has 4×3 voxels, the volume 4×4"):
        write_nifti(tmp_path / "a.nii", header, iter([np.zeros((4, 3), np.int16)]))
    assert list(tmp_path.iterdir()) == []


def test_what_nifti_cannot_hold_is_refused():
    with pytest.raises(DicomError, match="40000×10×10 voxels: NIfTI allows 32767 along an axis"):
        nifti_header((40000, 10, 10), OBLIQUE, np.int16)
