"""Which frames make one volume: never split an ordinary series, never mix two volumes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid
from synthetic_series import SyntheticSeries, codes

from medseg3d.dicom import FileRef, Series, SliceRef, grouping, read_stack, scan
from medseg3d.dicom.fourd import diffusion_of, seconds_between
from medseg3d.dicom.frames import Frame, PixelLayout
from medseg3d.dicom.grouping import ORIENTATION_TOLERANCE, group_frames
from medseg3d.errors import DicomError


def only_series(folder: Path) -> Series:
    (series,) = scan(folder).series
    return series


def write_volumes(folder: Path, truth: SyntheticSeries, attributes: list[dict[str, Any]]) -> None:
    """The same slices once for each mapping of attributes; a value may be a function of the slice."""
    for v, values in enumerate(attributes):

        def edit(ds: Dataset, k: int, *, v: int = v, values: dict[str, Any] = values) -> None:
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            ds.InstanceNumber = v * truth.slices + k + 1
            ds.PixelData = np.full((truth.rows, truth.columns), v, np.uint16).tobytes()
            for keyword, value in values.items():
                setattr(ds, keyword, value(k) if callable(value) else value)

        truth.write(folder / str(v), edit)


def contents(series: Series) -> dict[str, int]:
    """Label → the one stored value that fills the volume."""
    result = {}
    for stack in series.stacks:
        (value,) = np.unique(read_stack(stack).voxels)
        result[stack.label] = int(value) + 1024
    return result


@pytest.mark.parametrize(
    "values",
    [
        {"AcquisitionNumber": lambda k: k + 1},
        {"AcquisitionNumber": lambda k: 1 + k // 3},
        {"ImageType": lambda k: ["ORIGINAL", "PRIMARY", "AXIAL", f"CT{k % 2}"]},
        {"AcquisitionTime": lambda k: f"1200{k:02}.5", "AcquisitionDate": "20240101", "ContentTime": "120000"},
        {"EchoTime": lambda k: 3.0 + 0.001 * k},
        {"TriggerTime": lambda k: 10.0 * k},
        {"ConvolutionKernel": lambda k: "B30f" if k else "B70f"},
        {"KVP": lambda k: 100 + 20 * (k % 2)},
    ],
    ids=lambda v: next(iter(v)),
)
def test_what_differs_from_slice_to_slice_splits_no_volume(tmp_path: Path, values: dict[str, Any]) -> None:
    truth = SyntheticSeries()
    write_volumes(tmp_path, truth, [values])
    series = only_series(tmp_path)
    assert [stack.label for stack in series.stacks] == [""]
    assert not series.refused


@pytest.mark.parametrize(
    ("attributes", "labels"),
    [
        ([{"EchoTime": 4.9}, {"EchoTime": 2.4}], ["e2", "e1"]),
        ([{"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}], ["t001", "t002"]),
        ([{"AcquisitionNumber": 7}, {"AcquisitionNumber": 8}], ["a1", "a2"]),
        ([{"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}], ["b0", "b1000"]),
        ([{"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}], ["m", "p"]),
        ([{"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}], ["b30f", "b70f"]),
        ([{"InversionTime": 300}, {"InversionTime": 900}], ["ti1", "ti2"]),
        ([{"FrameReferenceTime": 0}, {"FrameReferenceTime": 60000}], ["t001", "t002"]),
    ],
    ids=lambda v: v[0] if isinstance(v[0], str) else "",
)
def test_what_tells_volumes_apart(tmp_path: Path, attributes: list[dict[str, Any]], labels: list[str]) -> None:
    write_volumes(tmp_path, SyntheticSeries(), attributes)
    series = only_series(tmp_path)
    assert contents(series) == {label: v for v, label in enumerate(labels)}
    (note,) = series.findings
    assert note.code == "several_volumes"
    assert note.severity == "note"


def test_gradient_directions_and_b_values(tmp_path: Path) -> None:
    weighted = {"DiffusionBValue": 1000.0}
    directions = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    write_volumes(
        tmp_path,
        SyntheticSeries(),
        [{"DiffusionBValue": 0.0}, *[{**weighted, "DiffusionGradientOrientation": d} for d in directions]],
    )
    series = only_series(tmp_path)
    assert contents(series) == {"b0": 0, "b1000_d01": 1, "b1000_d02": 2}
    assert [s.frames[0].b_value for s in series.stacks] == [0.0, 1000.0, 1000.0]
    assert [s.frames[0].gradient for s in series.stacks] == [None, (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]


def test_cine_phases_by_the_order_of_their_trigger_times(tmp_path: Path) -> None:
    """Each slice has its own heart rate, so that no trigger time occurs twice; the order at each slice counts."""
    phases = [{"TriggerTime": lambda k, p=p: round(p * (30 + 0.37 * k), 2)} for p in range(1, 4)]
    write_volumes(tmp_path, SyntheticSeries(), phases)
    series = only_series(tmp_path)
    assert contents(series) == {"p01": 0, "p02": 1, "p03": 2}
    assert "ordered_by_time" in codes(series.findings, "note")


def test_nothing_but_the_instance_number_tells_no_volumes_apart(tmp_path: Path) -> None:
    write_volumes(tmp_path, SyntheticSeries(), [{}, {}])
    (stack,) = only_series(tmp_path).stacks
    assert codes(stack.findings) == ["duplicate_position"]
    assert "6 of 6 positions hold more than one slice (up to 2, at" in stack.findings[0].message


def test_an_aborted_last_time_point_is_named(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    write_volumes(tmp_path, truth, [{"TemporalPositionIdentifier": t} for t in (1, 2, 3)])
    for k in (3, 4, 5):
        (tmp_path / "2" / f"000{k}.dcm").unlink()
    series = only_series(tmp_path)
    assert [len(s.frames) for s in series.stacks] == [6, 6, 3]
    finding = next(f for f in series.findings if f.code == "incomplete_volume")
    assert finding.message == "Volumes have 3 to 6 slices: 1 of 3 with 3."


def test_series_are_told_apart_by_their_uid(tmp_path: Path) -> None:
    study = generate_uid()
    for n in range(3):
        SyntheticSeries(seed=n, study_uid=study).write(tmp_path / str(n))
    assert len(scan(tmp_path).series) == 3


def enhanced(truth: SyntheticSeries, echoes: int, *, stack_of: Any = lambda k: "1") -> Dataset:
    """An Enhanced MR image of ``echoes`` volumes, slice by slice; rescale and position per frame."""
    ds = truth.dataset(0)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    ds.Modality = "MR"
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(ds, keyword)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [*truth.row, *truth.column]
    measures.PixelSpacing = list(truth.spacing_mm)
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    frames, pixels = [], []
    for k in reversed(range(truth.slices)):
        for echo in range(echoes):
            frame, position, content, values, timing = (Dataset() for _ in range(5))
            position.ImagePositionPatient = [float(v) for v in truth.origin_mm + truth.normal * truth.step_mm * k]
            content.StackID, content.InStackPositionNumber = stack_of(k), k + 1
            values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1 + echo, -k, "US"
            timing.EffectiveEchoTime = 5.0 * (echo + 1)
            frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
            frame.PixelValueTransformationSequence, frame.MREchoSequence = [values], [timing]
            frames.append(frame)
            pixels.append(truth.stored[k].tobytes())
    ds.PerFrameFunctionalGroupsSequence, ds.NumberOfFrames = frames, len(frames)
    ds.PixelData = b"".join(pixels)
    return ds


def test_an_enhanced_image_of_two_echoes(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    enhanced(truth, 2).save_as(tmp_path / "enhanced", enforce_file_format=True)
    series = only_series(tmp_path)
    assert [s.label for s in series.stacks] == ["e1", "e2"]
    for echo, stack in enumerate(series.stacks):
        volume = read_stack(stack)
        expected = truth.stored.T.astype(int) * (1 + echo) - np.arange(truth.slices)
        assert_array_equal(volume.voxels, expected)
        assert_allclose(volume.grid.affine_ras, truth.affine_ras, atol=1e-6)
        # Slices were written from the last to the first, two echoes each.
        assert [s.frame for s in volume.grid.slices] == [11 + echo - 2 * k for k in range(truth.slices)]


def test_stacks_of_an_enhanced_image(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    enhanced(truth, 1, stack_of=lambda k: "1" if k < 3 else "2").save_as(tmp_path / "x", enforce_file_format=True)
    assert [(s.label, len(s.frames)) for s in only_series(tmp_path).stacks] == [("part1", 3), ("part2", 3)]


def test_frames_that_nothing_places_are_refused(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    ds = truth.dataset(0)
    ds.NumberOfFrames, ds.PixelData = 6, truth.stored.tobytes()
    ds.save_as(tmp_path / "loop", enforce_file_format=True)
    (stack,) = only_series(tmp_path).stacks
    assert len(stack.frames) == 6
    assert "missing_tag" in codes(stack.findings)


def csa_header(normal: Sequence[float]) -> bytes:
    """A CSA2 header with the slice normal alone, as NiBabel's documentation describes the format."""
    tag = struct.pack("<64s i 4s i i i", b"SliceNormalVector", 3, b"FD", 4, 3, 77)
    items = [f"{v:.8f}".encode().ljust(16, b"\0") for v in normal]
    return struct.pack("<4s4s2I", b"SV10", b"\4\3\2\1", 1, 77) + tag + b"".join(
        struct.pack("<4i", 16, 16, 77, 16) + item for item in items
    )  # fmt: skip


