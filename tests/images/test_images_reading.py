"""Reading 2D images and masks: every format in its own depth, oriented, and refused where it is damaged."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from medseg3d.errors import CaseError, DicomError, UsageError
from medseg3d.images import count_pages, read_image, read_mask
from medseg3d.images.model import ImageRef

GREY8 = np.arange(12 * 7, dtype=np.uint8).reshape(12, 7)
GREY16 = (GREY8.astype(np.uint16) * 700) + 3
RGB8 = np.stack([GREY8, GREY8[::-1], 255 - GREY8], axis=-1)
RGB16 = RGB8.astype(np.uint16) * 257 - (RGB8 > 0).astype(np.uint16)


def pillow(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def opencv(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("pixels", [GREY8, RGB8], ids=["grey", "colour"])
def test_eight_bits_come_as_they_were_written(tmp_path, suffix, pixels):
    image = read_image(pillow(tmp_path / f"a{suffix}", pixels))
    assert image.pixels.dtype == np.uint8
    assert image.value_range == (0, 255)
    np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("pixels", [GREY16, RGB16], ids=["grey", "colour"])
def test_sixteen_bits_are_kept_also_in_colours(tmp_path, suffix, pixels):
    """Pillow would hand colours of 16 bits over as 8."""
    image = read_image(opencv(tmp_path / f"a{suffix}", pixels))
    assert image.pixels.dtype == np.uint16
    assert image.value_range == (0, 65535)
    np.testing.assert_array_equal(image.pixels, pixels)


def test_floats_are_kept_and_bring_their_own_range(tmp_path):
    image = read_image(pillow(tmp_path / "a.tif", GREY8.astype(np.float32) / 7 + 100))
    assert image.pixels.dtype == np.float32
    assert image.value_range == pytest.approx((100, 100 + 83 / 7))


def test_jpeg_is_near(tmp_path):
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8), (0, 0), 6)
    image = read_image(pillow(tmp_path / "a.jpg", smooth, quality=95))
    assert np.abs(image.pixels.astype(int) - smooth).mean() < 2


@pytest.mark.parametrize(("mode", "expected"), [("LA", GREY8), ("RGBA", RGB8), ("P", RGB8), ("1", None)])
def test_alpha_is_dropped_palettes_are_colours_and_bits_black_and_white(tmp_path, mode, expected):
    path = tmp_path / "a.png"
    if mode == "1":
        Image.fromarray(GREY8 > 40).save(path)
        expected = np.where(GREY8 > 40, 255, 0)
    elif mode == "P":
        indexed = Image.fromarray(GREY8).convert("P")
        indexed.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
        indexed.save(path)
        expected = np.stack([GREY8, 255 - GREY8, np.full_like(GREY8, 7)], axis=-1)
    else:
        alpha = np.full((12, 7, 1), 9, np.uint8)
        Image.fromarray(np.concatenate([np.atleast_3d(expected), alpha], axis=-1), mode).save(path)
    np.testing.assert_array_equal(read_image(path).pixels, expected)


# What each EXIF orientation does to the stored rows, by its definition.
ORIENTED = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud, 5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].T, 8: lambda a: np.rot90(a, 1),
}  # fmt: skip


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_the_orientation_tag_is_applied(tmp_path, orientation, suffix):
    blocks = np.kron(np.array([[0, 80], [160, 240], [40, 120]], np.uint8), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if suffix == ".jpg" else {}
    image = read_image(pillow(tmp_path / f"a{suffix}", blocks, exif=exif, **options))
    expected = ORIENTED[orientation](blocks)
    assert image.pixels.shape == expected.shape
    np.testing.assert_allclose(image.pixels.astype(int), expected, atol=3)


@pytest.mark.parametrize("orientation", ORIENTED)
def test_the_orientation_of_deep_colours_is_applied(tmp_path, orientation):
    """They are read by another library, which has its own idea of the tag."""
    plain = opencv(tmp_path / "plain.png", RGB16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    data, chunk = plain.read_bytes(), _png_chunk(b"eXIf", exif.tobytes()[6:])
    path.write_bytes(data[:33] + chunk + data[33:])
    expected = np.stack([ORIENTED[orientation](RGB16[..., c]) for c in range(3)], axis=-1)
    np.testing.assert_array_equal(read_image(path).pixels, expected)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    import struct
    import zlib

    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_pages_are_asked_for(tmp_path):
    pages = [Image.fromarray(GREY8 + n) for n in range(3)]
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert count_pages(path) == 3
    np.testing.assert_array_equal(read_image(path, page=2).pixels, GREY8 + 2)
    np.testing.assert_array_equal(read_image(f"{path}#page=1").pixels, GREY8 + 1)
    with pytest.raises(CaseError, match=r"a.tif holds 3 pages: name one, as in a.tif#page=0"):
        read_image(path)
    with pytest.raises(CaseError, match=r"has no page 3: it holds 3, numbered from 0"):
        read_image(path, page=3)


def test_pages_of_deep_colours(tmp_path):
    path = tmp_path / "a.tif"
    assert cv2.imwritemulti(str(path), [RGB16[..., ::-1], RGB16])
    np.testing.assert_array_equal(read_image(path, page=1).pixels, RGB16[..., ::-1])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_truncated_image_is_refused(tmp_path, suffix, part):
    path = tmp_path / f"cut{suffix}"
    noise = np.random.default_rng(1).integers(0, 255, (90, 80, 3), np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, format=Image.registered_extensions()[suffix])
    path.write_bytes(whole.getvalue()[: int(len(whole.getvalue()) * part)])
    with pytest.raises(CaseError, match=rf"cut\{suffix}: .*(Copy the file again|Is it complete)"):
        read_image(path)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(CaseError, match=r"a.png: no image that can be read here; PNG, JPEG, TIFF"):
        read_image(tmp_path / "a.png")
    with pytest.raises(CaseError, match=r"b.png: no such file"):
        read_image(tmp_path / "b.png")
    Image.fromarray(np.full((3, 3), np.nan, np.float32)).save(tmp_path / "c.tif")
    with pytest.raises(CaseError, match="9 of 9 pixels are NaN"):
        read_image(tmp_path / "c.tif")


def test_equal_pixels_have_equal_contents_whatever_the_file(tmp_path):
    grey = read_image(pillow(tmp_path / "a.png", GREY8))
    assert grey.content == read_image(pillow(tmp_path / "b.tif", GREY8)).content
    assert grey.content == read_image(pillow(tmp_path / "c.bmp", np.repeat(GREY8[..., None], 3, axis=-1))).content
    assert grey.content != read_image(pillow(tmp_path / "d.png", GREY8.T)).content


def test_a_slice_of_a_volume(tmp_path):
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 3.0, 4.0, 1])), tmp_path / "v.nii.gz")
    image = read_image(tmp_path / "v.nii.gz", page=2)
    np.testing.assert_array_equal(image.pixels, voxels[:, :, 2].T)
    assert image.spacing_mm == (3.0, 2.0)
    with pytest.raises(CaseError, match=r"holds 6 slices: name one"):
        read_image(tmp_path / "v.nii.gz")
    nibabel.save(nibabel.Nifti1Image(voxels[..., 0].astype(np.uint8), np.eye(4)), tmp_path / "flat.nii")
    assert read_image(tmp_path / "flat.nii").pixels.dtype == np.uint8


# DICOM ---------------------------------------------------------------------------------------------------------------


def dicom(path: Path, pixels: np.ndarray, **attributes) -> Path:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = generate_uid(), generate_uid(), "CR"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    ds.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.itemsize
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in attributes.items():
        setattr(ds, name, value)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    return path


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def test_dicom_without_a_window_keeps_its_numbers_and_says_how_many_bits(tmp_path):
    image = read_image(dicom(tmp_path / "a", RAMP, BitsStored=12, PixelSpacing=[0.5, 0.25]))
    np.testing.assert_array_equal(image.pixels, RAMP)
    assert (image.pixels.dtype, image.value_range, image.spacing_mm) == (np.uint16, (0, 4095), (0.5, 0.25))


def test_monochrome1_is_turned_round(tmp_path):
    image = read_image(dicom(tmp_path / "a", RAMP, BitsStored=12, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(image.pixels, 4095 - RAMP)


def test_slope_and_intercept(tmp_path):
    image = read_image(dicom(tmp_path / "a", RAMP, BitsStored=12, RescaleSlope=2, RescaleIntercept=-1024))
    np.testing.assert_array_equal(image.pixels, RAMP * 2.0 - 1024)
    assert image.value_range == (-1024, 2 * 4095 - 1024)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_a_window_is_applied_as_pydicom_does(tmp_path, function, photometric):
    path = dicom(
        tmp_path / "a", RAMP, BitsStored=12, WindowCenter=1000, WindowWidth=800, VOILUTFunction=function,
        PhotometricInterpretation=photometric,
    )  # fmt: skip
    image = read_image(path)
    expected = pydicom.pixels.apply_windowing(RAMP, pydicom.dcmread(path)) / 4095
    if photometric == "MONOCHROME1":
        expected = 1 - expected
    assert image.pixels.dtype == np.uint16
    np.testing.assert_allclose(image.pixels / 65535, expected, atol=2e-5)


def test_windows_of_ones_own_and_none(tmp_path):
    path = dicom(
        tmp_path / "a", RAMP, BitsStored=12, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400
    )
    chosen = read_image(path, window=(-1000.0, 1000.0)).pixels
    assert chosen[RAMP == 1024] == pytest.approx(65535 / 2, abs=1)  # 0 HU lies in the middle
    assert chosen[RAMP == 24] == 0
    assert chosen[RAMP == 2024] == 65535
    np.testing.assert_array_equal(read_image(path, window="none").pixels, RAMP - 1024.0)
    with pytest.raises(UsageError, match=r"window is 'lung': give \(low, high\), none"):
        read_image(path, window="lung")
    with pytest.raises(UsageError, match=r"window is \[240, -160\]: give two numbers, the lower first"):
        read_image(path, window=[240, -160])


def test_a_window_of_a_nifti_slice(tmp_path):
    values = np.array([[-1000.0, -160.0], [40.0, 1500.0]], np.float32)  # x right, y down: rows are the second axis
    nibabel.save(nibabel.Nifti1Image(values[:, :, None], np.eye(4)), tmp_path / "ct.nii.gz")
    image = read_image(tmp_path / "ct.nii.gz", window=[-160, 240])
    assert image.pixels.tolist() == [[0, 32768], [0, 65535]]
    assert (image.pixels.dtype, image.value_range) == (np.uint16, (0, 65535))


def test_a_voi_lut_is_applied_before_a_window(tmp_path):
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4, 100, 8], np.array([0, 50, 200, 255], np.uint16).tobytes()
    path = dicom(tmp_path / "a", RAMP, BitsStored=12, VOILUTSequence=Sequence([lut]), WindowCenter=40, WindowWidth=400)
    image = read_image(path)
    assert [int(image.pixels[v == RAMP][0]) for v in (0, 100, 101, 102, 103, 4000)] == [0, 0, 50, 200, 255, 255]
    assert image.value_range == (0, 255)


@pytest.mark.parametrize("name", ["SC_rgb_rle.dcm", "SC_rgb_jpeg_dcmtk.dcm", "examples_palette.dcm"])
def test_colours_are_red_green_blue(name):
    path = get_testdata_file(name)
    ds = pydicom.dcmread(path)
    if "PALETTE" in ds.PhotometricInterpretation:
        expected = pydicom.pixels.apply_color_lut(ds.pixel_array, ds)
    else:
        expected = pydicom.pixels.pixel_array(ds)
    image = read_image(path)
    assert image.pixels.shape == (ds.Rows, ds.Columns, 3)
    np.testing.assert_array_equal(image.pixels, expected)


def test_a_frame_of_several(tmp_path):
    path = dicom(tmp_path / "a.dcm", RAMP, Rows=32, NumberOfFrames=2)
    assert count_pages(path) == 2
    with pytest.raises(DicomError, match=r"holds 2 frames: name one, as in a.dcm#page=0"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, page=1).pixels, RAMP[32:])
    colours = get_testdata_file("SC_rgb_rle_2frame.dcm")
    np.testing.assert_array_equal(read_image(colours, page=1).pixels, pydicom.dcmread(colours).pixel_array[1])


def test_damaged_dicom_is_refused(tmp_path):
    path = dicom(tmp_path / "a.dcm", RAMP)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DicomError, match="cut short"):
        read_image(path)
    with pytest.raises(DicomError, match=r"a DICOM object without an image \(RTPLAN\)"):
        read_image(get_testdata_file("rtplan.dcm"))


@pytest.mark.real_data
def test_one_slice_in_seven_transfer_syntaxes(data_dir):
    files = sorted((data_dir / "dicom_conformance/dcm_qa_ts/In").glob("*.dcm"))
    slices = {read_image(file, page=17, window="none").content for file in files}
    assert len(files) == 9  # some syntaxes twice
    assert len(slices) == 1


# Masks ---------------------------------------------------------------------------------------------------------------

IDS = np.array([[0, 1, 2], [2, 0, 1]], np.uint8)


def test_palette_indices_are_the_ids(tmp_path):
    indexed = Image.fromarray(IDS).convert("P")
    indexed.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    indexed.putdata(IDS.ravel().tolist())
    indexed.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", ids=(1, 2)).pixels, IDS)


@pytest.mark.parametrize("form", ["bits", "white", "rgb", "jpeg", "ids"])
def test_black_and_white_means_the_one_label(tmp_path, form):
    truth = np.kron(np.array([[0, 1], [1, 0]], np.uint8), np.ones((16, 16), np.uint8))
    path = tmp_path / ("m.jpg" if form == "jpeg" else "m.png")
    stored = {"bits": truth.astype(bool), "ids": truth, "rgb": np.repeat(truth[..., None] * 255, 3, axis=-1)}
    Image.fromarray(stored.get(form, truth * 255)).save(path)
    np.testing.assert_array_equal(read_mask(path, ids=(1,)).pixels, truth)
    np.testing.assert_array_equal(read_mask(path, ids=(5,)).pixels, truth * 5) if form in ("white", "rgb") else None


def test_masks_that_cannot_be_labels(tmp_path):
    with pytest.raises(CaseError, match=r"holds ids that labels does not name: 2 \(2 pixels\); known are 0, 1"):
        read_mask(pillow(tmp_path / "a.png", IDS), ids=(1,))
    with pytest.raises(CaseError, match="a mask with colours"):
        read_mask(pillow(tmp_path / "b.png", RGB8), ids=(1,))
    with pytest.raises(CaseError, match="a JPEG changes the numbers it stores"):
        read_mask(pillow(tmp_path / "c.jpg", np.kron(IDS, np.ones((8, 8), np.uint8))), ids=(1, 2))
    with pytest.raises(CaseError, match="not whole numbers from 0 on"):
        read_mask(pillow(tmp_path / "d.tif", IDS / np.float32(3)))


def test_a_jpeg_of_black_and_white_is_cut_at_half_also_before_labels_are_known(tmp_path):
    truth = np.zeros((64, 64), np.uint8)
    cv2.circle(truth, (30, 34), 18, 1, -1)
    mask = read_mask(pillow(tmp_path / "m.jpg", truth * 255, quality=80)).pixels
    np.testing.assert_array_equal(mask, truth * 255)


def test_an_ignored_id_and_many_ids(tmp_path):
    ignored = np.where(IDS == 2, np.uint8(255), IDS)
    np.testing.assert_array_equal(
        read_mask(pillow(tmp_path / "a.png", ignored), ids=(1, 2), ignore=255).pixels, ignored
    )
    many = IDS.astype(np.uint16) * 300
    mask = read_mask(opencv(tmp_path / "b.png", many))
    assert mask.pixels.dtype == np.int32
    np.testing.assert_array_equal(mask.pixels, many)


def test_a_page_in_a_name():
    assert ImageRef.parse("a/b#1.tif") == ImageRef(Path("a/b#1.tif"))
    assert ImageRef.parse("a/b.tif#page=12") == ImageRef(Path("a/b.tif"), 12)
    assert str(ImageRef(Path("a/b.tif"), 12)) == "a/b.tif#page=12"
