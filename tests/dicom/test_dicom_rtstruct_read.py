"""RTSTRUCT to masks: real structure sets against an independent rasterisation, and every fault by its name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as MatplotlibPath
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import FileRef, SeriesGrid, SliceRef
from medseg3d.dicom.rtstruct_read import ACCEPTABLE, read_rtstruct
from medseg3d.errors import DicomError, UsageError
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
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        k = round((points[0, 2] - origin[2]) / spacing[2])
        low, high = (np.floor((edge(0) - origin) / spacing).astype(int) for edge in (points.min, points.max))
        i, j = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1), indexing="ij")
        centres_mm = np.stack([origin[0] + i * spacing[0], origin[1] + j * spacing[1]], axis=-1)
        ring = MatplotlibPath(np.vstack([points[:, :2], points[:1, :2]]))
        mask[i, j, k] ^= ring.contains_points(centres_mm.reshape(-1, 2)).reshape(i.shape)
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


FRAME, SERIES = "1.2.3.4", "1.2.3.5"
AXIAL = np.array([[2.0, 0, 0, -10], [0, 2.0, 0, -20], [0, 0, 5.0, 100], [0, 0, 0, 1]])
SQUARE = [(2, 2), (6, 2), (6, 6), (2, 6)]  # holds the centres 2 to 5


def a_grid(affine_lps: np.ndarray = AXIAL, shape: tuple[int, int, int] = (10, 12, 6)) -> SeriesGrid:
    slices = tuple(SliceRef(FileRef(Path(f"{k}.dcm")), "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.9.{k}") for k in range(6))
    return SeriesGrid(shape, lps_to_ras(affine_lps), "1.2.3.3", SERIES, FRAME, slices)


def contour(
    pixels: list[tuple[float, float]], k: float, *, affine: np.ndarray = AXIAL, kind: str = "CLOSED_PLANAR", **tags: Any
) -> Dataset:
    points = np.array([(*p, k, 1) for p in pixels]) @ affine.T
    item = Dataset()
    item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(pixels)
    item.ContourData = [f"{v:.10g}" for v in points[:, :3].ravel()]
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item


def image(k: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.9.{k}"
    return item


def structure_set(
    path: Path, rois: dict[str, list[Dataset] | None], *, frame: str = FRAME, series: str = SERIES
) -> Path:
    """An RTSTRUCT with the named ROIs; None leaves an ROI without an item in the ROI Contour Sequence."""
    dataset, reference, study, of_series = Dataset(), Dataset(), Dataset(), Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, "1.2.3.6"
    of_series.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = [of_series]
    reference.FrameOfReferenceUID, reference.RTReferencedStudySequence = frame, [study]
    dataset.ReferencedFrameOfReferenceSequence = [reference]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, display = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        dataset.StructureSetROISequence.append(roi)
        if contours is not None:
            display.ReferencedROINumber, display.ContourSequence = number, contours
            dataset.ROIContourSequence.append(display)
    dataset.save_as(path, enforce_file_format=True)
    return path


def findings_of(path: Path, contours: list[Dataset] | None, **options: Any) -> dict[str, Finding]:
    file = structure_set(path / "rs.dcm", {"GTV": contours})
    return {f.code: f for f in read_rtstruct(file, a_grid(), **options).findings}


def mask_of(path: Path, contours: list[Dataset], **options: Any) -> np.ndarray:
    (segment,) = read_rtstruct(structure_set(path / "rs.dcm", {"GTV": contours}), a_grid(), **options).segments
    return segment.mask


def test_a_square_fills_the_pixels_whose_centres_it_holds(tmp_path):
    file = structure_set(tmp_path / "rs.dcm", {"GTV": [contour(SQUARE, 3, ContourImageSequence=[image(3)])]})
    annotation = read_rtstruct(file, a_grid())
    (segment,) = annotation.segments
    assert (segment.name, segment.number, segment.start, segment.voxels.shape) == ("GTV", 1, (2, 2, 3), (4, 4, 1))
    assert segment.voxels.all()
    assert annotation.findings == ()


def test_a_member_of_a_zip_archive_is_read(tmp_path):
    file = structure_set(tmp_path / "rs.dcm", {"GTV": [contour(SQUARE, 3)]})
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.write(file, "a/rs.dcm")
    (segment,) = read_rtstruct(FileRef(tmp_path / "study.zip", "a/rs.dcm"), a_grid()).segments
    assert segment.count == 16


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from([-1, 1])] * 3), st.tuples(*[st.floats(-0.6, 0.6)] * 3))
@settings(max_examples=40, deadline=None)
def test_any_orientation_of_the_grid_gives_the_same_voxels(tmp_path_factory, axes, signs, turns):
    rotation = np.eye(3)[:, list(axes)] * signs
    for axis, angle in enumerate(turns):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = turn @ rotation
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * (0.8, 1.1, 3.0), (-40, 55, 310)
    path = tmp_path_factory.mktemp("oblique") / "rs.dcm"
    ring = [(1.3, 2.2), (7.6, 3.1), (6.4, 9.7), (2.2, 8.8)]
    (tilted,) = read_rtstruct(structure_set(path, {"a": [contour(ring, 2, affine=affine)]}), a_grid(affine)).segments
    (plain,) = read_rtstruct(structure_set(path, {"a": [contour(ring, 2)]}), a_grid()).segments
    np.testing.assert_array_equal(tilted.mask, plain.mask)
    assert plain.count > 20


HOLE = [(3, 3), (5, 3), (5, 5), (3, 5)]
KEYHOLE = [(2, 2), (6, 2), (6, 6), (2, 6), (2, 4), (3, 4), (3, 5), (5, 5), (5, 3), (3, 3), (3, 4), (2, 4)]


@pytest.mark.parametrize("contours", [
    [contour(KEYHOLE, 1)],
    [contour(SQUARE, 1), contour(HOLE, 1)],
    [contour(p, 1, kind="CLOSEDPLANAR_XOR") for p in (HOLE, SQUARE)],
], ids=["keyhole", "nested", "xor"])  # fmt: skip
def test_holes_are_open_and_noted(tmp_path, contours):
    mask = mask_of(tmp_path, contours)
    assert mask.sum() == 16 - 4
    assert not mask[3:5, 3:5].any()
    assert findings_of(tmp_path, contours)["holes"].severity == "note"


def test_a_contour_between_two_slices_is_refused_with_its_distance(tmp_path):
    contours = [contour(SQUARE, 1), contour(SQUARE, 2.4)]
    with pytest.raises(DicomError, match=r"1 of 2 contours lie on no slice .* up to 2\.00 mm from slice 3"):
        findings_of(tmp_path, contours)
    assert findings_of(tmp_path, contours, accept=["contour_off_slice"])["contour_off_slice"].severity == "warning"
    assert mask_of(tmp_path, contours, accept=["contour_off_slice"]).sum() == 16


def test_a_contour_that_leaves_its_plane_is_refused(tmp_path):
    tilted = contour(SQUARE, 2)
    tilted.ContourData[2] = str(float(tilted.ContourData[2]) + 1.5)
    with pytest.raises(DicomError, match="1 of them are not in one slice plane"):
        findings_of(tmp_path, [tilted])


def test_contours_written_with_one_decimal_are_taken(tmp_path):
    assert mask_of(tmp_path, [contour(SQUARE, 2 + 0.05 / 5)]).sum() == 16


def test_contours_behind_the_last_slice_are_left_out_and_told(tmp_path):
    contours = [contour(SQUARE, 5), contour(SQUARE, 6), contour(SQUARE, 7.5)]
    finding = findings_of(tmp_path, contours)["outside_series"]
    assert "2 of 3 contours" in finding.message
    assert "15.0 mm" in finding.message
    assert mask_of(tmp_path, contours).sum() == 16


def test_contours_are_cut_at_the_border_of_the_image(tmp_path):
    wide = [contour([(-3, 2), (4, 2), (4, 5), (-3, 5)], 1)]
    assert "2.5 pixels out of the image" in findings_of(tmp_path, wide)["contour_outside_image"].message
    assert mask_of(tmp_path, wide).sum() == 4 * 3


def test_another_frame_of_reference_is_refused(tmp_path):
    file = structure_set(tmp_path / "rs.dcm", {"GTV": [contour(SQUARE, 1)]}, frame="9.9", series="9.8")
    with pytest.raises(DicomError, match=r"1 of 1 ROIs \('GTV'\) are not known to share the series' frame"):
        read_rtstruct(file, a_grid())
    (finding,) = read_rtstruct(file, a_grid(), accept=["other_frame_of_reference"]).findings
    assert finding.remedy == "Accepted: coordinates are taken as they are."


def test_another_frame_of_reference_on_the_same_series_is_a_warning(tmp_path):
    file = structure_set(tmp_path / "rs.dcm", {"GTV": [contour(SQUARE, 1)]}, frame="9.9")
    (finding,) = read_rtstruct(file, a_grid()).findings
    assert (finding.code, finding.severity) == ("other_frame_of_reference", "warning")


def test_another_series_of_the_same_frame_is_a_note(tmp_path):
    file = structure_set(tmp_path / "rs.dcm", {"GTV": [contour(SQUARE, 1)]}, series="9.8")
    (finding,) = read_rtstruct(file, a_grid()).findings
    assert (finding.code, finding.severity) == ("other_series", "note")


def test_images_that_are_not_in_the_series_are_told(tmp_path):
    contours = [
        contour(SQUARE, 1, ContourImageSequence=[image(1)]),
        contour(SQUARE, 2, ContourImageSequence=[image(77)]),
    ]
    assert findings_of(tmp_path, contours)["missing_source_slices"].message.startswith(
        "1 of the 2 images that contours refer to are in"
    )


def test_references_to_another_export_of_the_series_are_told(tmp_path):
    contours = [contour(SQUARE, 1, ContourImageSequence=[image(77)])]
    assert findings_of(tmp_path, contours)["missing_source_slices"].message.startswith("None of the 1 images")
    assert mask_of(tmp_path, contours).sum() == 16


def test_a_reference_to_another_slice_than_the_coordinates_is_told(tmp_path):
    contours = [contour(SQUARE, 1, ContourImageSequence=[image(4)])]
    assert "put where they lie" in findings_of(tmp_path, contours)["contradicting_reference"].message
    assert mask_of(tmp_path, contours)[:, :, 1].sum() == 16


BOW_TIE = [(1, 1), (6, 6), (6, 1), (1, 6)]
TWICE_ROUND = [(1, 1), (8, 1), (8, 8), (2, 8), (2, 3), (6, 3), (6, 6), (1, 6)]  # winds twice around a part of it


def test_a_self_crossing_contour_is_a_warning_where_both_rules_agree(tmp_path):
    finding = findings_of(tmp_path, [contour(BOW_TIE, 1)])["self_crossing"]
    assert finding.severity == "warning"
    assert "cross themselves 1 times; whether 0 voxels" in finding.message


def test_a_self_crossing_contour_is_refused_where_the_rules_disagree(tmp_path):
    with pytest.raises(DicomError, match=r"cross themselves 1 times; whether 12 voxels are inside depends"):
        findings_of(tmp_path, [contour(TWICE_ROUND, 1)])
    mask = mask_of(tmp_path, [contour(TWICE_ROUND, 1)], accept=["self_crossing"])
    assert not mask[2:6, 3:6].any()
    assert mask[1, 1, 1]


def test_contours_that_cross_each_other_are_refused_with_what_they_share(tmp_path):
    with pytest.raises(DicomError, match="cross each other 2 times; they share 4 voxels"):
        findings_of(tmp_path, [contour(SQUARE, 1), contour([(4, 4), (8, 4), (8, 8), (4, 8)], 1)])


def test_a_contour_that_stands_there_twice_does_not_cancel(tmp_path):
    contours = [contour(SQUARE, 1), contour(SQUARE[1:] + SQUARE[:1], 1)]
    with pytest.raises(DicomError, match="1 contours stand there twice"):
        findings_of(tmp_path, contours)
    assert mask_of(tmp_path, contours, accept=["duplicate_contour"]).sum() == 16


@pytest.mark.parametrize(("tags", "reason"), [
    ({"NumberOfContourPoints": 5}, "4 points where 5 are announced"),
    ({"ContourData": ["1", "2", "3", "4"]}, "4 coordinates, which is no multiple of 3"),
    ({"ContourData": ["1", "2", "NaN", "4", "5", "6"]}, "a coordinate that is NaN, infinite or beyond 1e\\+09 mm"),
    ({"ContourData": ["1e308"] * 12}, "a coordinate that is NaN, infinite or beyond"),
], ids=["count", "multiple", "nan", "huge"])  # fmt: skip
def test_damaged_contours_are_refused(tmp_path, tags, reason):
    with pydicom.config.disable_value_validation():
        file = structure_set(tmp_path / "rs.dcm", {"GTV": [contour(SQUARE, 1), contour(SQUARE, 2, **tags)]})
    with pytest.raises(DicomError, match=f"1 of 2 contours are damaged; contour 2 has {reason}"):
        read_rtstruct(file, a_grid())
    (segment,) = read_rtstruct(file, a_grid(), accept=["damaged_contour"]).segments
    assert segment.count == 16


@pytest.mark.parametrize("place", [("90000", "0", "105"), ("0", "0", "9e6")], ids=["in plane", "along the normal"])
def test_a_contour_thousands_of_voxels_away_is_damaged(tmp_path, place):
    far = contour([(2, 2), (6, 6)], 1)
    far.ContourData, far.NumberOfContourPoints = [*far.ContourData, *place], 3
    with pytest.raises(DicomError, match="1 contours have points more than 8192 voxels away"):
        findings_of(tmp_path, [far])


def test_points_have_no_mask_and_open_contours_among_closed_ones_are_refused(tmp_path):
    point = contour([(3, 3)], 1, kind="POINT")
    file = structure_set(tmp_path / "rs.dcm", {"isocentre": [point], "GTV": [contour(SQUARE, 1)]})
    annotation = read_rtstruct(file, a_grid())
    assert [s.name for s in annotation.segments] == ["GTV"]
    assert (
        annotation.findings[0].message
        == "ROI 'isocentre' has no closed contour (1 POINT): points and lines have no mask."
    )
    with pytest.raises(DicomError, match=r"1 OPEN_PLANAR, 1 POINT among 3 contours"):
        findings_of(tmp_path, [contour(SQUARE, 1), point, contour(SQUARE, 2, kind="OPEN_PLANAR")])


def test_rois_without_contours_and_without_voxels_are_told_apart(tmp_path):
    tiny = contour([(2.1, 2.1), (2.4, 2.1), (2.4, 2.4)], 1)
    rois = {"never drawn": None, "nothing": [], "between centres": [tiny]}
    annotation = read_rtstruct(structure_set(tmp_path / "rs.dcm", rois), a_grid())
    assert [f.code for f in annotation.findings] == ["no_contours", "no_contours", "empty_mask"]
    assert [(s.name, s.count) for s in annotation.segments] == [("between centres", 0)]


def test_a_closed_contour_of_two_points_encloses_nothing(tmp_path):
    contours = [contour(SQUARE, 1), contour(SQUARE[:2], 2)]
    assert findings_of(tmp_path, contours)["contour_without_area"].severity == "warning"
    assert mask_of(tmp_path, contours).sum() == 16


def test_gaps_are_left_empty_unless_interpolation_is_asked_for(tmp_path):
    large = [(1, 1), (9, 1), (9, 9), (1, 9)]
    contours = [contour(SQUARE, 0), contour(large, 2), contour(large, 3)]
    finding = findings_of(tmp_path, contours)["contour_gap"]
    assert "1 slices (of 6) without contour between contoured ones (between 1 and 3): left empty" in finding.message
    assert mask_of(tmp_path, contours).sum(axis=(0, 1)).tolist() == [16, 0, 64, 64, 0, 0]
    filled = mask_of(tmp_path, contours, gaps="interpolate")
    assert filled[2:6, 2:6, 1].all()
    assert 16 < filled[:, :, 1].sum() < 64
    np.testing.assert_array_equal(filled[:, :, [0, 2, 3]], mask_of(tmp_path, contours)[:, :, [0, 2, 3]])


def test_an_roi_that_is_not_selected_is_not_checked(tmp_path):
    rois = {"GTV": [contour(SQUARE, 1)], "Couch": [contour(SQUARE, 1.5)]}
    file = structure_set(tmp_path / "rs.dcm", rois)
    annotation = read_rtstruct(file, a_grid(), select=lambda name: name != "Couch")
    assert [s.name for s in annotation.segments] == ["GTV"]
    with pytest.raises(DicomError, match=r"1 refusals, no mask is made.\n  contour off slice: ROI 'Couch'"):
        read_rtstruct(file, a_grid())


def test_files_that_are_no_structure_set_are_refused(tmp_path):
    text = tmp_path / "note.txt"
    text.write_text("no DICOM here")
    with pytest.raises(DicomError, match="not readable as an RTSTRUCT"):
        read_rtstruct(text, a_grid())
    with pytest.raises(DicomError, match="not readable as an RTSTRUCT"):
        read_rtstruct(tmp_path / "absent.dcm", a_grid())
    file = structure_set(tmp_path / "rs.dcm", {})
    dataset = pydicom.dcmread(file)
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.save_as(file)
    with pytest.raises(DicomError, match="this is CT Image Storage, not an RT Structure Set"):
        read_rtstruct(file, a_grid())


def test_contours_of_an_undefined_roi_are_refused(tmp_path):
    file = structure_set(tmp_path / "rs.dcm", {"GTV": [contour(SQUARE, 1)]})
    dataset = pydicom.dcmread(file)
    dataset.ROIContourSequence[0].ReferencedROINumber = 8
    dataset.save_as(file)
    with pytest.raises(DicomError, match="contours of ROI number 8, which the structure set does not define"):
        read_rtstruct(file, a_grid())


@pytest.mark.parametrize("keyword", ["StructureSetROISequence", "ROIContourSequence"])
def test_a_file_cut_before_its_contours_is_not_an_empty_structure_set(tmp_path, keyword):
    file = structure_set(tmp_path / "rs.dcm", {"GTV": [contour(SQUARE, 1)]})
    dataset = pydicom.dcmread(file)
    delattr(dataset, keyword)
    dataset.save_as(file)
    with pytest.raises(DicomError, match=f"has no {keyword}: it is truncated"):
        read_rtstruct(file, a_grid())


def test_only_what_has_a_known_consequence_can_be_accepted(tmp_path):
    with pytest.raises(UsageError, match=f"gap cannot be accepted; what can is {', '.join(ACCEPTABLE)}"):
        read_rtstruct(structure_set(tmp_path / "rs.dcm", {}), a_grid(), accept=["gap"])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_truncated_and_altered_files_give_a_clear_error_or_masks(tmp_path_factory, data):
    file = structure_set(tmp_path_factory.mktemp("damaged") / "rs.dcm", {"GTV": [contour(SQUARE, 1)], "b": []})
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(132, len(content)))])
    try:
        annotation = read_rtstruct(file, a_grid())
    except DicomError as error:
        assert str(error).startswith(str(file))
    else:
        assert all(s.mask.shape == (10, 12, 6) for s in annotation.segments)
