"""Text beside the pixels of compressed images: it goes, and the images decode to the same voxels."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openjpeg import encode as encode_jpeg2000
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from medseg3d.dicom.bare_streams import bare_rle, bare_stream
from medseg3d.dicom.deidentifying import Deidentified, deidentify
from medseg3d.dicom.pixel_bytes import strip_streams
from medseg3d.errors import DicomError
from medseg3d.phantom.dicom import Patient, write_ct_series

SECRET = b"Anna Meier 19610203 "
PIXELS = np.add.outer(np.arange(64), 3 * np.arange(64)).astype(np.uint8)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(pixels: np.ndarray = PIXELS) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def jpeg_ls(pixels: np.ndarray = PIXELS) -> bytes:
    ds = image(JPEGBaseline8Bit, [])
    ds.PixelData = pixels.tobytes()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.compress(JPEGLSLossless)
    return next(generate_frames(ds.PixelData, number_of_frames=1))


def rle(pixels: np.ndarray = PIXELS) -> bytes:
    return pydicom.pixels.encoders.RLELosslessEncoder.encode(
        pixels, rows=64, columns=64, samples_per_pixel=1, bits_allocated=8, bits_stored=8, number_of_frames=1,
        pixel_representation=0, photometric_interpretation="MONOCHROME2",
    )  # fmt: skip


def image(syntax: str, frames: list[bytes]) -> pydicom.FileDataset:
    """A CT slice of Anna Meier-Schulz."""
    ds = pydicom.FileDataset("x", {}, preamble=bytes(128), file_meta=pydicom.dataset.FileMetaDataset())
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.2", "CT"
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "1.2.3", "1.2", "1"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Meier-Schulz^Anna", "P-1", "19610203"
    ds.Rows = ds.Columns = 64
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.NumberOfFrames = 1, "MONOCHROME2", max(1, len(frames))
    ds.PixelData = encapsulate(frames) if frames else b""
    ds["PixelData"].VR = "OB"
    return ds


def deidentified(ds: Dataset, folder: Path) -> Deidentified:
    source = folder / "in" / "slice.dcm"
    source.parent.mkdir()
    ds.save_as(source, enforce_file_format=True)
    return deidentify(source, folder / "out", key=bytes(16), workers=1)


@pytest.mark.filterwarnings("ignore:The decoded RLE segment contains non-conformant padding")  # the text
@pytest.mark.parametrize(
    ("syntax", "clean", "filthy"),
    [
        (JPEGBaseline8Bit, jpeg(), lambda s: s[:2] + segment(0xFE, SECRET) + segment(0xE1, b"Exif" + SECRET) + s[2:]),
        (JPEGBaseline8Bit, jpeg(), lambda s: s + SECRET),
        (JPEGLSLossless, jpeg_ls(), lambda s: s[:2] + segment(0xE8, b"SPIFF" + SECRET) + s[2:] + SECRET),
        (JPEG2000Lossless, encode_jpeg2000(PIXELS), lambda s: s.replace(b"\xff\x90", com() + b"\xff\x90", 1) + SECRET),
        (JPEG2000Lossless, encode_jpeg2000(PIXELS), lambda s: in_tile_part(s)),
        (RLELossless, rle(), lambda s: s + SECRET),
    ],
    ids=["JPEG", "behind JPEG", "JPEG-LS", "JPEG 2000", "JPEG 2000 tile part", "behind RLE"],
)
def test_text_in_a_stream_goes_and_the_pixels_stay(tmp_path: Path, syntax: str, clean: bytes, filthy):
    before = image(syntax, [clean]).pixel_array
    ds = image(syntax, [filthy(clean)])
    np.testing.assert_array_equal(ds.pixel_array, before)  # decoders pass over it
    result = deidentified(ds, tmp_path)
    (written,) = result.written
    content = written.read_bytes().lower()
    assert not [word for word in (b"anna", b"meier", b"19610203") if word in content]
    np.testing.assert_array_equal(pydicom.dcmread(written).pixel_array, before)
    done = {(entry["keyword"], entry["action"]) for entry in result.as_json()["attributes"]}
    assert ("PixelData", "removed what is no image from the stream") in done


def com() -> bytes:
    return segment(0x64, b"\0\1" + SECRET)


def in_tile_part(stream: bytes) -> bytes:
    """A comment in the header of the first tile part, whose length grows."""
    at = stream.index(b"\xff\x90")
    length = int.from_bytes(stream[at + 6 : at + 10], "big") + len(com())
    return stream[: at + 6] + length.to_bytes(4, "big") + stream[at + 10 : at + 12] + com() + stream[at + 12 :]


def test_a_jpeg_without_text_stays_byte_for_byte():
    bare = jpeg()[:2] + jpeg()[20:]  # without its JFIF header
    assert bare_stream(bare).content == bare
    assert bare_stream(bare + b"\0" * 9).content == bare
    between = bare.index(b"\xff\xda")
    assert bare_stream(bare[:between] + b"Anna\xff\xff" + segment(0xFE, b"Anna") + bare[between:]).content == bare


def test_what_decoders_take_colours_from_stays_and_nothing_beside_it():
    bare = jpeg()[:2] + jpeg()[20:]
    adobe = b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 1)
    found = bare_stream(bare[:2] + segment(0xEE, b"Adobe" + b"Anna__" + b"\1" + SECRET) + bare[2:]).content
    assert found == bare[:2] + segment(0xEE, adobe) + bare[2:]
    rgb = np.stack([PIXELS, PIXELS[::-1], PIXELS.T], axis=-1)
    np.testing.assert_array_equal(*(Image.open(BytesIO(s)) for s in (jpeg(rgb), bare_stream(jpeg(rgb)).content)))


def test_a_scan_of_jpeg_ls_may_hold_what_ends_one_of_jpeg():
    """After FF, JPEG-LS goes on with a bit that is 0: FF 7F is a part of its pixels, not a marker."""
    head = b"\xff\xd8" + segment(0xF7, bytes(9)) + segment(0xDA, bytes(8))
    assert bare_stream(head + b"ab\xff\x7fcd\xff\xd9" + SECRET).content == head + b"ab\xff\x7fcd\xff\xd9"


def test_a_stream_without_its_end_stays_readable():
    assert bare_stream(jpeg()[:-2]).content[-30:] == jpeg()[-32:-2]
    assert bare_stream(encode_jpeg2000(PIXELS)[:-2]).content == bare_stream(encode_jpeg2000(PIXELS)).content


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"\0\0\0\x0cjP  " + SECRET, r"begins with the bytes 00 00 00 0c: .*Decompress the file first"),
        (b"\xff\xd8" + segment(0xF0, SECRET), r"an unknown part \(FFF0\)"),
        (b"\xff\xd8\xff\xdb\0\x99" + SECRET, r"end within a part \(FFDB\): is it a whole file"),
        (b"\xff\x4f" + segment(0x30, SECRET), r"an unknown part \(ff30\)"),
        (b"\xff\x4f" + segment(0x51, SECRET), r"an unknown part \(\)"),
    ],
)
def test_streams_that_cannot_be_searched_are_refused(stream: bytes, message: str):
    with pytest.raises(DicomError, match=message):
        bare_stream(stream)


def test_rle_headers_that_do_not_fit_are_refused():
    for header in ([], [0], [2, 64], [1, 9999]):
        with pytest.raises(DicomError, match="the header of its RLE pixels does not fit"):
            bare_rle(struct.pack("<16I", *header, *[0] * (16 - len(header))) + b"\1ab", plane_bytes=2)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([jpeg(), jpeg_ls(), encode_jpeg2000(PIXELS)]), st.data())
def test_damaged_streams_are_refused_or_cut(stream: bytes, data: st.DataObject):
    damaged = bytearray(stream[: data.draw(st.integers(2, len(stream)))])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = bare_stream(bytes(damaged)).content
    except DicomError:
        return
    assert len(found) <= len(damaged) + 2  # an end may be added
    assert bare_stream(found).content == found


@pytest.mark.parametrize(
    "name",
    [
        "JPEGLSNearLossless_16.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_jls_lossy_line.dcm",
        "SC_rgb_rle_32bit_2frame.dcm", "SC_rgb_small_odd_jpeg.dcm", "examples_ybr_color.dcm", "rtdose_rle.dcm",
        "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_app14_dcmd.dcm",
    ],
)  # fmt: skip
def test_files_of_pydicom_decode_to_the_same(name: str):
    ds = pydicom.dcmread(get_testdata_file(name, download=False))
    before = ds.pixel_array
    strip_streams(ds, ds.file_meta.TransferSyntaxUID)
    ds["PixelData"].value = bytes(ds.PixelData)
    np.testing.assert_array_equal(pydicom.pixels.pixel_array(encoded(ds)), before)


def encoded(ds: Dataset) -> BytesIO:
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return stream


def test_frames_in_fragments_and_with_long_offset_tables():
    clean = [jpeg(PIXELS), jpeg(PIXELS.T)]
    filthy = [stream[:2] + segment(0xFE, SECRET) + stream[2:] for stream in clean]
    in_fragments = image(JPEGBaseline8Bit, filthy)
    in_fragments["PixelData"].value = encapsulate(filthy, fragments_per_frame=3)
    long = image(JPEGBaseline8Bit, filthy)
    long["PixelData"].value, long.ExtendedOffsetTable, long.ExtendedOffsetTableLengths = encapsulate_extended(filthy)
    extra = image(JPEGBaseline8Bit, filthy)
    extra["PixelData"].value = encapsulate([*filthy, SECRET])
    for ds in (in_fragments, long, extra):
        assert strip_streams(ds, JPEGBaseline8Bit)[0]
        assert "ExtendedOffsetTable" not in ds
        assert b"Anna" not in ds.PixelData
        np.testing.assert_array_equal(ds.pixel_array, image(JPEGBaseline8Bit, clean).pixel_array)
    in_fragments.NumberOfFrames = 3
    with pytest.raises(DicomError, match="it has 2 of 3 frames"):
        strip_streams(in_fragments, JPEGBaseline8Bit)


def test_video_and_names_in_tables_are_refused(tmp_path: Path):
    (tmp_path / "a").mkdir()
    ((_, reason),) = deidentified(image(MPEG2MPML, [bytes(999)]), tmp_path / "a").refused
    assert "compressed as MPEG2 Main Profile / Main Level: decompress the file, or leave it out" in reason
    (tmp_path / "b").mkdir()
    stream = jpeg()[:2] + segment(0xCC, b"\3Anna\3") + jpeg()[2:]  # a table of arithmetic coding, which is not used
    ((_, reason),) = deidentified(image(JPEGBaseline8Bit, [stream]), tmp_path / "b").refused
    assert reason == "a name, an id or a date is in the tables of its compressed pixels: decompress it first"


def test_the_last_check_looks_into_deflated_files(tmp_path: Path):
    write_ct_series(np.zeros((16, 16, 2), np.int16), np.eye(4), tmp_path / "ct", patient=Patient("MRN-7741520"))
    ds = pydicom.dcmread(min((tmp_path / "ct").iterdir()))
    ds["PixelData"].value = b" MRN-7741520 ".ljust(512, b"\0")
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert b"MRN-7741520" not in encoded(ds).getvalue()  # not to be seen from outside
    ((_, reason),) = deidentified(ds, tmp_path).refused
    assert "an identifier is still in its bytes" in reason