def mosaic(truth: SyntheticSeries, *, normal: Sequence[float] | None = None) -> Dataset:
    """The slices of ``truth`` as a Siemens mosaic of 3×3 tiles; number of tiles and slice normal in private groups."""
    ds = truth.dataset(0)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.Manufacturer, ds.ImageType, ds.Modality = "SIEMENS", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], "MR"
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", truth.slices)
    csa = csa_header(truth.normal if normal is None else normal)
    ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa)
    picture = np.zeros((3 * truth.rows, 3 * truth.columns), np.uint16)
    for k in range(truth.slices):
        r, c = k // 3 * truth.rows, k % 3 * truth.columns
        picture[r : r + truth.rows, c : c + truth.columns] = truth.stored[k]
    ds.Rows, ds.Columns, ds.PixelData = *picture.shape, picture.tobytes()
    ds.SpacingBetweenSlices = truth.step_mm
    corner = (
        np.array(truth.origin_mm)
        - np.array(truth.row) * truth.spacing_mm[1] * truth.columns
        - np.array(truth.column) * truth.spacing_mm[0] * truth.rows
    )
    ds.ImagePositionPatient = [float(v) for v in corner]
    return ds


def test_a_mosaic_is_a_volume(tmp_path: Path) -> None:
    truth = SyntheticSeries(slices=8)
    mosaic(truth).save_as(tmp_path / "mosaic", enforce_file_format=True)
    (stack,) = only_series(tmp_path).stacks
    volume = read_stack(stack)
    assert_array_equal(volume.voxels, truth.values)
    assert_allclose(volume.grid.affine_ras, truth.affine_ras, atol=1e-6)


