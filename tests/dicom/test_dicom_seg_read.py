"""DICOM SEG to masks: every object of the conformance set against dcmqi, and every fault by its name."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.pixels import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from seg_phantom import LABELS, make_mask, make_series, masks_by_dcmqi, on_grid

from medseg3d.dicom.annotation import Annotation
from medseg3d.dicom.model import FileRef, SeriesGrid
from medseg3d.dicom.seg_read import read_seg
from medseg3d.dicom.seg_write import write_seg
from medseg3d.dicom.volume import read_series
from medseg3d.errors import DicomError

MASK = make_mask()


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> SeriesGrid:
    return make_series(tmp_path_factory.mktemp("ct") / "series")


@pytest.fixture(scope="module")
def written(series, tmp_path_factory) -> dict[str, Path]:
    """A SEG of each kind of the same mask."""
    folder = tmp_path_factory.mktemp("seg")
    for kind in ("binary", "labelmap"):
        write_seg(MASK, series, folder / f"{kind}.dcm", labels=LABELS, kind=kind)
    return {kind: folder / f"{kind}.dcm" for kind in ("binary", "labelmap")}


@pytest.fixture
def edited(written, tmp_path) -> Callable[..., Path]:
    """A copy of a SEG after a change of its data set."""

    def edit(change: Callable[[pydicom.Dataset], object], kind: str = "binary") -> Path:
        dataset = pydicom.dcmread(written[kind])
        change(dataset)
        dataset.save_as(tmp_path / "edited.dcm", enforce_file_format=True)
        return tmp_path / "edited.dcm"

    return edit


def frames_of(dataset: pydicom.Dataset) -> np.ndarray:
    """Frames (frame, row, column) of a binary SEG, unpacked by numpy over the whole pixel data."""
    shape = (int(dataset.NumberOfFrames), int(dataset.Rows), int(dataset.Columns))
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    return bits[: np.prod(shape)].reshape(shape)


def set_frames(dataset: pydicom.Dataset, frames: np.ndarray, groups: list[pydicom.Dataset]) -> None:
    dataset.PixelData = pack_bits(np.ascontiguousarray(frames, dtype=np.uint8), pad=True)
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
    dataset.PerFrameFunctionalGroupsSequence = groups


def make_fractional(dataset: pydicom.Dataset, values: np.ndarray, *, largest: int = 200) -> None:
    """Turn a binary SEG into a fractional one of 8 bits."""
    dataset.SegmentationType, dataset.SegmentationFractionalType = "FRACTIONAL", "PROBABILITY"
    dataset.MaximumFractionalValue = largest
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    data = values.astype(np.uint8).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)


def assert_is_the_mask(annotation: Annotation) -> None:
    assert [s.name for s in annotation.segments] == list(LABELS)
    for segment in annotation.segments:
        np.testing.assert_array_equal(segment.mask, LABELS[segment.name] == MASK)


# --- the conformance set ---------------------------------------------------------------------------------------------

DCMQI_SEGS = ["liver.dcm", "partial_overlaps.dcm", "sparse-labelmap-noppv.dcm", "sparse-labelmap-ppv5.dcm",
              "24x38x3/seg/label.seg", "23x38x3/seg/label.seg"]  # fmt: skip
HIGHDICOM_SEGS = ["seg_image_ct_binary.dcm", "seg_image_ct_binary_overlap.dcm", "seg_image_ct_binary_single_frame.dcm",
                  "seg_image_ct_binary_fractional.dcm"]  # fmt: skip


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name", [*(f"dcmqi/segmentations/{n}" for n in DCMQI_SEGS), *(f"highdicom/{n}" for n in HIGHDICOM_SEGS)]
)
def test_every_object_reads_as_dcmqi_reads_it(data_dir, tmp_path, name):
    path = data_dir / "seg_conformance" / name
    found = read_seg(path)
    by_dcmqi = masks_by_dcmqi(path, tmp_path / "dcmqi")
    if "labelmap-ppv5" in name:
        del by_dcmqi[5]  # the padding value, which dcmqi hands over as a segment
    if "fractional" in name:
        by_dcmqi = {1: by_dcmqi[255]}  # dcmqi hands over the stored values, which are 0 and 255 here
    masks = {s.number: s.mask for s in found.segments}
    assert sorted(masks) == sorted(by_dcmqi)
    for number, image in by_dcmqi.items():
        np.testing.assert_array_equal(on_grid(image, found.grid), masks[number])


@pytest.mark.real_data
def test_a_true_fractional_segment_is_thresholded(data_dir, tmp_path):
    path = data_dir / "seg_conformance" / "highdicom" / "seg_image_ct_true_fractional.dcm"
    by_dcmqi = masks_by_dcmqi(path, tmp_path / "dcmqi")  # the stored values: 0, 64 and 128 of 255
    assert sorted(by_dcmqi) == [64, 128]
    for threshold, values in ((0.5, [128]), (0.25, [64, 128]), (0.1, [64, 128])):
        found = read_seg(path, threshold=threshold)
        expected = sum(on_grid(by_dcmqi[value], found.grid) for value in values)
        np.testing.assert_array_equal(found.segments[0].mask, expected)
        assert [f.code for f in found.findings] == ["thresholded"]
        assert f"a probability from 0 to 255: a voxel is in from {threshold:g} of that on" in found.findings[0].message


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("seg", "images", "reference"),
    [
        ("liver.dcm", "ct-3slice", "liver_seg.nrrd"),
        ("24x38x3/seg/label.seg", "24x38x3/image", "24x38x3/nrrd/label.nrrd"),
        ("24x38x3/seg/label.seg", "24x38x3/multiframe", "24x38x3/nrrd/label.nrrd"),
        ("23x38x3/seg/label.seg", "23x38x3/image", "23x38x3/nrrd/label.nrrd"),
    ],
)
def test_masks_come_on_the_grid_of_their_series(data_dir, seg, images, reference):
    folder = data_dir / "seg_conformance" / "dcmqi" / "segmentations"
    grid = read_series(folder / images).grid
    found = read_seg(folder / seg, grid)
    truth = sitk.ReadImage(str(folder / reference))
    np.testing.assert_array_equal(found.segments[0].mask, on_grid(truth > 0, grid))
    assert found.grid is grid


@pytest.mark.real_data
def test_overlapping_segments_stay_apart(data_dir):
    found = read_seg(data_dir / "seg_conformance" / "dcmqi" / "segmentations" / "partial_overlaps.dcm")
    assert [s.name for s in found.segments] == ["GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE"]
    assert sum(s.mask.astype(int) for s in found.segments).max() > 1
    assert found.segments[1].meaning == "Artery"
    assert found.segments[1].color_rgb == (216, 101, 79)


@pytest.mark.real_data
def test_a_projection_has_no_place_in_space(data_dir):
    path = data_dir / "seg_conformance" / "highdicom" / "seg_image_cr_binary.dcm"
    with pytest.raises(DicomError, match=r"1 of 1 frames of the SEG have no position: give the series"):
        read_seg(path)


# --- frames are placed by where they lie -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_frames_in_any_order(series, edited, kind):
    def shuffle(dataset):
        groups = list(dataset.PerFrameFunctionalGroupsSequence)
        order = np.random.default_rng(3).permutation(len(groups))
        if kind == "binary":
            set_frames(dataset, frames_of(dataset)[order], [groups[n] for n in order])
        else:
            frames = dataset.pixel_array[order]
            data = frames.astype(np.uint8).tobytes()
            dataset.PixelData = data + b"\0" * (len(data) % 2)
            dataset.PerFrameFunctionalGroupsSequence = [groups[n] for n in order]

    assert_is_the_mask(read_seg(edited(shuffle, kind), series))


@pytest.mark.parametrize(("axis", "keyword"), [(2, "row"), (1, "column")])
def test_frames_may_run_backwards(series, edited, axis, keyword):
    def mirror(dataset):
        frames = np.flip(frames_of(dataset), axis)
        shared = dataset.SharedFunctionalGroupsSequence[0]
        cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
        part = slice(0, 3) if keyword == "row" else slice(3, 6)
        length = (frames.shape[axis] - 1) * series.spacing_mm[0 if keyword == "row" else 1]
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
            groups.PlanePositionSequence[0].ImagePositionPatient = list(np.round(position + length * cosines[part], 6))
        cosines[part] *= -1
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(cosines)
        set_frames(dataset, frames, list(dataset.PerFrameFunctionalGroupsSequence))

    assert_is_the_mask(read_seg(edited(mirror), series))


def test_frames_may_be_a_part_of_the_image(series, edited):
    """Cut to columns 1 to 12 and rows 2 to 10: the position moves with the first pixel."""

    def crop(dataset):
        step = series.affine_lps[:3] @ (1, 2, 0, 0)
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
            groups.PlanePositionSequence[0].ImagePositionPatient = list(np.round(position + step, 6))
        set_frames(dataset, frames_of(dataset)[:, 2:, 1:], list(dataset.PerFrameFunctionalGroupsSequence))

    expected = MASK.copy()
    expected[:1], expected[:, :2] = 0, 0
    for segment in read_seg(edited(crop), series).segments:
        np.testing.assert_array_equal(segment.mask, expected == LABELS[segment.name])


def test_frames_without_position_are_put_on_the_image_they_refer_to(series, edited):
    def forget(dataset):
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            del groups.PlanePositionSequence

    assert_is_the_mask(read_seg(edited(forget), series))
    with pytest.raises(DicomError, match=r"7 of 7 frames of the SEG have no position"):
        read_seg(edited(forget))


def test_its_own_grid_begins_at_the_first_frame(series, edited):
    """Without the series, the frames' own positions make the grid; the slices are 3 mm apart, the first is k = 0."""
    found = read_seg(edited(lambda dataset: None))
    np.testing.assert_allclose(found.grid.affine_lps, series.affine_lps, atol=1e-4)
    assert found.grid.shape == series.shape
    assert_is_the_mask(found)

    def keep_segment_2(dataset):  # in slices 0 and 4
        keep = [n for n, g in enumerate(dataset.PerFrameFunctionalGroupsSequence)
                if g.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2]  # fmt: skip
        set_frames(dataset, frames_of(dataset)[keep], [dataset.PerFrameFunctionalGroupsSequence[n] for n in keep])

    found = read_seg(edited(keep_segment_2))
    assert found.grid.shape == (13, 11, 5)
    np.testing.assert_array_equal(found.segments[1].mask, (MASK == 2)[:, :, :5])


