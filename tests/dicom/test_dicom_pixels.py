"""Stored values to values: every sample format, rescale, unused bits, transfer syntaxes, the type that results."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from synthetic_series import SyntheticSeries, codes

from medseg3d.dicom import Stack, ValueRangeError, iter_slices, read_series, read_stack, scan, stack_dtype
from medseg3d.dicom.pixels import stored_frames
from medseg3d.dicom.rescale import clean_bits, smallest_integer
from medseg3d.errors import DicomError


def the_stack(folder: Path) -> Stack:
    (series,) = scan(folder).series
    (stack,) = series.stacks
    return stack


def set_format(ds: Dataset, dtype: str, stored_bits: int | None = None) -> None:
    kind = np.dtype(dtype)
    ds.BitsAllocated = kind.itemsize * 8
    ds.BitsStored = stored_bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(kind.kind == "i")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("u1", "uint8"), ("i1", "int16"), ("u2", "uint16"), ("i2", "int16"), ("u4", "uint32"), ("i4", "int32")],
)
def test_every_integer_format_keeps_its_extremes(tmp_path: Path, dtype: str, expected: str) -> None:
    truth = SyntheticSeries(rows=2, columns=2)
    limits = np.iinfo(dtype)
    values = np.array([[limits.min, limits.max], [0, 1]], dtype)

    def edit(ds: Dataset, k: int) -> None:
        set_format(ds, dtype)
        ds.RescaleIntercept = 0
        ds.PixelData = values.tobytes()

    truth.write(tmp_path, edit)
    volume = read_series(tmp_path)
    assert volume.voxels.dtype == expected
    assert_array_equal(volume.voxels[:, :, 3], values.T)


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "f4"), ("DoubleFloatPixelData", "f8")])
def test_float_pixel_data_are_float32(tmp_path: Path, keyword: str, dtype: str) -> None:
    truth = SyntheticSeries(rows=2, columns=2)
    values = np.array([[0.1, -2.5], [1e6, 0]], dtype)

    def edit(ds: Dataset, k: int) -> None:
        del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleSlope, ds.RescaleIntercept
        ds.BitsAllocated = values.itemsize * 8
        setattr(ds, keyword, values.tobytes())

    truth.write(tmp_path, edit)
    volume = read_series(tmp_path)
    assert volume.voxels.dtype == np.float32
    assert_array_equal(volume.voxels[:, :, 0], values.T.astype(np.float32))


def test_rescale_differs_by_slice_as_in_pet(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    slopes = [0.1, 0.25, 1.5, 2.0, 3.25, 0.0123]

    def edit(ds: Dataset, k: int) -> None:
        ds.RescaleSlope, ds.RescaleIntercept, ds.Modality, ds.Units = slopes[k], 0, "PT", "BQML"

    truth.write(tmp_path, edit)
    stack = the_stack(tmp_path)
    assert stack.series.unit == "BQML"
    voxels = read_stack(stack).voxels
    assert voxels.dtype == np.float32
    assert_allclose(voxels, truth.stored.T * np.array(slopes), rtol=1e-7)


def test_whole_slopes_and_intercepts_stay_integers(tmp_path: Path) -> None:
    truth = SyntheticSeries()

    def edit(ds: Dataset, k: int) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = -2, 5

    truth.write(tmp_path, edit)
    volume = read_series(tmp_path)
    assert volume.voxels.dtype == np.int16
    assert_array_equal(volume.voxels, 5 - 2 * truth.stored.astype(int).T)


@pytest.mark.parametrize(("highest", "expected"), [(33791, np.int16), (33792, np.int32)])
def test_a_ct_of_16_stored_bits_is_int16_where_it_fits(tmp_path: Path, highest: int, expected: type) -> None:
    """-1024 + 33791 = 32767, the greatest int16; the headers alone would allow -1024 + 65535."""
    truth = SyntheticSeries()
    stored = truth.stored.copy()
    stored[4, 2, 3] = highest

    def edit(ds: Dataset, k: int) -> None:
        set_format(ds, "u2")
        ds.PixelData = stored[k].tobytes()

    truth.write(tmp_path, edit)
    stack = the_stack(tmp_path)
    assert stack_dtype(stack) == np.int32
    assert stack_dtype(stack, likely=True) == np.int16
    voxels = read_stack(stack).voxels
    assert voxels.dtype == expected
    assert_array_equal(voxels, stored.astype(int).T - 1024)
    if expected is np.int32:
        with pytest.raises(ValueRangeError, match=r"values from -\d+ to 32768 do not fit int16"):
            list(iter_slices(stack, dtype=np.int16))


def test_an_integer_type_for_fractions_is_refused(tmp_path: Path) -> None:
    SyntheticSeries().write(tmp_path, lambda ds, k: setattr(ds, "RescaleSlope", 0.5))
    with pytest.raises(ValueRangeError, match="are not integers"):
        list(iter_slices(the_stack(tmp_path), dtype=np.int16))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 255, "uint8"), (-1, 255, "int16"), (0, 4095, "int16"), (0, 65535, "uint16"), (-1, 65535, "int32"),
     (0, 2**32 - 1, "uint32"), (-1, 2**32 - 1, "float32")],
)  # fmt: skip
def test_smallest_integer(low: int, high: int, expected: str) -> None:
    assert smallest_integer(low, high) == expected


def test_signed_samples_of_12_bits_get_their_sign(tmp_path: Path) -> None:
    """-3 in 12 bits is 0xFFD; the four bits above may be zero (PS3.5, 8.1.1)."""
    truth = SyntheticSeries(rows=1, columns=2)

    def edit(ds: Dataset, k: int) -> None:
        set_format(ds, "i2", 12)
        ds.RescaleIntercept = 0
        ds.PixelData = np.array([0x0FFD, 5], "<u2").tobytes()

    truth.write(tmp_path, edit)
    volume = read_series(tmp_path)
    assert volume.voxels[:, 0, 0].tolist() == [-3, 5]
    assert "unused_bits" not in [f.code for f in volume.findings]


def test_bits_above_the_stored_ones_are_cleared_and_named(tmp_path: Path) -> None:
    truth = SyntheticSeries(rows=1, columns=2)

    def edit(ds: Dataset, k: int) -> None:
        ds.PixelData = np.array([0xF00A, 7], "<u2").tobytes()

    truth.write(tmp_path, edit)
    volume = read_series(tmp_path)
    assert volume.voxels[:, 0, 0].tolist() == [10 - 1024, 7 - 1024]
    finding = next(f for f in volume.findings if f.code == "unused_bits")
    assert finding.severity == "warning"
    assert "6 of 6 slices have bits set above the 12 that BitsStored declares" in finding.message


def test_samples_at_the_top_of_their_word_are_shifted(tmp_path: Path) -> None:
    truth = SyntheticSeries(rows=1, columns=2)

    def edit(ds: Dataset, k: int) -> None:
        ds.HighBit = 15
        ds.PixelData = np.array([0x1230, 0xFFF0], "<u2").tobytes()

    truth.write(tmp_path, edit)
    (stack,) = scan(tmp_path).series[0].stacks
    frame = stack.frames[0]
    cleaned, surprising = clean_bits(np.array([[0x1230, 0xFFF0]], "<u2"), frame.layout)
    assert cleaned.tolist() == [[0x123, 0xFFF]]
    assert not surprising
    assert read_stack(stack).voxels[:, 0, 0].tolist() == [0x123 - 1024, 0xFFF - 1024]


def compress(syntax: Any) -> Any:
    def edit(ds: Dataset, k: int) -> None:
        ds.compress(syntax, generate_instance_uid=False)

    return edit


def test_rle_by_pydicom(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    truth.write(tmp_path, compress(RLELossless))
    stack = the_stack(tmp_path)
    assert stack.series.transfer_syntaxes == (RLELossless,)
    assert_array_equal(read_stack(stack).voxels, truth.values)


def test_jpeg_2000_by_openjpeg_in_worker_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openjpeg

    from medseg3d.dicom import volume as volume_module

    truth = SyntheticSeries(slices=20, rows=64, columns=48)

    def edit(ds: Dataset, k: int) -> None:
        frame = openjpeg.encode(truth.stored[k], bits_stored=12, photometric_interpretation=2)  # type: ignore[attr-defined]
        ds.PixelData = pydicom.encaps.encapsulate([bytes(frame)])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless

    truth.write(tmp_path, edit)
    stack = the_stack(tmp_path)
    assert_array_equal(read_stack(stack, workers=1).voxels, truth.values)
    monkeypatch.setattr(volume_module, "_PARALLEL_BYTES", 0)
    assert_array_equal(read_stack(stack, workers=2).voxels, truth.values)
    # A worker of a DataLoader is a daemon, which may have no children.
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    daemon = context.Process(target=lambda: queue.put(read_stack(stack, workers=2).voxels), daemon=True)
    daemon.start()
    assert_array_equal(queue.get(timeout=60), truth.values)
    daemon.join()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_transfer_syntaxes(tmp_path: Path, syntax: Any) -> None:
    truth = SyntheticSeries()

    def edit(ds: Dataset, k: int) -> None:
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = truth.stored[k].astype(">u2").tobytes()

    truth.write(tmp_path, edit)
    stack = the_stack(tmp_path)
    assert stack.series.transfer_syntaxes == (syntax,)
    assert_array_equal(read_stack(stack).voxels, truth.values)


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    truth.write(tmp_path, compress(RLELossless))
    file = tmp_path / "0003.dcm"
    data = bytearray(file.read_bytes())
    start = data.index(b"\xfe\xff\x00\xe0", data.index(b"\xe0\x7f\x10\x00") + 16) + 8
    data[start : start + 64] = b"\xff" * 64  # the RLE header: number and offsets of segments
    file.write_bytes(data)
    with pytest.raises(DicomError, match=r"0003\.dcm cannot be decoded \(RLE Lossless\): .* Export the file again"):
        read_series(tmp_path)


def test_a_header_that_wants_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.Rows = ds.Columns = 60000

    SyntheticSeries().write(tmp_path, edit)
    stack = the_stack(tmp_path)
    assert codes(stack.findings) == ["undecodable_frame"]
    with pytest.raises(DicomError, match="its header wants 7200000000"):
        read_stack(stack)
    with pytest.raises(DicomError, match="60000×60000 pixels of 16 bits are no possible image"):
        list(iter_slices(stack))


def test_slices_stream_in_the_byte_order_of_nifti(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    truth.write(tmp_path)
    planes = list(iter_slices(the_stack(tmp_path)))
    assert all(plane.T.flags.c_contiguous for plane in planes)
    assert b"".join(p.T.tobytes() for p in planes) == truth.values.astype(np.int16).tobytes(order="F")


def test_real_world_values_are_used_where_there_is_no_rescale_and_mentioned_otherwise(tmp_path: Path) -> None:
    truth = SyntheticSeries()

    def mapped(ds: Dataset, k: int) -> None:
        unit = Dataset()
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "{SUVbw}g/ml", "UCUM", "SUV body weight"
        item = Dataset()
        item.RealWorldValueSlope, item.RealWorldValueIntercept = 0.5, 0.0
        item.MeasurementUnitsCodeSequence = [unit]
        ds.RealWorldValueMappingSequence = [item]

    def mapped_only(ds: Dataset, k: int) -> None:
        mapped(ds, k)
        del ds.RescaleSlope, ds.RescaleIntercept

    truth.write(tmp_path / "both", mapped)
    both = read_series(tmp_path / "both")
    assert_array_equal(both.voxels, truth.values)
    finding = next(f for f in both.findings if f.code == "real_world_values")
    assert "{SUVbw}g/ml as well (slope 0.5)" in finding.message
    truth.write(tmp_path / "only", mapped_only)
    only = the_stack(tmp_path / "only")
    assert only.series.unit == "{SUVbw}g/ml"
    assert_array_equal(read_stack(only).voxels, truth.stored.T * np.float32(0.5))


@pytest.mark.parametrize("vr", ["OW", "OB"])
@pytest.mark.parametrize("frames", [1, 3])
def test_big_endian_bytes_in_words_equal_pydicoms(tmp_path: Path, vr: str, frames: int) -> None:
    """8-bit samples as OW: each pair is swapped; frames of 35 bytes begin in the middle of a word."""
    truth = SyntheticSeries()
    samples = np.arange(frames * 35, dtype=np.uint8)

    def edit(ds: Dataset, k: int) -> None:
        set_format(ds, "u1")
        ds.file_meta.TransferSyntaxUID, ds.NumberOfFrames = ExplicitVRBigEndian, frames
        padded = np.append(samples, np.zeros(samples.size % 2, np.uint8))
        ds.PixelData = (padded.view(">u2").astype("<u2") if vr == "OW" else padded).tobytes()
        ds["PixelData"].VR = vr

    (file,) = truth.write(tmp_path, edit, only=[0])
    stored = np.array(list(stored_frames(the_stack(tmp_path).frames)))
    assert_array_equal(stored, samples.reshape(frames, 5, 7))
    assert_array_equal(stored.squeeze(), pydicom.dcmread(file).pixel_array)
