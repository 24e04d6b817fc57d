"""Laws of reading a series: order, names and copies of files do not matter; what is missing or repeated is named."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from synthetic_series import SyntheticSeries, codes

from medseg3d.dicom import DicomVolume, read_series, read_stack, scan
from medseg3d.errors import DicomError

LEAN = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def series(draw: st.DrawFn) -> SyntheticSeries:
    """Any orientation (left-handed ones cannot be: the normal is a cross product), spacing and size."""
    axis = draw(st.tuples(*[st.floats(-1, 1) for _ in range(4)]).filter(lambda q: np.linalg.norm(q) > 0.1))
    w, x, y, z = np.array(axis) / np.linalg.norm(axis)
    row = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    column = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    lengths = st.floats(0.3, 8)
    return SyntheticSeries(
        slices=draw(st.integers(2, 9)),
        rows=draw(st.integers(2, 6)),
        columns=draw(st.integers(2, 6)),
        row=row,
        column=column,
        spacing_mm=(draw(lengths), draw(lengths)),
        step_mm=draw(lengths),
        origin_mm=tuple(draw(st.floats(-500, 500)) for _ in range(3)),
        seed=draw(st.integers(0, 1000)),
    )


def assert_right(volume: DicomVolume, truth: SyntheticSeries, kept: list[int]) -> None:
    """Every slice of the volume is one of the truth's, and lies where that does."""
    assert_array_equal(volume.voxels, truth.values[:, :, kept])
    for k, index in ((0, kept[0]), (len(kept) - 1, kept[-1])):
        for corner in ((0, 0), (truth.columns - 1, truth.rows - 1)):
            assert_allclose(volume.grid.affine_ras @ [*corner, k, 1], truth.affine_ras @ [*corner, index, 1], atol=1e-4)


@LEAN
@given(truth=series(), data=st.data())
def test_names_and_numbers_of_files_do_not_matter(truth: SyntheticSeries, data: st.DataObject) -> None:
    numbers = data.draw(st.permutations(range(truth.slices)))
    with tempfile.TemporaryDirectory() as folder:
        files = truth.write(Path(folder), lambda ds, k: setattr(ds, "InstanceNumber", numbers[k] + 1))
        for file, number in zip(files, data.draw(st.permutations(range(truth.slices))), strict=True):
            file.rename(Path(folder) / f"x{number}")
        assert_right(read_series(folder), truth, list(range(truth.slices)))


@LEAN
@given(truth=series(), data=st.data())
def test_copies_of_files_are_left_out_and_mentioned(truth: SyntheticSeries, data: st.DataObject) -> None:
    copied = data.draw(st.lists(st.integers(0, truth.slices - 1), min_size=1, unique=True))
    with tempfile.TemporaryDirectory() as folder:
        files = truth.write(Path(folder))
        for k in copied:
            shutil.copy(files[k], Path(folder) / f"copy{k}")
        volume = read_series(folder)
    assert_right(volume, truth, list(range(truth.slices)))
    finding = next(f for f in volume.findings if f.code == "duplicate_file")
    assert finding.message.startswith(f"{len(copied)} file")


@LEAN
@given(truth=series(), data=st.data())
def test_repeated_slices_under_new_uids_are_refused(truth: SyntheticSeries, data: st.DataObject) -> None:
    repeated = data.draw(st.lists(st.integers(0, truth.slices - 1), min_size=1, unique=True))

    def renew(ds: Dataset, k: int) -> None:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()

    with tempfile.TemporaryDirectory() as folder:
        truth.write(Path(folder))
        truth.write(Path(folder, "again"), renew, only=repeated)
        (found,) = scan(folder).series
    assert codes(found.stacks[0].findings) == ["duplicate_position"]
    assert f"{len(repeated)} of {truth.slices} positions" in found.stacks[0].findings[0].message


@LEAN
@given(truth=series(), data=st.data())
def test_missing_slices_are_found_or_the_volume_is_right_without_them(
    truth: SyntheticSeries, data: st.DataObject
) -> None:
    kept = sorted(data.draw(st.sets(st.integers(0, truth.slices - 1), min_size=1)))
    steps = set(np.diff(kept).tolist())
    with tempfile.TemporaryDirectory() as folder:
        truth.write(Path(folder), only=kept)
        (stack,) = scan(folder).series[0].stacks
        if len(kept) == 1:
            assert codes(stack.findings) == ["not_a_volume"]
        elif len(steps) == 1:
            assert_right(read_stack(stack), truth, kept)
        else:
            assert set(codes(stack.findings)) <= {"gap", "uneven_spacing"}
            assert len(codes(stack.findings)) == 1


@LEAN
@given(truth=series(), echoes=st.integers(2, 3), times=st.integers(1, 3), data=st.data())
def test_volumes_of_one_series_are_told_apart(
    truth: SyntheticSeries, echoes: int, times: int, data: st.DataObject
) -> None:
    """Echoes and time points at the same positions, in any order of files: every volume is whole and right."""
    volumes = [(e, t) for e in range(echoes) for t in range(times)]
    numbers = data.draw(st.permutations(range(len(volumes) * truth.slices)))
    with tempfile.TemporaryDirectory() as folder:
        for v, (echo, time) in enumerate(volumes):

            def edit(ds: Dataset, k: int, *, v: int = v, echo: int = echo, time: int = time) -> None:
                ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
                ds.EchoTime, ds.TemporalPositionIdentifier = 5.0 * (echo + 1), time + 1
                ds.InstanceNumber = numbers[v * truth.slices + k] + 1
                ds.PixelData = ((truth.stored[k] + 100 * v) % 4096).astype(np.uint16).tobytes()

            truth.write(Path(folder, str(v)), edit)
        (found,) = scan(folder).series
        assert len(found.stacks) == len(volumes)
        for stack in found.stacks:
            echo = next(int(p[1:]) - 1 for p in stack.label.split("_") if p[0] == "e")
            time = next((int(p[1:]) - 1 for p in stack.label.split("_") if p[0] == "t"), 0)
            expected = (truth.values + 1024 + 100 * volumes.index((echo, time))) % 4096 - 1024
            assert_array_equal(read_stack(stack).voxels, expected)


@LEAN
@given(truth=series(), degrees=st.floats(0.5, 30))
def test_tilt_is_found_in_degrees(truth: SyntheticSeries, degrees: float) -> None:
    shift = truth.step_mm * np.tan(np.radians(degrees))

    def tilt(ds: Dataset, k: int) -> None:
        position = truth.origin_mm + truth.normal * truth.step_mm * k + np.array(truth.column) * shift * k
        ds.ImagePositionPatient = [f"{v:.8f}"[:16] for v in position]

    with tempfile.TemporaryDirectory() as folder:
        truth.write(Path(folder), tilt)
        (stack,) = scan(folder).series[0].stacks
        with pytest.raises(DicomError, match="off their normal"):
            read_stack(stack)
    finding = next(f for f in stack.findings if f.code == "gantry_tilt")
    assert abs(float(finding.message.split("°")[0].split()[-1]) - degrees) < 0.02
    assert stack.grid is not None
    assert_allclose(
        stack.grid.affine_lps[:3, 2], truth.normal * truth.step_mm + np.array(truth.column) * shift, atol=1e-4
    )