def test_compressed_frames(series, edited):
    def compress(dataset):
        make_fractional(dataset, frames_of(dataset) * 200)
        dataset.compress(RLELossless, encoding_plugin="pydicom")

    assert_is_the_mask(read_seg(edited(compress), series))


def test_a_seg_in_a_zip_archive(series, written, tmp_path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.write(written["labelmap"], "a/seg.dcm")
    assert_is_the_mask(read_seg(FileRef(tmp_path / "study.zip", "a/seg.dcm"), series))


# --- findings --------------------------------------------------------------------------------------------------------


def codes_of(annotation: Annotation) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in annotation.findings]


def test_a_fraction_is_in_from_the_threshold_on(series, edited):
    """Of 200: 99 is below a half, 100 is a half."""

    def fraction(dataset):
        values = frames_of(dataset) * 100
        first = tuple(np.argwhere(values)[0])
        values[first] = 99
        make_fractional(dataset, values)

    path = edited(fraction)
    found = read_seg(path, series)
    assert sum(s.count for s in found.segments) == np.count_nonzero(MASK) - 1
    assert codes_of(found) == [("thresholded", "note")]
    assert_is_the_mask(read_seg(path, series, threshold=0.49))
    assert sum(s.count for s in read_seg(path, series, threshold=0.51).segments) == 0


