"""Masks to RTSTRUCT and back; what the file says, by pydicom, by dciodvfy and by a reader of this test's own."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as MatplotlibPath
from pydicom.uid import UID

from medseg3d.dicom.codes import Code, LabelCode
from medseg3d.dicom.model import FileRef, SeriesGrid
from medseg3d.dicom.orient import to_series_grid
from medseg3d.dicom.rtstruct_read import read_rtstruct
from medseg3d.dicom.rtstruct_write import write_rtstruct
from medseg3d.dicom.seg_write import Algorithm
from medseg3d.dicom.volume import read_series
from medseg3d.errors import DicomError, GeometryError, UsageError
from medseg3d.geometry import lps_to_ras
from medseg3d.phantom.dicom import Patient, write_ct_series

LABELS = {"liver": 1, "tumour": 2, "spleen": 3}
DCIODVFY = shutil.which("dciodvfy")
needs_dciodvfy = pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy (Debian's dicom3tools) is not installed")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> SeriesGrid:
    """A small oblique CT series."""
    affine_lps = affine_of((0.3, -0.2, 0.5), (0.8, 1.1, 3.0))
    voxels = np.zeros((24, 20, 6), np.int16)
    patient = Patient("P1", name="Müller^Änne")
    return write_ct_series(voxels, lps_to_ras(affine_lps), tmp_path_factory.mktemp("ct"), patient=patient)


def affine_of(angles: tuple[float, ...], spacing_mm: tuple[float, ...]) -> np.ndarray:
    """LPS affine turned around each axis by angles in radians."""
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = turn @ rotation
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * spacing_mm, (-120.5, 80.25, -731.125)
    return affine


def a_mask(shape: tuple[int, ...]) -> np.ndarray:
    """Two parts, a hole with an island, a single voxel, voxels that touch at a corner, a part at the border."""
    mask = np.zeros(shape, np.uint8)
    mask[2:14, 3:15, 1:4] = 1
    mask[5:11, 6:12, 2] = 0
    mask[7:9, 8, 2] = 1
    mask[18:22, 2:5, 2:5] = 1
    mask[16, 16, 3] = mask[17, 17, 3] = 2
    mask[20:, 15:, 4] = 2
    return mask


def read_back(file: Path, grid: SeriesGrid) -> np.ndarray:
    voxels = np.zeros(grid.shape, np.uint8)
    for segment in read_rtstruct(file, grid).segments:
        voxels[segment.mask] = segment.number
    return voxels


def masks_by_matplotlib(file: Path, grid: SeriesGrid) -> np.ndarray:
    """A naive reader: contours by the image they refer to, whose own header says where its pixels are."""
    images = {ref.sop_instance_uid: (k, pydicom.dcmread(ref.file.path)) for k, ref in enumerate(grid.slices)}
    voxels = np.zeros(grid.shape, np.uint8)
    for roi in pydicom.dcmread(file).ROIContourSequence:
        inside = np.zeros(grid.shape, bool)
        for contour in roi.get("ContourSequence", ()):
            k, image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            along_row, along_column = np.reshape(image.ImageOrientationPatient, (2, 3))
            offset = np.reshape(contour.ContourData, (-1, 3)) - np.array(image.ImagePositionPatient, float)
            assert np.abs(offset @ np.cross(along_row, along_column)).max() < 1e-3
            row_mm, column_mm = map(float, image.PixelSpacing)
            ring = np.stack([offset @ along_row / column_mm, offset @ along_column / row_mm], axis=1)
            centres = np.argwhere(np.ones((image.Columns, image.Rows), bool))
            path = MatplotlibPath(np.vstack([ring, ring[:1]]))
            inside[:, :, k] ^= path.contains_points(centres).reshape(image.Columns, image.Rows)
        voxels[inside] = roi.ReferencedROINumber
    return voxels


@pytest.mark.parametrize("holes", ["keyhole", "xor"])
def test_this_reader_and_a_naive_one_give_the_mask_back(series, tmp_path, holes):
    mask = a_mask(series.shape)
    findings = write_rtstruct(mask, series, tmp_path / "rs.dcm", labels=LABELS, holes=holes)
    assert [f.message for f in findings] == ["No voxel is spleen: its ROI has no contour."]
    np.testing.assert_array_equal(read_back(tmp_path / "rs.dcm", series), mask)
    np.testing.assert_array_equal(masks_by_matplotlib(tmp_path / "rs.dcm", series), mask)
    assert {f.code for f in read_rtstruct(tmp_path / "rs.dcm", series).findings} == {"holes", "no_contours"}


QUARTER = np.pi / 2
ORIENTATIONS = [(0.0, 0.0, 0.0), (QUARTER, 0.0, 0.0), (0.0, QUARTER, 0.0), (QUARTER, QUARTER, 0.0), (0.0, 0.0, np.pi)]
angles = st.one_of(st.sampled_from(ORIENTATIONS), st.tuples(*[st.floats(-3, 3)] * 3))


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)), elements=st.integers(0, 3)),
    angles,
    st.tuples(*[st.floats(0.05, 6)] * 3),
    st.permutations(range(3)),
    st.tuples(*[st.booleans()] * 3),
)
@settings(max_examples=60, deadline=None)
def test_any_mask_on_any_grid_comes_back(series, tmp_path_factory, voxels, turn, spacing_mm, axes, flips):
    """Oblique, sagittal and coronal series; masks stored in any order and direction of axes, left-handed ones too."""
    slices = tuple(replace(series.slices[0], sop_instance_uid=f"1.2.3.{k}") for k in range(voxels.shape[2]))
    grid = replace(series, shape=voxels.shape, affine_ras=lps_to_ras(affine_of(turn, spacing_mm)), slices=slices)
    stored, affine_ras = turned(voxels, grid.affine_ras, axes, flips)
    file = tmp_path_factory.mktemp("any") / "rs.dcm"
    write_rtstruct(to_series_grid(stored, affine_ras, grid), grid, file, labels=LABELS)
    np.testing.assert_array_equal(read_back(file, grid), voxels)


def turned(voxels: np.ndarray, affine: np.ndarray, axes: list[int], flips: tuple[bool, ...]):
    """The same image with its axes reordered and flipped, and its affine."""
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for new, old in enumerate(axes):
        back[old, new] = -1 if flips[new] else 1
        back[old, 3] = voxels.shape[old] - 1 if flips[new] else 0
    flipped = tuple(axis for axis in range(3) if flips[axis])
    return np.flip(voxels.transpose(axes), flipped), affine @ back


def elements_of(dataset: pydicom.Dataset):
    for element in dataset:
        yield element
        for item in element.value if element.VR == "SQ" else ():
            yield from elements_of(item)


def test_what_the_file_says(series, tmp_path):
    algorithm = Algorithm("ct_organ_segmentation", "1.2.0")
    write_rtstruct(a_mask(series.shape), series, tmp_path / "rs.dcm", labels=LABELS, algorithm=algorithm)
    dataset, source = pydicom.dcmread(tmp_path / "rs.dcm"), pydicom.dcmread(series.slices[0].file.path)
    assert (dataset.Modality, dataset.SOPClassUID.name) == ("RTSTRUCT", "RT Structure Set Storage")
    for keyword in ("PatientName", "PatientID", "PatientSex", "StudyInstanceUID", "StudyID", "FrameOfReferenceUID"):
        assert str(dataset[keyword].value) == str(source[keyword].value)
    assert str(dataset.PatientName) == "Müller^Änne"
    assert dataset.SeriesInstanceUID not in (source.SeriesInstanceUID, dataset.SOPInstanceUID)
    assert all(UID(u).is_valid for u in (dataset.SeriesInstanceUID, dataset.SOPInstanceUID))
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    (referenced,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    listed = [item.ReferencedSOPInstanceUID for item in referenced.ContourImageSequence]
    assert listed == [ref.sop_instance_uid for ref in series.slices]
    assert [(r.ROINumber, r.ROIName, r.ROIGenerationAlgorithm) for r in dataset.StructureSetROISequence] == [
        (1, "liver", "AUTOMATIC"), (2, "tumour", "AUTOMATIC"), (3, "spleen", "AUTOMATIC"),
    ]  # fmt: skip
    assert dataset.StructureSetROISequence[0].ROIGenerationDescription == "ct_organ_segmentation 1.2.0"
    observed = [(o.RTROIInterpretedType, o.RTROIIdentificationCodeSequence[0].CodeValue)
                for o in dataset.RTROIObservationsSequence]  # fmt: skip
    assert observed == [("ORGAN", "10200004"), ("GTV", "108369006"), ("ORGAN", "78961009")]
    assert dataset.ROIContourSequence[0].ROIDisplayColor == [221, 130, 101]
    assert "ContourSequence" not in dataset.ROIContourSequence[2]
    numbers = [e for e in elements_of(dataset) if e.VR == "DS" and e.value is not None]
    texts = [str(v) for e in numbers for v in (e.value if e.VM > 1 else [e.value])]
    assert len(texts) > 200
    assert max(map(len, texts)) <= 16


def test_each_contour_refers_to_the_image_it_lies_on(series, tmp_path):
    mask = a_mask(series.shape)
    write_rtstruct(mask, series, tmp_path / "rs.dcm", labels=LABELS)
    liver = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence[0]
    index = [ref.sop_instance_uid for ref in series.slices].index
    slices = [index(c.ContourImageSequence[0].ReferencedSOPInstanceUID) for c in liver.ContourSequence]
    assert sorted(slices) == [1, 2, 2, 2, 3, 3, 4]  # rim with its hole, island, and the second part from slice 2 on


def test_frames_of_a_multi_frame_image_are_referred_to_by_number(series, tmp_path):
    first = series.slices[0]
    frames = tuple(replace(first, frame=n) for n in (3, 4, 5, 6, 7, 8))
    write_rtstruct(a_mask(series.shape), replace(series, slices=frames), tmp_path / "rs.dcm", labels=LABELS)
    dataset = pydicom.dcmread(tmp_path / "rs.dcm")
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    (image,) = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert image.ReferencedFrameNumber == [3, 4, 5, 6, 7, 8]
    assert dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0].ReferencedFrameNumber == 4
    np.testing.assert_array_equal(read_back(tmp_path / "rs.dcm", replace(series, slices=frames)), a_mask(series.shape))


def test_own_codes_and_targets_by_name(series, tmp_path):
    codes = {"bed": LabelCode(Code("260787004", "Physical object"), Code("T", "Table", "99OWN"), (1, 2, 3))}
    labels = {"PTV_60": 1, "bed": 2}
    write_rtstruct(a_mask(series.shape), series, tmp_path / "rs.dcm", labels=labels, codes=codes)
    dataset = pydicom.dcmread(tmp_path / "rs.dcm")
    assert [o.RTROIInterpretedType for o in dataset.RTROIObservationsSequence] == ["PTV", "ORGAN"]
    assert dataset.ROIContourSequence[1].ROIDisplayColor == [1, 2, 3]


def errors_of(file: Path) -> set[str]:
    assert DCIODVFY is not None
    done = subprocess.run([DCIODVFY, str(file)], capture_output=True, text=True, check=False)
    assert "RTStructureSet" in done.stderr or "CTImage" in done.stderr
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


@needs_dciodvfy
def test_dciodvfy_finds_no_error(series, tmp_path):
    write_rtstruct(a_mask(series.shape), series, tmp_path / "rs.dcm", labels=LABELS)
    assert errors_of(tmp_path / "rs.dcm") == set()


@needs_dciodvfy
@pytest.mark.real_data
def test_dciodvfy_finds_no_error_but_those_of_the_real_source(data_dir, tmp_path):
    grid = read_series(data_dir / "ct_pet_mr_sarcoma" / "STS_001" / "CT" / "image", workers=1).grid
    mask = np.zeros(grid.shape, np.uint8)
    mask[50:90, 60:100, 10:30] = 1
    mask[60:70, 70:80, 12:20] = 0
    write_rtstruct(mask, grid, tmp_path / "rs.dcm", labels={"GTV": 1})
    source = grid.slices[0].file.path
    assert errors_of(tmp_path / "rs.dcm") <= errors_of(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too long for its type, and copied as it is
        assert pydicom.dcmread(tmp_path / "rs.dcm").StudyID == pydicom.dcmread(source).StudyID == "IBSI_1_STS_001_CT"
    np.testing.assert_array_equal(read_back(tmp_path / "rs.dcm", grid), mask)


def test_what_is_missing_in_the_source_is_there_without_a_value(series, tmp_path):
    header = pydicom.dcmread(series.slices[0].file.path)
    del header.StudyID, header.PatientBirthDate
    header.save_as(tmp_path / "bare.dcm")
    bare = (replace(series.slices[0], file=FileRef(tmp_path / "bare.dcm")), *series.slices[1:])
    write_rtstruct(a_mask(series.shape), replace(series, slices=bare), tmp_path / "rs.dcm", labels=LABELS)
    dataset = pydicom.dcmread(tmp_path / "rs.dcm")
    assert not dataset.StudyID
    assert not dataset.PatientBirthDate
    assert "MedicalAlerts" not in dataset


def test_a_contour_longer_than_64_kilobytes_survives(series, tmp_path):
    """Explicit VR could not tell its length: NumberOfContourPoints and the values are read back in full."""
    mask = np.ones((120, 120, 1), np.uint8)
    mask[1:119:3, 1:119:2] = 0
    grid = replace(series, shape=mask.shape, slices=series.slices[:1])
    write_rtstruct(mask, grid, tmp_path / "rs.dcm", labels={"comb": 1})
    (contour,) = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence[0].ContourSequence
    assert contour.NumberOfContourPoints * 3 == len(contour.ContourData) > 20_000
    np.testing.assert_array_equal(read_back(tmp_path / "rs.dcm", grid), mask)


@pytest.mark.parametrize(("change", "message"), [
    ({"slices": ()}, "resampled and has no slices"),
    ({"frame_of_reference_uid": ""}, "has no Frame of Reference UID"),
    ({"study_uid": ""}, "has no Study Instance UID"),
])  # fmt: skip
def test_a_series_that_cannot_be_referred_to_is_refused(series, tmp_path, change, message):
    with pytest.raises(DicomError, match=message):
        write_rtstruct(a_mask(series.shape), replace(series, **change), tmp_path / "rs.dcm", labels=LABELS)
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_gone_are_named(series, tmp_path):
    gone = (replace(series.slices[0], file=FileRef(tmp_path / "gone.dcm")), *series.slices[1:])
    with pytest.raises(DicomError, match=r"gone\.dcm: not readable any more"):
        write_rtstruct(a_mask(series.shape), replace(series, slices=gone), tmp_path / "rs.dcm", labels=LABELS)


def test_masks_that_do_not_fit_are_refused(series, tmp_path):
    file = tmp_path / "rs.dcm"
    mask = a_mask(series.shape)
    with pytest.raises(DicomError, match="24×20×5 voxels, the series 24×20×6"):
        write_rtstruct(mask[:, :, 1:], series, file, labels=LABELS)
    with pytest.raises(DicomError, match="the values 2, which no label has; the labels are liver = 1"):
        write_rtstruct(mask, series, file, labels={"liver": 1})
    with pytest.raises(DicomError, match="float32 numbers"):
        write_rtstruct(mask.astype(np.float32), series, file, labels=LABELS)
    with pytest.raises(DicomError, match="65 characters: 1 to 64"):
        write_rtstruct(mask, series, file, labels={"x" * 65: 1, "b": 2})
    with pytest.raises(UsageError, match="have the same id"):
        write_rtstruct(mask, series, file, labels={"a": 1, "b": 1})
    far = series.affine_ras.copy()
    far[0, 3] = 1e10
    with pytest.raises(GeometryError, match="16 characters cannot hold"):
        write_rtstruct(mask, replace(series, affine_ras=far), file, labels=LABELS)
    assert not file.exists()
