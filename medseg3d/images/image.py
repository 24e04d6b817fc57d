"""Reading 2D images: one entry for PNG, JPEG, TIFF, BMP, DICOM frames and NIfTI slices, in the file's own depth.

The format is told by the file's content, not by its name (but for NIfTI). Nothing is guessed: an image that cannot be
decoded to its last row is refused, because a truncated JPEG would otherwise be trained on with a grey lower half.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import CaseError, UsageError
from medseg3d.images.model import ImageRef
from medseg3d.volume import NIFTI_SUFFIXES, case_name

__all__ = ["SUFFIXES", "Image2D", "count_pages", "image_name", "is_image_file", "patient_of", "read_image",
           "value_range"]  # fmt: skip

RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DICOM_SUFFIXES = (".dcm", ".dicom")
SUFFIXES = (*RASTER_SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES)

WHITE = 65535.0  # what a window's upper end becomes, of 16 bits
Window = Sequence[float] | str | None


@dataclass(frozen=True)
class Image2D:
    """A 2D image.

    Attributes:
        pixels: (rows, columns), or (rows, columns, 3) for colours as red, green, blue; uint8, uint16 or float32.
        value_range: least and greatest value that the format can hold (0 to 4095 for 12 of 16 bits), so that images
            of one kind are scaled alike; the least and greatest of the image itself where its numbers have no bounds.
        spacing_mm: between rows and between columns; None where the file does not say.
        path: the file.
    """

    pixels: NDArray[Any]
    value_range: tuple[float, float]
    spacing_mm: tuple[float, float] | None
    path: Path

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def content(self) -> str:
        """A hash of what the image shows, whatever the file around it: equal pixels have equal hashes."""
        grey = self.pixels
        if grey.ndim == 3 and (grey == grey[..., :1]).all():
            grey = grey[..., 0]
        digest = hashlib.blake2b(repr(grey.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(grey, dtype=np.float32).tobytes())
        return digest.hexdigest()


def read_image(path: str | Path | ImageRef, *, page: int | None = None, window: Window = None) -> Image2D:
    """Read one image.

    JPEG's and TIFF's orientation tag is applied; alpha is dropped; palettes become colours. Depth is kept: 8 and 16
    bits, also of colour PNG and TIFF, and floats. DICOM gets rescaled, windowed and, where it is MONOCHROME1, inverted,
    so that large is bright. A NIfTI slice has the file's second axis as rows and its first as columns.

    Args:
        path: The file; ``scan.tif#page=2`` names a page of a TIFF, a frame of a DICOM or a slice of a NIfTI, from 0.
        page: The same, apart.
        window: For DICOM and NIfTI. ``(low, high)`` maps low to black and high to white, for CT in HU. None takes what
            a DICOM file says (its VOI LUT or first window, or nothing where it has none); ``"none"`` keeps the
            rescaled values. What is windowed becomes uint16. Other formats have no physical values: they stay.

    Raises:
        UsageError: ``window`` is another word, or high is not above low.
        CaseError: missing, truncated, unreadable or of another format; several pages and none named, or no such page;
            NaN or infinity.
    """
    if isinstance(window, str) and window != "none":
        raise UsageError(f"window is {window!r}: give (low, high), none, or leave it out for the file's own.")
    if not (window is None or isinstance(window, str)) and not (len(window) == 2 and window[0] < window[1]):
        raise UsageError(f"window is {list(window)}: give two numbers, the lower first.")
    ref = ImageRef.parse(path)
    page = ref.page if page is None else page
    _require_file(ref.path)
    if _is_nifti(ref.path):
        from medseg3d.images.nifti_image import read_nifti

        return _windowed(_finite(read_nifti(ref.path, page)), window)
    if _is_dicom(ref.path):
        from medseg3d.images.dicom_image import read_dicom

        return _finite(read_dicom(ref.path, page, window))
    from medseg3d.images.raster import read_raster

    return _finite(read_raster(ref.path, page))


def count_pages(path: Path) -> int:
    """How many images a file holds, from its header alone.

    Raises:
        CaseError: missing, unreadable or of another format.
    """
    _require_file(path)
    if _is_nifti(path):
        from medseg3d.images.nifti_image import nifti_pages

        return nifti_pages(path)
    if _is_dicom(path):
        from medseg3d.images.dicom_image import dicom_pages

        return dicom_pages(path)
    from medseg3d.images.raster import raster_pages

    return raster_pages(path)


def patient_of(path: Path) -> str:
    """A pseudonym for the patient that a DICOM file names, the same in all files; "" where it names none."""
    if _is_nifti(path) or not path.is_file() or not _is_dicom(path):
        return ""
    from medseg3d.images.dicom_image import dicom_patient

    return dicom_patient(path)


def is_image_file(path: Path) -> bool:
    """Whether a file is an image by its suffix; hidden files are none. DICOM without a suffix is told by its content.

    >>> is_image_file(Path("a/b.JPG")), is_image_file(Path("a/.b.jpg")), is_image_file(Path("labels.csv"))
    (True, False, False)
    """
    if path.name.startswith("."):
        return False
    return path.name.lower().endswith(SUFFIXES) or (not path.suffix and path.is_file() and _is_dicom(path))


def image_name(path: Path) -> str:
    """File name without its image suffix; other dots stay.

    >>> image_name(Path("study/a.1.png"))
    'a.1'
    """
    return case_name(path) if path.name.lower().endswith(SUFFIXES) else path.name


def value_range(pixels: NDArray[Any]) -> tuple[float, float]:
    """Least and greatest value of an integer type; of the finite pixels themselves where they are floats.

    >>> value_range(np.array([[3, 4]], np.uint8)), value_range(np.array([[3.0, 4.0]]))
    ((0.0, 255.0), (3.0, 4.0))
    """
    if pixels.dtype.kind == "u":
        return 0.0, float(np.iinfo(pixels.dtype).max)
    finite = pixels[np.isfinite(pixels)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CaseError(f"{path}: no such file.")


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def _is_dicom(path: Path) -> bool:
    from medseg3d.dicom.files import is_dicom

    try:
        with path.open("rb") as stream:
            return is_dicom(stream.read(140))
    except OSError as error:
        raise CaseError(f"{path}: cannot be read ({error.strerror}).") from error


def to_white(shown: NDArray[Any]) -> NDArray[np.uint16]:
    """0 (black) to 1 (white), and what lies beyond, as 16 bits."""
    return np.rint(np.clip(shown, 0, 1) * WHITE).astype(np.uint16)


def _windowed(image: Image2D, window: Window) -> Image2D:
    """A slice of a volume in a window; colours, and without a window, as it is."""
    if window is None or isinstance(window, str) or image.pixels.ndim == 3:
        return image
    low, high = map(float, window)
    shown = to_white((image.pixels.astype(np.float64) - low) / (high - low))
    return replace(image, pixels=shown, value_range=(0.0, WHITE))


def _finite(image: Image2D) -> Image2D:
    if image.pixels.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(image.pixels)))):
        raise CaseError(
            f"{image.path}: {bad} of {image.pixels.size} pixels are NaN or infinite. Replace them with the "
            "background's value."
        )
    return image
