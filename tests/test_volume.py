"""Reading volumes: the voxels and millimetres that were written, or a reason."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg3d.errors import CaseError, GeometryError
from medseg3d.geometry import grid_distance_mm
from medseg3d.volume import (
    Volume,
    case_name,
    label_map,
    read_channels,
    read_geometry,
    read_volume,
    require_same_grid,
)

ON_DISK = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
SPACINGS = st.tuples(*[st.floats(0.3, 6.0)] * 3)
ORIGINS = st.tuples(*[st.floats(-500, 500)] * 3)


def voxels(shape=(5, 6, 7), dtype=np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def affine_of(angles, spacing, origin) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    return affine


def write_nifti(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@ON_DISK
@given(angles=ANGLES, spacing=SPACINGS, origin=ORIGINS, suffix=st.sampled_from([".nii", ".nii.gz"]))
def test_nifti_comes_back_with_its_voxels_and_affine(tmp_path, angles, spacing, origin, suffix):
    affine = affine_of(angles, spacing, origin)
    path = write_nifti(tmp_path / f"a{suffix}", voxels(), affine)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, voxels())
    assert volume.voxels.dtype == np.int16
    assert grid_distance_mm(volume.affine, affine, voxels().shape) < 1e-3
    assert volume.spacing_mm == pytest.approx(spacing, rel=1e-4)
    assert volume.path == path


@ON_DISK
@given(angles=ANGLES, spacing=SPACINGS, origin=ORIGINS, suffix=st.sampled_from([".nrrd", ".mha", ".mhd"]))
def test_nrrd_and_metaimage_agree_with_the_nifti_that_simpleitk_writes(tmp_path, angles, spacing, origin, suffix):
    image = sitk.GetImageFromArray(voxels())
    image.SetDirection(Rotation.from_euler("xyz", angles, degrees=True).as_matrix().ravel())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    sitk.WriteImage(image, str(tmp_path / "b.nii.gz"))
    read, oracle = read_volume(tmp_path / f"a{suffix}"), nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(read.voxels, np.asanyarray(oracle.dataobj))
    assert grid_distance_mm(read.affine, oracle.affine, read.voxels.shape) < 1e-3


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_geometry_from_the_header_equals_that_of_the_volume(tmp_path, suffix):
    image = sitk.GetImageFromArray(voxels())
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((10, 20, -30))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    shape, affine = read_geometry(tmp_path / f"a{suffix}")
    volume = read_volume(tmp_path / f"a{suffix}")
    assert shape == volume.voxels.shape == (7, 6, 5)
    np.testing.assert_array_equal(affine, volume.affine)
    np.testing.assert_allclose(affine[:3, 3], (-10, -20, -30), atol=1e-5)


def test_geometry_of_a_nrrd_needs_no_voxels(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(voxels((64, 64, 64))), str(tmp_path / "a.nrrd"))
    (tmp_path / "a.nrrd").write_bytes((tmp_path / "a.nrrd").read_bytes()[:1000])
    assert read_geometry(tmp_path / "a.nrrd")[0] == (64, 64, 64)
    with pytest.raises(CaseError, match=r"a.nrrd: not readable .* Is it complete\?"):
        read_volume(tmp_path / "a.nrrd")


def test_a_scaled_nifti_gives_the_scaled_values(tmp_path):
    # nibabel would rescale on saving, so the header is written by hand: value = 0.5 · stored - 100.
    header = nibabel.Nifti1Image(voxels(), np.eye(4)).header
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = 0.5, -100.0, 352
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + voxels().tobytes(order="F"))
    volume = read_volume(tmp_path / "a.nii")
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, 0.5 * voxels() - 100)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.uint8, np.uint8), (np.float32, np.float32), (np.float64, np.float32)]
)
def test_types_are_the_files_and_floats_are_float32(tmp_path, dtype, expected):
    assert read_volume(write_nifti(tmp_path / "a.nii", voxels(dtype=dtype))).voxels.dtype == expected


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_fourth_axis_of_length_one_is_dropped(tmp_path, suffix):
    image = sitk.JoinSeries(sitk.GetImageFromArray(voxels()))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    assert read_geometry(tmp_path / f"a{suffix}")[0] == (7, 6, 5)
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").voxels, voxels().T)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("read", [read_volume, read_geometry])
def test_time_series_are_refused(tmp_path, suffix, read):
    image = sitk.JoinSeries([sitk.GetImageFromArray(voxels())] * 3)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    with pytest.raises(CaseError, match=r"7×6×5×3 voxels, 4 axes; a volume has three. Write one file a channel"):
        read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("suffix", "message"), [(".nrrd", "2 components a voxel"), (".mha", "2 components a voxel"), (".nii.gz", "5 axes")]
)
@pytest.mark.parametrize("read", [read_volume, read_geometry])
def test_images_of_two_components_are_refused(tmp_path, suffix, message, read):
    image = sitk.GetImageFromArray(np.zeros((4, 4, 4, 2), np.float32), isVector=True)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    with pytest.raises(CaseError, match=message):
        read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_colours_and_complex_numbers_are_refused(tmp_path, dtype):
    write_nifti(tmp_path / "a.nii", np.zeros((3, 3, 3), dtype))
    with pytest.raises(CaseError, match=r"a.nii: voxels are colours or complex numbers .*: write plain numbers"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("read", [read_volume, read_geometry])
def test_a_missing_file_and_an_unknown_suffix_are_named(tmp_path, read):
    with pytest.raises(CaseError, match=r"missing.nii.gz: no such file"):
        read(tmp_path / "missing.nii.gz")
    (tmp_path / "a.dcm").write_bytes(b"x")
    with pytest.raises(CaseError, match=r"a.dcm: not a volume that can be read here; known are .nii, .nii.gz, .nrrd"):
        read(tmp_path / "a.dcm")


def test_a_truncated_nii_gz_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 1000, (32, 32, 32)).astype(np.int16)
    path = write_nifti(tmp_path / "a.nii.gz", noise)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(CaseError, match=r"a.nii.gz: the voxels cannot be read .* probably truncated: copy it again"):
        read_volume(path)
    assert read_geometry(path)[0] == (32, 32, 32)


@pytest.mark.parametrize("kept", [0, 100, 352, 500])
def test_a_truncated_nii_is_refused(tmp_path, kept):
    path = write_nifti(tmp_path / "a.nii", voxels())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CaseError, match=r"a.nii: "):
        read_volume(path)


@pytest.mark.parametrize("content", [b"not a nifti" * 50, gzip.compress(b"neither" * 100), b""])
def test_what_is_no_nifti_is_refused(tmp_path, content):
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(CaseError, match=r"a.nii.gz: not a readable NIfTI file .* Is it complete\?"):
        read_volume(tmp_path / "a.nii.gz")


def test_damaged_headers_end_in_a_reason_and_never_in_another_error(tmp_path):
    raw = write_nifti(tmp_path / "a.nii", voxels()).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(raw)
        for position in rng.integers(0, 352, rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        (tmp_path / "b.nii").write_bytes(damaged)
        try:
            assert read_volume(tmp_path / "b.nii").voxels.ndim == 3
        except CaseError:
            refused += 1
    assert 0 < refused < 400


def test_an_affine_without_volume_is_refused_with_the_files_name(tmp_path):
    image = nibabel.Nifti1Image(voxels(), None)
    image.header["sform_code"] = 1
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = (1, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0)
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + bytes(4) + voxels().tobytes())
    with pytest.raises(GeometryError, match=r"a.nii: The affine is singular"):
        read_volume(tmp_path / "a.nii")


def test_channels_are_stacked_in_order(tmp_path):
    paths = [write_nifti(tmp_path / f"{i}.nii.gz", voxels() + i) for i in range(2)]
    volume = read_channels(paths)
    assert volume.voxels.shape == (2, 5, 6, 7)
    np.testing.assert_array_equal(volume.voxels[1], voxels() + 1)
    assert volume.path == paths[0]
    assert read_channels(paths[0]).voxels.shape == (1, 5, 6, 7)
    assert read_channels(str(paths[0])).voxels.shape == (1, 5, 6, 7)


def test_no_channel_at_all_is_refused():
    with pytest.raises(CaseError, match="channels is empty: name one file a channel"):
        read_channels([])


def test_channels_on_different_grids_are_refused_in_millimetres(tmp_path):
    shifted = np.eye(4)
    shifted[2, 3] = 0.7
    paths = [write_nifti(tmp_path / "t1.nii", voxels()), write_nifti(tmp_path / "t2.nii", voxels(), shifted)]
    with pytest.raises(GeometryError, match=r"t2.nii lies up to 0.70 mm away from t1.nii \(tolerance 0.05 mm\)"):
        read_channels(paths)


def test_grids_of_different_shape_are_refused_and_rounding_is_not():
    named = [Volume(voxels(), np.eye(4), Path("a")), Volume(voxels((5, 6, 8)), np.eye(4), Path("b"))]
    with pytest.raises(GeometryError, match=r"b has 5×6×8 voxels, a 5×6×7. Resample one onto the other's grid"):
        require_same_grid(*named)
    rounded = Volume(voxels()[None], np.eye(4) + 0.001 * np.eye(4, k=3), Path("c"))
    require_same_grid(named[0], rounded)


def labels_of(array) -> np.ndarray:
    return label_map(Volume(np.asarray(array), np.eye(4), Path("label.nii")))


@pytest.mark.parametrize(
    ("values", "dtype"), [([0.0, 1.0, 255.0], np.uint8), ([0, 256], np.int16), (np.array([0, 32767], ">i4"), np.int16)]
)
def test_label_maps_are_the_smallest_integers_that_hold_them(values, dtype):
    converted = labels_of(values)
    assert converted.dtype == dtype
    assert converted.tolist() == list(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 0.5], "label.nii: label values are not integers. Was it resampled by interpolation"),
        ([0, np.nan], "not integers"),
        ([-1, 3], "label ids from -1 to 3; 0 to 32767 are possible"),
        ([0, 40000], "label ids from 0 to 40000"),
        ([0, np.inf], "label ids from 0 to inf"),
    ],
)
def test_what_cannot_be_a_label_is_refused(values, message):
    with pytest.raises(CaseError, match=message):
        labels_of(values)


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/liver_01.nii.gz", "liver_01"), ("B.NII.GZ", "B"), ("x.y.nrrd", "x.y"), ("z.mha", "z"), ("table.csv", "table")],
)
def test_case_names_lose_only_the_suffix(path, name):
    assert case_name(path) == name