def test_voxels_outside_the_series_are_counted(series, written):
    """The series ends after four slices: what is in slices 4 and 5 is lost."""
    short = replace(series, shape=(13, 11, 4), slices=series.slices[:4])
    found = read_seg(written["binary"], short)
    assert codes_of(found) == [("missing_source_slices", "warning"), ("outside_series", "warning")]
    lost = np.count_nonzero(MASK[:, :, 4:])
    assert f"{lost} voxels in 3 frames lie outside the series" in found.findings[1].message
    assert "2 of the 6 images that the SEG was made from" in found.findings[0].message
    for segment in found.segments:
        np.testing.assert_array_equal(segment.mask, (LABELS[segment.name] == MASK)[:, :, :4])


def test_another_series_in_the_same_frame_of_reference(series, written):
    found = read_seg(written["binary"], replace(series, series_uid="1.2.3", slices=()))
    assert codes_of(found) == [("other_series", "note")]
    assert_is_the_mask(found)


def test_another_frame_of_reference_of_the_same_series(series, written):
    found = read_seg(written["binary"], replace(series, frame_of_reference_uid="1.2.3"))
    assert codes_of(found) == [("other_frame_of_reference", "warning")]
    assert_is_the_mask(found)


def test_another_series_in_another_frame_of_reference_is_refused(series, written):
    with pytest.raises(DicomError, match=r"in another frame of reference than the series 1\.2\.3: .* mean nothing"):
        read_seg(written["binary"], replace(series, series_uid="1.2.3", frame_of_reference_uid="1.2.4"))


def test_a_frame_that_refers_to_another_image_than_it_lies_on(series, edited):
    def mislead(dataset):
        source = dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
        source.ReferencedSOPInstanceUID = series.slices[5].sop_instance_uid

    found = read_seg(edited(mislead), series)
    assert codes_of(found) == [("contradicting_reference", "warning")]
    assert "1 of 7 frames" in found.findings[0].message
    assert_is_the_mask(found)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_segment_that_is_not_described_has_a_name(series, edited, kind):
    def forget(dataset):
        items = dataset.SegmentSequence
        dataset.SegmentSequence = [item for item in items if item.SegmentNumber != 3]

    found = read_seg(edited(forget, kind), series)
    assert codes_of(found) == [("undescribed_segment", "warning")]
    assert [s.name for s in found.segments] == ["liver", "left_kidney", "segment 3"]
    np.testing.assert_array_equal(found.segments[2].mask, MASK == 3)


