"""Every finding by its name, its severity and its numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEGLSNearLossless, generate_uid
from synthetic_series import SyntheticSeries, codes

from medseg3d.dicom import Finding, Stack, read_series, read_stack, scan
from medseg3d.errors import DicomError

Edit = Callable[[Dataset, int], None]


def found(folder: Path, edit: Edit | None = None, *, truth: SyntheticSeries | None = None, **write: Any) -> Stack:
    (truth or SyntheticSeries()).write(folder, edit, **write)
    (series,) = scan(folder).series
    (stack,) = series.stacks
    return stack


def the(stack: Stack, code: str) -> Finding:
    (finding,) = [f for f in stack.findings if f.code == code]
    return finding


def put(**values: Any) -> Edit:
    def edit(ds: Dataset, k: int) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return edit


def positions(truth: SyntheticSeries, along_mm: list[float], aside_mm: list[float] | None = None) -> Edit:
    aside_mm = aside_mm or [0.0] * len(along_mm)

    def edit(ds: Dataset, k: int) -> None:
        position = truth.origin_mm + truth.normal * along_mm[k] + np.array(truth.row) * aside_mm[k]
        ds.ImagePositionPatient = [f"{v:.6f}" for v in position]

    return edit


def test_a_sound_series_has_no_findings(tmp_path: Path) -> None:
    stack = found(tmp_path)
    assert stack.findings == ()
    assert scan(tmp_path).series[0].findings == ()
    assert_allclose(stack.grid.affine_ras, SyntheticSeries().affine_ras, atol=1e-6)


def test_a_gap_says_where_and_how_many(tmp_path: Path) -> None:
    stack = found(tmp_path, only=[0, 1, 4, 5])
    assert the(stack, "gap").message == (
        "2 slices are missing between slices 2 and 3 (6.00 mm); the others are 2.00 mm apart."
    )
    assert "--fix resample" in the(stack, "gap").remedy
    assert stack.grid is None


def test_several_gaps(tmp_path: Path) -> None:
    stack = found(tmp_path, truth=SyntheticSeries(slices=12), only=[0, 1, 2, 3, 5, 6, 7, 9, 10, 11])
    assert "2 slices are missing between slices 4 and 5 (4.00 mm), 7 and 8 (4.00 mm)" in the(stack, "gap").message


def test_uneven_spacing_says_by_how_much(tmp_path: Path) -> None:
    """Even would be 0, 2.2, 4.4, 6.6, 8.8, 11: slices 3 and 4 are 0.4 mm off."""
    truth = SyntheticSeries()
    stack = found(tmp_path, positions(truth, [0, 2, 4, 7, 9, 11]), truth=truth)
    assert the(stack, "uneven_spacing").message == (
        "Slices are 2.000 mm (between 1 and 2) to 3.000 mm (between 3 and 4) apart, mostly 2.000 mm: up to 0.40 mm "
        "off a regular grid."
    )


def test_rounded_positions_are_even(tmp_path: Path) -> None:
    """0.625 mm written with one digit: 0, 0.6, 1.2 (1.25), 1.9, 2.5, 3.1; each within 0.05 mm of the grid."""
    truth = SyntheticSeries(step_mm=0.625)
    stack = found(tmp_path, positions(truth, [0, 0.6, 1.2, 1.9, 2.5, 3.1]), truth=truth)
    assert not stack.refused


def test_a_slice_beside_the_others(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    stack = found(tmp_path, positions(truth, [0, 2, 4, 6, 8, 10], [0, 0, 0, 1.5, 0, 0]), truth=truth)
    assert "Slice 4 of 6 lies 1.50 mm beside the line" in the(stack, "shifted_slice").message


def test_drift_below_the_tolerance_of_tilt_stays_in_the_affine(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    drift = [0.003 * k for k in range(6)]  # 0.086°
    stack = found(tmp_path, positions(truth, [2.0 * k for k in range(6)], drift), truth=truth)
    assert stack.findings == ()
    assert_allclose(stack.grid.affine_lps[:3, 2], [0.003, 0, 2.0], atol=1e-6)


def test_few_slices(tmp_path: Path) -> None:
    assert the(found(tmp_path, only=[0, 1, 2]), "few_slices").message == "3 slices make a very thin volume."


@pytest.mark.parametrize(
    ("edit", "only", "message"),
    [
        (put(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), None, "it is a localizer"),
        (None, [2], "it has one slice"),
    ],
)
def test_what_is_no_volume(tmp_path: Path, edit: Edit | None, only: list[int] | None, message: str) -> None:
    assert message in the(found(tmp_path, edit, only=only), "not_a_volume").message


def test_a_screenshot_is_no_volume(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        del ds.ImagePositionPatient, ds.ImageOrientationPatient

    stack = found(tmp_path, edit)
    assert "secondary capture without positions" in the(stack, "not_a_volume").message
    with pytest.raises(DicomError, match="ImagePositionPatient is absent or not usable in 6 of 6 slices"):
        read_stack(stack)


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_missing_geometry_is_refused(tmp_path: Path, keyword: str) -> None:
    stack = found(tmp_path, lambda ds, k: delattr(ds, keyword))
    assert the(stack, "missing_tag").message.startswith(f"{keyword} is absent or not usable in 6 of 6 slices")


def test_one_slice_without_a_position_is_refused(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        if k == 2:
            del ds.ImagePositionPatient

    assert "in 1 of 6 slices" in the(found(tmp_path, edit), "missing_tag").message


def test_skewed_directions_are_refused(tmp_path: Path) -> None:
    stack = found(tmp_path, put(ImageOrientationPatient=[1, 0, 0, 0.5, 0.9, 0]))
    assert "not two unit vectors at a right angle: 1, 0, 0, 0.5, 0.9, 0" in the(stack, "contradictory_tags").message


@pytest.mark.parametrize("slope", [0, 1e31])
def test_an_impossible_slope_is_refused(tmp_path: Path, slope: float) -> None:
    finding = the(found(tmp_path, put(RescaleSlope=slope)), "contradictory_tags")
    assert f"RescaleSlope is {slope:g} and RescaleIntercept -1024 in 6 of 6 slices" in finding.message


@pytest.mark.parametrize(
    "values",
    [{"PixelSpacing": [0, 1]}, {"PixelSpacing": [1, 1e5]}, {"ImagePositionPatient": [0, 0, "1e300"]}],
    ids=str,
)
def test_an_impossible_geometry_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    (keyword,) = values
    assert the(found(tmp_path, put(**values)), "missing_tag").message.startswith(f"{keyword} is absent or not usable")


def test_colours_are_refused(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.PixelData = bytes(6 * 5 * 7)

    assert "colours (RGB)" in the(found(tmp_path, edit), "colour").message


def test_a_modality_lut_is_refused(tmp_path: Path) -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType, lut.LUTData = [2, 0, 16], "HU", bytes(4)
    assert the(found(tmp_path, put(ModalityLUTSequence=[lut])), "modality_lut").severity == "refusal"


def test_mixed_units_are_refused(tmp_path: Path) -> None:
    stack = found(tmp_path, lambda ds, k: setattr(ds, "RescaleType", "HU" if k else "US"))
    assert the(stack, "mixed_units").message == "Slices are in different units: HU, US."


@pytest.mark.parametrize(
    ("values", "code", "severity", "message"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation", "warning", "6 of 6 files have text burned into"),
        ({"LossyImageCompression": "01", "LossyImageCompressionRatio": 12.5}, "lossy_compression", "warning",
         "6 of 6 files were compressed with loss (method not given, ratio 12.5)"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "monochrome1", "note", "6 of 6 slices are meant to be shown"),
        ({"PixelPaddingValue": 4095}, "padding", "note", "hold the stored value 4095 (PixelPaddingValue)"),
        ({"SpacingBetweenSlices": 1.0}, "contradictory_tags", "warning",
         "SpacingBetweenSlices is 1 mm, but the positions of the slices are 2.000 mm apart"),
        ({"FrameOfReferenceUID": ""}, "missing_tag", "note", "FrameOfReferenceUID is absent"),
    ],
)  # fmt: skip
def test_remarks_do_not_refuse(tmp_path: Path, values: dict[str, Any], code: str, severity: str, message: str) -> None:
    truth = SyntheticSeries()
    stack = found(tmp_path, put(**values), truth=truth)
    assert the(stack, code).severity == severity
    assert message in the(stack, code).message
    assert_array_equal(read_stack(stack).voxels, truth.values)


@pytest.mark.parametrize("spacing_between", [2.0, -2.0, 2.02])
def test_a_rounded_or_negative_spacing_between_slices_is_no_contradiction(
    tmp_path: Path, spacing_between: float
) -> None:
    assert found(tmp_path, put(SpacingBetweenSlices=spacing_between)).findings == ()


def test_truncated_pixels_are_found_by_the_header(tmp_path: Path) -> None:
    files = SyntheticSeries().write(tmp_path)
    files[3].write_bytes(files[3].read_bytes()[:-20])
    (series,) = scan(tmp_path).series
    finding = the(series.stacks[0], "undecodable_frame")
    assert finding.message == "1 of 6 frames are cut short: 0003.dcm holds 50 bytes of pixels, its header wants 70."


def test_a_copy_with_other_pixels_is_refused(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    truth.write(tmp_path)
    truth.write(tmp_path / "edited", put(PixelData=bytes(70)), only=[1])
    (series,) = scan(tmp_path).series
    (finding,) = series.findings
    assert finding.code == "conflicting_copies"
    assert "1 of 6 instances are there more than once" in finding.message
    assert "0001.dcm" in finding.message
    with pytest.raises(DicomError, match="conflicting copies"):
        read_series(tmp_path)


def test_two_patients_in_one_series_are_refused_without_their_ids(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    truth.write(tmp_path, lambda ds, k: setattr(ds, "PatientID", f"secret{k % 2}"))
    (series,) = scan(tmp_path).series
    assert codes(series.findings) == ["mixed_patients"]
    assert "2 patients" in series.findings[0].message
    assert "secret" not in str(series.findings) + str(series)


def test_no_finding_or_type_shows_the_patient(tmp_path: Path) -> None:
    SyntheticSeries().write(tmp_path, put(InstitutionName="Secret Hospital"))
    assert "secret-4711" not in repr(scan(tmp_path))
    assert "Doe" not in repr(scan(tmp_path))


@pytest.mark.parametrize(
    ("values", "code", "message"),
    [
        ({"Rows": 4, "Columns": 7, "PixelData": bytes(56)}, "mixed_matrix", "7×5; 7×4"),
        ({"PixelSpacing": [0.8, 0.6]}, "mixed_spacing", "0.5×0.8 mm; 0.6×0.8 mm"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "mixed_orientation", "normal 0, 0, 1; normal 0, 0, -1"),
        ({"FrameOfReferenceUID": generate_uid()}, "mixed_frame_of_reference", "2 frames of reference"),
    ],
)
def test_parts_that_share_no_grid(tmp_path: Path, values: dict[str, Any], code: str, message: str) -> None:
    truth = SyntheticSeries()
    truth.write(tmp_path, lambda ds, k: put(**values)(ds, k) if k >= 3 else None)
    (series,) = scan(tmp_path).series
    (finding,) = [f for f in series.findings if f.severity == "refusal"]
    assert finding.code == code
    assert message in finding.message
    assert "--split" in finding.remedy
    assert [(s.label, len(s.frames)) for s in series.stacks] == [("part1", 3), ("part2", 3)]


def test_a_lossy_transfer_syntax_is_named_without_the_attribute(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.file_meta.TransferSyntaxUID = JPEGLSNearLossless
        ds.PixelData = encapsulate([bytes(64)])
        ds["PixelData"].is_undefined_length = True

    finding = the(found(tmp_path, edit), "lossy_compression")
    assert "6 of 6 files were compressed with loss (JPEG-LS Lossy (Near-Lossless) Image Compression)" in finding.message


@pytest.mark.parametrize(("flag", "lossy"), [("00", False), (None, True)])
def test_jpeg_2000_is_lossy_unless_the_image_denies_it(tmp_path: Path, flag: str | None, lossy: bool) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.file_meta.TransferSyntaxUID = JPEG2000
        ds.LossyImageCompression = flag
        ds.PixelData = encapsulate([bytes(64)])
        ds["PixelData"].is_undefined_length = True

    stack = found(tmp_path, edit)
    assert ("lossy_compression" in [f.code for f in stack.findings]) == lossy


def test_series_without_a_uid_are_named(tmp_path: Path) -> None:
    SyntheticSeries().write(tmp_path, put(SeriesInstanceUID=""))
    (series,) = scan(tmp_path).series
    assert "SeriesInstanceUID is absent in 6 files" in series.findings[0].message


def test_patients_without_an_id_are_told_apart_by_their_study(tmp_path: Path) -> None:
    for n in range(2):
        SyntheticSeries().write(tmp_path / str(n), put(PatientID=""))
    assert len({series.patient for series in scan(tmp_path).series}) == 2


@pytest.mark.parametrize("step_mm", [0.009, 0.0005])
def test_slices_of_a_microscope_are_no_repeats(tmp_path: Path, step_mm: float) -> None:
    truth = SyntheticSeries(slices=8, step_mm=step_mm, spacing_mm=(step_mm, step_mm), origin_mm=(1.0, 2.0, 3.0))
    stack = found(tmp_path, truth=truth)
    assert stack.findings == ()
    assert_allclose(stack.grid.affine_ras, truth.affine_ras, atol=1e-7)
    assert_array_equal(read_stack(stack).voxels, truth.values)


def test_repeats_under_a_microscope_are_named(tmp_path: Path) -> None:
    truth = SyntheticSeries(step_mm=0.009, spacing_mm=(0.009, 0.009))
    stack = found(tmp_path, positions(truth, [0, 0.009, 0.009, 0.018, 0.027, 0.036]), truth=truth)
    assert "1 of 5 positions hold more than one slice" in the(stack, "duplicate_position").message


def test_a_copy_of_another_patient_is_no_copy(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    truth.write(tmp_path)
    truth.write(tmp_path / "other", put(PatientID="somebody else"), only=[2])
    (series,) = scan(tmp_path).series
    assert codes(series.findings) == ["conflicting_copies", "mixed_patients"]
    with pytest.raises(DicomError, match="The series holds images of 2 patients"):
        read_series(tmp_path)


def test_mixed_polarity_is_refused(tmp_path: Path) -> None:
    stack = found(tmp_path, lambda ds, k: put(PhotometricInterpretation=f"MONOCHROME{1 + (k > 1)}")(ds, k))
    finding = the(stack, "mixed_photometric")
    assert finding.severity == "refusal"
    assert "2 of 6 slices are MONOCHROME1" in finding.message
