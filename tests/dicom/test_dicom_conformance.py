"""Real series of four vendors against reference volumes of other converters (see the data folder's README)."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from medseg3d.dicom import DicomVolume, Series, read_series, read_stack, scan
from medseg3d.errors import DicomError

pytestmark = pytest.mark.real_data

AFFINE_TOLERANCE_MM = 1e-3
# Integers are compared exactly. Rescaled values are rounded to float32 on both sides, half a unit in the last place
# each: 2^-23 together.
FLOAT_TOLERANCE = 2.0**-23

DICOM2NIFTI = [
    "anatomical/001",
    "anatomical/001_implicit",
    "failing/slicecount/001",
    "generic/anatomical/001",
    "generic/anatomical/001_implicit",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
    "hitachi/anatomical/001",
    "hitachi/anatomical/001_implicit",
    "hyperfine/anatomical/001",
    "philips_enhanced/anatomical/001",
    "philips_enhanced/anatomical/001_implicit",
    "philips_enhanced/fmri/001",
    "philips_enhanced/fmri/001_implicit",
    "siemens/anatomical/001",
    "siemens/anatomical/001_implicit",
    "siemens_multiframe/anatomical/001",
]
TRANSFER_SYNTAXES = range(1, 10)


@pytest.fixture
def conformance(data_dir: Path) -> Path:
    return data_dir / "dicom_conformance"


def volumes_of(path: Path) -> list[DicomVolume]:
    return [read_stack(stack) for stack in only_series(path).stacks]


def only_series(path: Path) -> Series:
    (series,) = scan(path).series
    return series


def canonical(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels.astype(np.float64), affine))
    return image.get_fdata(), image.affine


def assert_equals_reference(volumes: list[DicomVolume], reference: Path) -> None:
    image = nibabel.as_closest_canonical(nibabel.load(reference))
    expected = image.get_fdata().reshape(*image.shape[:3], -1)
    stacked = np.stack([v.voxels for v in volumes], axis=-1)
    voxels, affine = canonical(stacked, volumes[0].grid.affine_ras)
    assert_allclose(affine, image.affine, rtol=0, atol=AFFINE_TOLERANCE_MM)
    if stacked.dtype.kind == "f":
        assert_allclose(voxels, expected, rtol=FLOAT_TOLERANCE)
    else:
        assert_array_equal(voxels, expected)


@pytest.mark.parametrize("name", DICOM2NIFTI)
def test_equals_dicom2nifti(conformance: Path, name: str) -> None:
    reference = conformance / "dicom2nifti" / f"{name}_ground_truth.nii.gz"
    assert_equals_reference(volumes_of(conformance / "dicom2nifti" / name), reference)


@pytest.mark.parametrize("number", TRANSFER_SYNTAXES)
def test_every_transfer_syntax_decodes_a_mosaic_as_dcm2niix_does(conformance: Path, number: int) -> None:
    volumes = volumes_of(conformance / f"dcm_qa_ts/In/{number}.dcm")
    assert_equals_reference(volumes, conformance / f"dcm_qa_ts/Ref/{number}.nii")
    assert_equals_reference(volumes, conformance / f"dcm_qa_ts/Ref_dcm2niix/{number}_ax_asc_35sl.nii.gz")


def test_the_transfer_syntaxes_are_what_they_should_be(conformance: Path) -> None:
    found = {only_series(conformance / f"dcm_qa_ts/In/{n}.dcm").transfer_syntaxes[0] for n in TRANSFER_SYNTAXES}
    explicit, implicit, big_endian = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
    lossless, jpeg_ls = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"
    jpeg_2000, rle = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
    assert found == {explicit, implicit, big_endian, lossless, jpeg_ls, jpeg_2000, rle}


def test_all_transfer_syntaxes_decode_to_equal_voxels(conformance: Path) -> None:
    """The nine files share a SeriesInstanceUID: nine volumes of one series, each a mosaic of its own."""
    first, *others = volumes_of(conformance / "dcm_qa_ts/In")
    assert len(others) == 8
    for other in others:
        assert_array_equal(other.voxels, first.voxels)
        assert_array_equal(other.grid.affine_ras, first.grid.affine_ras)


def test_enhanced_siemens_time_series_equals_dcm2niix(conformance: Path) -> None:
    volumes = volumes_of(conformance / "dcm_qa_enh/In/Siemens")
    assert len(volumes) == 4
    assert_equals_reference(volumes, conformance / "dcm_qa_enh/Ref/Siemens_REST1_w_SMS_PF7-8_6.nii")


@pytest.mark.parametrize(
    ("volume", "name"), [(0, "Philips_WIP_B0_NS_801_e1.nii"), (1, "Philips_WIP_B0_NS_801_e2_fieldmaphz.nii")]
)
def test_philips_differs_from_dcm2niix_by_the_private_scale_alone(conformance: Path, volume: int, name: str) -> None:
    """dcm2niix scales Philips MR to the scanner's own "floating point" values, (PV·RS + RI) / (RS·SS).

    PV is the stored value, RS and RI are the public rescale, SS the private scale slope (2005,100E) (Chenevert et
    al. 2014, doi 10.1593/tlo.13811). Volumes here hold PV·RS + RI, as the standard says. So the stored values must
    be equal, and the reference's slope and intercept must be 1/SS and RI/(RS·SS). dcm2niix found its slope as a
    difference of two float32 values; near 500 Hz they are 2^-15 apart.
    """
    path = conformance / "dcm_qa_enh/In/Philips/IM_0027_fMAP.dcm"
    ours = volumes_of(path)[volume]
    image = nibabel.load(conformance / "dcm_qa_enh/Ref" / name)
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence[32 * volume]
    rescale = groups.PixelValueTransformationSequence[0]
    rescale_slope, rescale_intercept = float(rescale.RescaleSlope), float(rescale.RescaleIntercept)
    (scale_slope,) = [float(e.value) for e in groups.iterall() if e.tag == 0x2005100E]
    assert_allclose(image.dataobj.slope, 1 / scale_slope, rtol=2.0**-23, atol=2.0**-15)
    assert_allclose(image.dataobj.inter, rescale_intercept / (rescale_slope * scale_slope), rtol=0, atol=2.0**-15)

    stored = (ours.voxels.astype(np.float64) - rescale_intercept) / rescale_slope
    assert_allclose(stored, np.rint(stored), atol=1e-3)
    voxels, affine = canonical(np.rint(stored), ours.grid.affine_ras)
    expected, expected_affine = canonical(image.dataobj.get_unscaled(), image.affine)
    assert_array_equal(voxels, expected)
    assert_allclose(affine, expected_affine, rtol=0, atol=AFFINE_TOLERANCE_MM)


@pytest.mark.parametrize("name", ["001", "001_implicit"])
def test_philips_diffusion_where_the_reference_is_broken(conformance: Path, name: str) -> None:
    """The reference of this file holds one volume and three of zeros; pydicom's frames are the truth instead.

    dicom2nifti wrote every frame into the first volume, where the last direction stayed. So that volume, and the
    affine, are compared with it; the others with the frames: 8 slices of 4 volumes, the volume counting fastest.
    """
    folder = conformance / "dicom2nifti/philips_enhanced/dti"
    reference = nibabel.as_closest_canonical(nibabel.load(folder / f"{name}_ground_truth.nii.gz"))
    assert not reference.get_fdata()[..., 1:].any()
    series = only_series(folder / name)
    assert [stack.label for stack in series.stacks] == ["b0", "b1300_d01", "b1300_d02", "b1300_d03"]
    volumes = [read_stack(stack) for stack in series.stacks]
    voxels, affine = canonical(volumes[3].voxels, volumes[3].grid.affine_ras)
    assert_allclose(affine, reference.affine, rtol=0, atol=AFFINE_TOLERANCE_MM)
    assert_allclose(voxels, reference.get_fdata()[..., 0], rtol=FLOAT_TOLERANCE)

    (file,) = (folder / name).glob("*.dcm")
    dataset = pydicom.dcmread(file)
    slopes = [
        float(f.PixelValueTransformationSequence[0].RescaleSlope) for f in dataset.PerFrameFunctionalGroupsSequence
    ]
    values = dataset.pixel_array * np.array(slopes)[:, None, None]
    for number, volume in enumerate(volumes):
        assert_allclose(volume.voxels, values[number::4].T, rtol=FLOAT_TOLERANCE)


def test_bit_for_bit_with_pydicom_on_a_ct(data_dir: Path) -> None:
    folder = data_dir / "ct_pet_mr_sarcoma/STS_001/CT/image"
    volume = read_series(folder)
    for k in (0, 30, 58):
        dataset = pydicom.dcmread(volume.grid.slices[k].file.path)
        assert_array_equal(volume.voxels[:, :, k], dataset.pixel_array.T)
        position = volume.grid.affine_lps @ [0, 0, k, 1]
        assert_allclose(position[:3], [float(x) for x in dataset.ImagePositionPatient], atol=AFFINE_TOLERANCE_MM)


FAILING = {
    "sliceincrement/001": ("gap", "1 slice is missing between slices 3 and 4 (10.00 mm); the others are 5.00 mm apart"),
    "sliceincrement/002": ("gap", "1 slice is missing between slices 3 and 4 (1.50 mm); the others are 0.75 mm apart"),
    "gantrytilting/001": ("gantry_tilt", "14.00° off their normal"),
    "notavolume/001": ("duplicate_position", "1 of 1 positions hold more than one slice (up to 4, at 61.50 mm"),
}


@pytest.mark.parametrize("name", FAILING)
def test_failing_series_are_named_and_refused(conformance: Path, name: str) -> None:
    code, message = FAILING[name]
    (stack,) = only_series(conformance / "dicom2nifti/failing" / name).stacks
    finding = next(f for f in stack.findings if f.code == code)
    assert finding.severity == "refusal"
    assert message in finding.message
    with pytest.raises(DicomError) as caught:
        read_stack(stack)
    assert message in str(caught.value)


def test_the_tilted_series_with_a_gap_names_both(conformance: Path) -> None:
    (stack,) = only_series(conformance / "dicom2nifti/failing/sliceincrement/002").stacks
    assert [f.code for f in stack.findings if f.severity == "refusal"] == ["gap", "gantry_tilt"]


def test_mixed_orientations_are_refused_and_their_stacks_can_be_read(conformance: Path) -> None:
    folder = conformance / "dicom2nifti/failing/sliceorientation/001"
    series = only_series(folder)
    assert series.refused
    assert [f.code for f in series.findings if f.severity == "refusal"] == ["mixed_orientation", "mixed_spacing"]
    with pytest.raises(DicomError, match=r"mixed orientation: Slices differ in orientation .*--split"):
        read_series(folder)
    assert [read_stack(stack).voxels.shape for stack in series.stacks] == [(288, 288, 2), (288, 288, 2)]


def test_two_slices_are_a_volume_with_a_warning(conformance: Path) -> None:
    volume = read_series(conformance / "dicom2nifti/failing/slicecount/001")
    assert volume.voxels.shape == (256, 256, 2)
    assert "few_slices" in [f.code for f in volume.findings]


def test_colours_are_refused(conformance: Path) -> None:
    with pytest.raises(DicomError, match=r"colour: The pixels are colours \(RGB\)"):
        read_series(conformance / "dicom2nifti/generic/rgb/001")