def test_a_repeated_frame_is_no_harm_and_a_contradicting_one_is_refused(series, edited):
    def repeat(dataset, change=False):
        frames, groups = frames_of(dataset), list(dataset.PerFrameFunctionalGroupsSequence)
        again = frames[:1].copy()
        again[0, 0, 0] ^= change
        set_frames(dataset, np.concatenate([frames, again]), [*groups, deepcopy(groups[0])])

    assert_is_the_mask(read_seg(edited(repeat), series))
    with pytest.raises(DicomError, match=r"Frame 8 of segment 1 lies where an earlier frame of it lies, with other"):
        read_seg(edited(lambda dataset: repeat(dataset, change=True)), series)


# --- refusals --------------------------------------------------------------------------------------------------------


def pixels_of_another_size(dataset):
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1.3, 1.3]


def one_frame_aside(dataset):
    place = dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
    x, y, z = place.ImagePositionPatient
    place.ImagePositionPatient = [x + 0.4, y, z]


def one_frame_between(dataset):
    place = dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
    x, y, z = place.ImagePositionPatient
    place.ImagePositionPatient = [x, y, z + 1.5]


def other_modality(dataset):
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.2", "CT"


def tiled(dataset):
    dataset.TotalPixelMatrixColumns = 4000


def fewer_groups(dataset):
    del dataset.PerFrameFunctionalGroupsSequence[-1]


def fewer_pixels(dataset):
    dataset.PixelData = dataset.PixelData[:60]


def fraction_of_nothing(dataset):
    make_fractional(dataset, frames_of(dataset))
    del dataset.MaximumFractionalValue


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pixels_of_another_size, r"Frame 1 has other axes or pixels than the grid\. Its pixels are 1\.3×1\.3 mm"),
        (one_frame_aside, r"Frame 3 lies 0\.50 voxels beside the grid along its axis i"),
        (one_frame_between, r"Frame 3 lies 0\.50 voxels beside the grid along its axis k"),
        (other_modality, r"not a segmentation but CT Image Storage \(modality CT\)"),
        (tiled, r"tiled SEG of slide microscopy"),
        (fewer_groups, r"The SEG has 7 frames and describes 6"),
        (fewer_pixels, r"describes 7 frames and holds 3: it is truncated"),
        (fraction_of_nothing, r"without its largest value"),
        (lambda d: setattr(d, "SegmentationType", "SURFACE"), r"type 'SURFACE' is none of BINARY, FRACTIONAL"),
        (lambda d: d.pop("PixelData"), r"has no pixel data"),
        (lambda d: setattr(d, "Rows", 0), r"damaged|not readable"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_refusals_name_the_file_and_the_fault(series, edited, change, message):
    path = edited(change)
    with pytest.raises(DicomError, match=message) as error:
        read_seg(path, series)
    assert str(error.value).startswith(str(path))


def test_frames_that_are_no_stack_have_no_own_grid(edited):
    with pytest.raises(DicomError, match=r"Frame 3 of the SEG lies 0\.40 mm beside the first"):
        read_seg(edited(one_frame_aside))


def test_a_frame_that_is_far_away_has_no_own_grid(edited):
    def far(dataset):
        place = dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
        x, y, z = place.ImagePositionPatient
        place.ImagePositionPatient = [x, y, z + 3e6]

    with pytest.raises(DicomError, match=r"span 10000\d\d slices of 3 mm, and there are 7 frames"):
        read_seg(edited(far))


@pytest.mark.parametrize("threshold", [0.0, 1.5, float("nan")])
def test_an_impossible_threshold(written, threshold):
    with pytest.raises(DicomError, match=r"above 0, at most 1"):
        read_seg(written["binary"], threshold=threshold)


def test_a_file_that_is_no_dicom(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"no DICOM at all")
    with pytest.raises(DicomError, match=r"x\.dcm: not readable as a DICOM SEG"):
        read_seg(tmp_path / "x.dcm")
    with pytest.raises(DicomError, match=r"none\.dcm: not readable as a DICOM SEG"):
        read_seg(tmp_path / "none.dcm")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["binary", "labelmap"]))
def test_damaged_files_are_refused_or_read(series, written, tmp_path, data, kind):
    content = bytearray(written[kind].read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.dcm"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = read_seg(path, data.draw(st.sampled_from([series, None])))
    except DicomError as error:
        assert str(error).startswith(str(path))
    else:
        assert all(s.mask.shape == found.grid.shape for s in found.segments)


def test_an_explicit_transfer_syntax_is_written(written):
    assert pydicom.dcmread(written["binary"]).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