def test_the_slice_normal_says_which_way_a_mosaic_goes_on(tmp_path: Path) -> None:
    """Tiles against the normal: the last tile is the first slice."""
    truth = SyntheticSeries(slices=8)
    mosaic(truth, normal=-truth.normal).save_as(tmp_path / "mosaic", enforce_file_format=True)
    volume = read_stack(only_series(tmp_path).stacks[0])
    assert_array_equal(volume.voxels, truth.values[..., ::-1])
    first = np.array(truth.origin_mm) - 7 * truth.step_mm * truth.normal
    assert_allclose(volume.grid.affine_lps[:3, 3], first, atol=1e-6)


@pytest.mark.parametrize("group", [0x0019, 0x0029])
def test_a_mosaic_without_number_of_tiles_or_slice_normal_is_refused(tmp_path: Path, group: int) -> None:
    ds = mosaic(SyntheticSeries(slices=8))
    for element in [e for e in ds if e.tag.group == group]:
        del ds[element.tag]
    ds.save_as(tmp_path / "mosaic", enforce_file_format=True)
    (stack,) = only_series(tmp_path).stacks
    with pytest.raises(DicomError, match="keep the private groups 0019 and 0029"):
        read_stack(stack)


def test_a_mosaic_whose_slice_normal_lies_in_the_plane_is_refused(tmp_path: Path) -> None:
    mosaic(SyntheticSeries(slices=8), normal=[1, 0, 0]).save_as(tmp_path / "mosaic", enforce_file_format=True)
    assert "missing_tag" in codes(only_series(tmp_path).stacks[0].findings)


def test_a_mosaic_without_its_private_header_is_refused(tmp_path: Path) -> None:
    ds = mosaic(SyntheticSeries(slices=8))
    ds.remove_private_tags()
    ds.save_as(tmp_path / "mosaic", enforce_file_format=True)
    (stack,) = only_series(tmp_path).stacks
    assert "This is a Siemens mosaic whose private header is gone" in stack.findings[0].message
    assert codes(stack.findings) == ["missing_tag"]  # and not not_a_volume, by which it would be left out


