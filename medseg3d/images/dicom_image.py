"""Single frames of DICOM as a radiologist sees them: rescaled, windowed, and bright where values are large.

Source: DICOM PS3.3, C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.11.6 (Presentation LUT shape).
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg3d.dicom.attributes import first, items, numbers, text
from medseg3d.dicom.files import Opener
from medseg3d.dicom.frames import Frame, Header
from medseg3d.dicom.headers import FILE_ERRORS, Other, Unreadable, read_file, reason_of
from medseg3d.dicom.model import FileRef
from medseg3d.dicom.pixels import stored_frames
from medseg3d.dicom.rescale import clean_bits
from medseg3d.errors import CaseError, DicomError
from medseg3d.images.image import WHITE, Image2D, Window, to_white

__all__ = ["dicom_pages", "dicom_patient", "read_dicom"]

Values = tuple[NDArray[Any], tuple[float, float]]
"""Pixels, and the least and greatest value that they can have."""


def read_dicom(path: Path, page: int | None, window: Window) -> Image2D:
    """Read the frame ``page`` of a DICOM image.

    Raises:
        DicomError: see ``medseg3d.images.read_image``.
    """
    header = _header(path)
    frame = _chosen(header, page, path)
    try:
        with warnings.catch_warnings(), Opener() as opener, opener.open(FileRef(path)) as stream:
            warnings.simplefilter("ignore")
            # Colours are decoded by pydicom from the whole data set; grey values need its attributes alone.
            colours = frame.layout.samples > 1 or frame.layout.photometric == "PALETTE COLOR"
            ds = pydicom.dcmread(stream, stop_before_pixels=not colours, force=True)
            pixels, value_range = _colours(ds, frame) if colours else _grey(ds, header, frame, window)
    except FILE_ERRORS as error:
        if isinstance(error, CaseError):
            raise
        raise DicomError(f"{path}: the image cannot be decoded ({reason_of(error)}). Export the file again.") from error
    return Image2D(np.ascontiguousarray(pixels), value_range, _spacing_mm(header, frame), path)


def dicom_pages(path: Path) -> int:
    """How many frames there are.

    Raises:
        DicomError: no image, or not readable.
    """
    return len(_header(path).frames)


def dicom_patient(path: Path) -> str:
    """A pseudonym made from PatientID, so that a list holds no id; "" where there is none, or no image."""
    with Opener() as opener:
        header = read_file(FileRef(path), opener)
    patient_id = header.patient_id.strip() if isinstance(header, Header) else ""
    return f"patient_{hashlib.blake2b(patient_id.encode(), digest_size=5).hexdigest()}" if patient_id else ""


def _header(path: Path) -> Header:
    with Opener() as opener:
        header = read_file(FileRef(path), opener)
    if isinstance(header, Unreadable):
        raise DicomError(f"{path}: cannot be read ({header.reason}). Copy the file again.")
    if header is None or isinstance(header, Other):
        raise DicomError(
            f"{path}: a DICOM object without an image ({getattr(header, 'modality', '') or 'no modality'})."
        )
    return header


def _chosen(header: Header, page: int | None, path: Path) -> Frame:
    frames = len(header.frames)
    if page is None and frames > 1:
        raise DicomError(f"{path} holds {frames} frames: name one, as in {path.name}#page=0.")
    if page is not None and not 0 <= page < frames:
        raise DicomError(f"{path} has no frame {page}: it holds {frames}, numbered from 0.")
    return header.frames[page or 0]


def _spacing_mm(header: Header, frame: Frame) -> tuple[float, float] | None:
    spacing = frame.spacing_mm or header.imager_spacing_mm
    return (float(spacing[0]), float(spacing[1])) if spacing and len(spacing) == 2 and min(spacing) > 0 else None


def _colours(ds: Dataset, frame: Frame) -> Values:
    from pydicom.pixels import apply_color_lut, pixel_array

    from medseg3d.dicom import openjpeg_plugin

    openjpeg_plugin.register()
    pixels = pixel_array(ds, index=frame.index)
    if frame.layout.photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, ds)
    elif frame.layout.bits_stored < 8 * pixels.dtype.itemsize:
        return pixels[..., :3], (0.0, float(2**frame.layout.bits_stored - 1))
    return pixels[..., :3], (0.0, float(np.iinfo(pixels.dtype).max))


def _grey(ds: Dataset, header: Header, frame: Frame, window: Window) -> Values:
    stored, _ = clean_bits(next(iter(stored_frames([frame]))), frame.layout)
    pixels, value_range = _modality(stored, ds, header, frame)
    if not (window is None or isinstance(window, str)):
        low, high = map(float, window)
        pixels, value_range = to_white((pixels - low) / (high - low)), (0.0, WHITE)
    elif window != "none":
        pixels, value_range = _voi(pixels, value_range, ds, frame)
    if frame.layout.photometric == "MONOCHROME1" or text(ds, "PresentationLUTShape") == "INVERSE":
        pixels = (sum(value_range) - pixels.astype(np.float64)).astype(pixels.dtype)
    return pixels, value_range


def _modality(stored: NDArray[Any], ds: Dataset, header: Header, frame: Frame) -> Values:
    """Stored values through the modality LUT, or slope and intercept."""
    from pydicom.pixels import apply_modality_lut

    if frame.unusable:
        wrong = " and ".join(frame.unusable)
        raise CaseError(f"{wrong} of this image is empty or no number: its values have no scale. Export it again.")
    stored = stored.astype(stored.dtype.newbyteorder("="))
    if header.modality_lut:
        values = apply_modality_lut(stored, ds)
        bits = _lut_bits(first(ds, "ModalityLUTSequence"))
        return values, (0.0, float(2**bits - 1))
    if stored.dtype.kind == "f":
        values = stored.astype(np.float64) * frame.slope + frame.intercept
        return values.astype(np.float32), (float(values.min()), float(values.max()))
    bits = frame.layout.bits_stored
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if frame.layout.signed else (0, 2**bits - 1)
    low, high = sorted(end * frame.slope + frame.intercept for end in ends)
    if (frame.slope, frame.intercept) == (1, 0) and stored.dtype in (np.uint8, np.uint16):
        return stored, (low, high)
    return (stored.astype(np.float64) * frame.slope + frame.intercept).astype(np.float32), (low, high)


def _voi(pixels: NDArray[Any], value_range: tuple[float, float], ds: Dataset, frame: Frame) -> Values:
    """Values through the VOI LUT or the first window that the file has."""
    from pydicom.pixels import apply_voi

    macro = _voi_macro(ds, frame)
    if lut := items(macro, "VOILUTSequence"):
        values = apply_voi(np.rint(pixels).astype(np.int64), macro, index=0)
        return values, (0.0, float(2 ** _lut_bits(lut[0]) - 1))
    centre, width = numbers(macro, "WindowCenter"), numbers(macro, "WindowWidth")
    if not centre or not width:
        return pixels, value_range
    shown = _windowed(pixels.astype(np.float64), centre[0], width[0], text(macro, "VOILUTFunction"))
    return to_white(shown), (0.0, WHITE)


def _voi_macro(ds: Dataset, frame: Frame) -> Dataset:
    """Where window and VOI LUT stand: of the frame, of all frames, or of the instance."""
    per_frame = items(ds, "PerFrameFunctionalGroupsSequence")
    groups = [per_frame[frame.index]] if frame.index < len(per_frame) else []
    for group in (*groups, first(ds, "SharedFunctionalGroupsSequence")):
        if found := items(group, "FrameVOILUTSequence"):
            return found[0]
    return ds


def _windowed(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """0 (black) to 1 (white), by the formulas of PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / max(width, 1e-9)))
    if function == "LINEAR_EXACT":
        return (values - centre) / max(width, 1e-9) + 0.5
    if width <= 1:
        return (values > centre - 0.5).astype(np.float64)
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def _lut_bits(lut: Dataset) -> int:
    descriptor = numbers(lut, "LUTDescriptor", vr="US")
    return int(descriptor[2]) if descriptor and len(descriptor) == 3 else 16
