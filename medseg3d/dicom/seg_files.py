"""Opening DICOM files, alone or in a zip archive, with every failure as one message that names the file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medseg3d.dicom.model import FileRef
from medseg3d.errors import DicomError

__all__ = ["damage_as_error", "read_dataset"]

# What pydicom, its decoders and highdicom raise on files that are damaged or not valid.
DAMAGE = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, OSError, EOFError,
          MemoryError, struct.error, zlib.error, zipfile.BadZipFile)  # fmt: skip


def read_dataset(ref: FileRef, *, stop_before_pixels: bool = False) -> Any:
    """The data set of a file, read by pydicom with all that it raises."""
    from pydicom import dcmread

    if not ref.member:
        return dcmread(ref.path, stop_before_pixels=stop_before_pixels)
    with zipfile.ZipFile(ref.path) as archive, archive.open(ref.member) as member:
        return dcmread(member, stop_before_pixels=stop_before_pixels)


@contextmanager
def damage_as_error(ref: FileRef, what: str) -> Iterator[None]:
    """Name the file in every refusal, and turn what the libraries raise on a damaged file into one.

    Args:
        ref: the file.
        what: what it should be, such as "a DICOM SEG".
    """
    from pydicom.errors import InvalidDicomError

    try:
        yield
    except DicomError as error:
        raise DicomError(f"{ref}: {error}") from error
    except (InvalidDicomError, *DAMAGE) as error:
        reason = str(error).strip().splitlines()
        raise DicomError(
            f"{ref}: not readable as {what} ({reason[0] if reason else type(error).__name__}). Is it complete?"
        ) from error