def test_frames_that_the_functional_groups_leave_out_are_missed(tmp_path: Path) -> None:
    ds = enhanced(SyntheticSeries(), 1)
    del ds.PerFrameFunctionalGroupsSequence[-2:]
    ds.save_as(tmp_path / "enhanced", enforce_file_format=True)
    (stack,) = only_series(tmp_path).stacks
    assert codes(stack.findings) == ["contradictory_tags"]
    assert "enhanced holds 6 frames (NumberOfFrames) but places 4." in stack.findings[0].message


PRIVATE_DIFFUSION = {
    "SIEMENS": [
        (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "800"),
        (0x0019, "SIEMENS MR HEADER", 0x0E, "FD", [0, 0.6, 0.8]),
    ],
    "GE MEDICAL SYSTEMS": [(0x0043, "GEMS_PARM_01", 0x39, "IS", [1000000800, 8, 0, 0])],
    "Philips": [
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", 800.0),
        (0x2005, "Philips MR Imaging DD 001", 0xB0, "FL", 0.0),
        (0x2005, "Philips MR Imaging DD 001", 0xB1, "FL", 0.6),
        (0x2005, "Philips MR Imaging DD 001", 0xB2, "FL", 0.8),
    ],
}


@pytest.mark.parametrize("maker", PRIVATE_DIFFUSION)
def test_private_diffusion_weighting(tmp_path: Path, maker: str) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.Manufacturer = maker
        for group, creator, element, vr, value in PRIVATE_DIFFUSION[maker]:
            ds.private_block(group, creator, create=True).add_new(element, vr, value)

    SyntheticSeries().write(tmp_path, edit)
    frame = only_series(tmp_path).stacks[0].frames[0]
    assert frame.b_value == 800
    assert frame.gradient == (None if maker.startswith("GE") else pytest.approx((0, 0.6, 0.8)))


def test_private_numbers_of_another_owner_are_left_alone(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.private_block(0x0019, "SOMEONE ELSE", create=True).add_new(0x0C, "IS", "800")

    SyntheticSeries().write(tmp_path, edit)
    assert only_series(tmp_path).stacks[0].frames[0].b_value is None


ORDERED = {
    "time": [{"TemporalPositionIdentifier": t} for t in (1, 2, 3, 4)],
    "moment": [{"FrameReferenceTime": t} for t in (0, 5000, 60000, 200000)],
    "clock": [{"AcquisitionDate": "20240101", "AcquisitionTime": f"12000{t}", "AcquisitionNumber": 9 - t}
              for t in range(4)],
    "b_value": [{"DiffusionBValue": b} for b in (0.0, 50.0, 400.0, 1000.0)],
    "echo": [{"EchoTime": t} for t in (2.5, 5.0, 10.0, 12.5)],
    "phase": [{"TriggerTime": t} for t in (0, 9, 80, 700)],
}  # fmt: skip


@pytest.mark.parametrize("number", [lambda k: None, lambda k: k + 1, lambda k: 6 - k], ids=["none", "again", "down"])
@pytest.mark.parametrize("trait", ORDERED)
def test_volumes_follow_what_separates_them_not_their_numbers(tmp_path: Path, trait: str, number: Any) -> None:
    uids = ["1.2.3.9", "1.2.3.8", "1.2.3.2", "1.2.3.1"]
    attributes = [
        {**values, "InstanceNumber": number, "SOPInstanceUID": lambda k, uid=uid: f"{uid}.{k}"}
        for uid, values in zip(uids, ORDERED[trait], strict=True)
    ]
    write_volumes(tmp_path, SyntheticSeries(), attributes)
    assert list(contents(only_series(tmp_path)).values()) == [0, 1, 2, 3]


def test_gradient_directions_follow_the_clock(tmp_path: Path) -> None:
    attributes = [
        {
            "DiffusionBValue": 1000.0,
            "DiffusionGradientOrientation": direction,
            "AcquisitionDateTime": f"2024010112000{n}",
            "InstanceNumber": lambda k: k + 1,
            "SOPInstanceUID": lambda k, n=n: f"1.2.3.{9 - n}.{k}",
        }
        for n, direction in enumerate(([1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]))
    ]
    write_volumes(tmp_path, SyntheticSeries(), attributes)
    assert contents(only_series(tmp_path)) == {"d01": 0, "d02": 1, "d03": 2}


@pytest.mark.parametrize(
    ("clock", "seconds"),
    [
        (None, 2.5),
        (["120000"] * 4, 2.5),
        (["120000", "120002", "120005", "120007"], 2.5),  # whole seconds of 0, 2.5, 5, 7.5
        (["120000.0", "120002.4", "120004.8", "120007.2"], 2.4),
        (["120000", "120002", "120010", "120040"], None),
        (["120007", "120005", "120002", "120000"], None),
    ],
    ids=str,
)
def test_the_repetition_time_is_the_step_only_where_the_clock_agrees(
    tmp_path: Path, clock: list[str] | None, seconds: float | None
) -> None:
    times = [{"AcquisitionDate": "20240101", "AcquisitionTime": time} for time in clock] if clock else [{}] * 4
    attributes = [
        {"TemporalPositionIdentifier": t, "RepetitionTime": 2500.0, **values} for t, values in enumerate(times, 1)
    ]
    write_volumes(tmp_path, SyntheticSeries(), attributes)
    stacks = only_series(tmp_path).stacks
    assert list(contents(only_series(tmp_path)).values()) == [0, 1, 2, 3]
    assert seconds_between(stacks) == (seconds if seconds is None else pytest.approx(seconds))


def ge_diffusion(folder: Path, *, b_value: str = "1000000800") -> None:
    """One image without weighting and three directions, in GE's private attributes alone."""
    for n, direction in enumerate([(0, 0, 0), (1, 0, 0), (0, 0.6, 0.8), (0, 1, 0)]):

        def edit(ds: Dataset, k: int, *, n: int = n, direction: Any = direction) -> None:
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            ds.Manufacturer, ds.InstanceNumber = "GE MEDICAL SYSTEMS", 10 * n + k
            ds.PixelData = np.full((5, 7), n, np.uint16).tobytes()
            b = b_value if any(direction) else "0"
            ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [b, 8, 0, 0])
            block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
            for element, value in zip((0xBB, 0xBC, 0xBD), direction, strict=True):
                block.add_new(element, "DS", str(value))

        SyntheticSeries(series_uid="1.2.3.4", study_uid="1.2.3", reference_uid="1.2").write(folder / str(n), edit)


