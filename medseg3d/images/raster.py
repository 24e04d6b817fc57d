"""PNG, JPEG, TIFF and BMP by Pillow; by OpenCV where Pillow would cut colours of 16 bits down to 8."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import CaseError
from medseg3d.images.image import Image2D, value_range

__all__ = ["open_raster", "pixels_of", "raster_pages", "read_raster"]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
DEEP_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "LA")  # have 8 bits in Pillow, and may have 16 in the file
ORIENTATION = 0x0112  # EXIF and TIFF

# What Pillow raises on damaged files.
_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, OverflowError)


def read_raster(path: Path, page: int | None) -> Image2D:
    """Read an image, with its orientation applied.

    Raises:
        CaseError: see ``medseg3d.images.read_image``.
    """
    with open_raster(path, page) as (image, raw_modes):
        deep = ";16" in raw_modes and image.mode in DEEP_MODES
        pixels = _deep_colours(image, path, page or 0) if deep else pixels_of(image)
    pixels = _in_known_type(pixels)
    return Image2D(pixels, value_range(pixels), None, path)


def raster_pages(path: Path) -> int:
    """How many pages a TIFF has; 1 for the other formats.

    Raises:
        CaseError: not readable.
    """
    with _told(path), _opened(path) as image:
        return _pages(image)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from PIL import Image

    Image.init()  # formats that are named are not looked for among the plugins that are not loaded yet
    # A stream, not the path: Pillow maps the file of an uncompressed TIFF that is to be turned by a quarter with the
    # turned size, which shuffles its rows (seen with 13.0).
    with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
        yield image


@contextmanager
def open_raster(path: Path, page: int | None) -> Iterator[tuple[Any, str]]:
    """The Pillow image, decoded whole, at ``page``; and how the file stores its samples, such as ``RGB;16B``.

    Raises:
        CaseError: see ``medseg3d.images.read_image``; errors inside the block count as the file's.
    """
    with _told(path), _opened(path) as image:
        pages = _pages(image)
        if page is None and pages > 1:
            raise CaseError(f"{path} holds {pages} pages: name one, as in {path.name}#page=0.")
        if page is not None and not 0 <= page < pages:
            raise CaseError(f"{path} has no page {page}: it holds {pages}, numbered from 0.")
        if page:
            image.seek(page)
        raw_modes = str(image.tile)  # forgotten once the image is loaded
        image.load()
        yield image, raw_modes


def pixels_of(image: Any) -> NDArray[Any]:
    """Numbers of a Pillow image: (rows, columns), or (rows, columns, 3) as red, green, blue."""
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.mode == "1":
        return np.asarray(turned.convert("L"))
    if turned.mode[0] in "IF" or turned.mode == "L":
        return np.asarray(turned)
    if turned.mode in ("LA", "La"):
        return np.asarray(turned)[..., 0]
    return np.asarray(turned.convert("RGB"))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the decoder as one that names the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except CaseError:
        raise
    except UnidentifiedImageError as error:
        raise CaseError(
            f"{path}: no image that can be read here; PNG, JPEG, TIFF, BMP, DICOM and NIfTI can. Is it complete?"
        ) from error
    except Image.DecompressionBombError as error:
        raise CaseError(f"{path}: {error} Cut it into tiles.") from error
    except _ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CaseError(f"{path}: the image cannot be decoded ({reason}). Copy the file again.") from error


def _pages(image: Any) -> int:
    return int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1


def _deep_colours(image: Any, path: Path, page: int) -> NDArray[Any]:
    import cv2

    try:
        done, pages = cv2.imreadmulti(str(path), start=page, count=1, flags=cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise CaseError(f"{path}: the image cannot be decoded ({error.err}). Copy the file again.") from error
    if not done or not pages:
        raise CaseError(f"{path}: colours of 16 bits in an encoding that OpenCV cannot decode. Convert it to PNG.")
    stored = np.asarray(pages[0])
    if image.format != "TIFF":  # Pillow has turned a TIFF already and forgotten its tag; OpenCV turns it as well
        stored = _turned(stored, image.getexif().get(ORIENTATION, 1))
    if stored.ndim == 2:
        return stored
    return stored[..., 0] if stored.shape[2] == 2 or image.mode == "LA" else stored[..., 2::-1]


def _turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels as EXIF's orientation (1 to 8) means them."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(pixels, flips.get(orientation, ()))


def _in_known_type(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 1:
        # Pillow hands some 16-bit files over as 32-bit integers.
        fits = pixels.min() >= 0 and pixels.max() <= np.iinfo(np.uint16).max
        return pixels.astype(np.uint16 if fits else np.float32)
    return np.ascontiguousarray(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32))