def test_ges_directions_tell_volumes_apart_and_make_no_gradient_table(tmp_path: Path) -> None:
    ge_diffusion(tmp_path)
    series = only_series(tmp_path)
    assert contents(series) == {"b0": 0, "b800_d01": 1, "b800_d02": 2, "b800_d03": 3}
    assert [s.frames[0].gradient for s in series.stacks] == [None] * 4
    assert diffusion_of(series.stacks) is None
    assert [[f.code for f in s.findings] for s in series.stacks] == [[], *[["gradient_axes"]] * 3]
    assert "in the scanner's own axes" in series.stacks[1].findings[0].message


def oriented(row: Sequence[float], column: Sequence[float], number: int) -> Frame:
    source = SliceRef(FileRef(Path(str(number))), "1.2", f"1.2.{number}")
    layout = PixelLayout(
        8, 8, 1, 1, "MONOCHROME2", 16, 16, 15, False, "PixelData", ExplicitVRLittleEndian, 0, 128, False
    )
    return Frame(source, layout, 8, 8, (0.0, 0.0, 0.0), tuple(row), tuple(column), (1.0, 1.0), instance_number=number)


def test_radial_frames_are_grouped_without_comparing_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 planes through one axis, 0.09° apart: none is of another's orientation."""
    compared = 0
    same = grouping._same_plane

    def counted(a: Frame, b: Frame) -> bool:
        nonlocal compared
        compared += 1
        return same(a, b)

    monkeypatch.setattr(grouping, "_same_plane", counted)
    angles = np.pi * np.arange(2000) / 2000
    frames = [oriented((float(np.cos(t)), float(np.sin(t)), 0.0), (0.0, 0.0, 1.0), n) for n, t in enumerate(angles)]
    assert len(group_frames(frames, lambda frame: "")) == 2000
    assert compared < 20 * 2000


@given(
    cosines=st.lists(st.floats(-1, 1), min_size=6, max_size=6),
    shifts=st.lists(st.floats(-0.999, 0.999), min_size=6, max_size=6),
)
def test_rounded_orientations_are_one_part_wherever_they_lie(cosines: list[float], shifts: list[float]) -> None:
    near = [c + s * ORIENTATION_TOLERANCE for c, s in zip(cosines, shifts, strict=True)]
    frames = [oriented(c[:3], c[3:], n) for n, c in enumerate((cosines, near))]
    assert {group.part for group in group_frames(frames, lambda frame: "")} == {1}
