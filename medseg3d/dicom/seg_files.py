"""Opening DICOM files, alone or in a zip archive, with every failure as one message that names the file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medseg3d.dicom.attributes import PARSE_ERRORS
from medseg3d.dicom.files import Opener
from medseg3d.dicom.model import FileRef
from medseg3d.dicom.source import values_as_they_are
from medseg3d.errors import DicomError

__all__ = ["damage_as_error", "read_dataset"]


def read_dataset(ref: FileRef, *, stop_before_pixels: bool = False) -> Any:
    """The data set of a file, read by pydicom with all that it raises."""
    from pydicom import dcmread

    with values_as_they_are(), Opener() as opener, opener.open(ref) as stream:
        return dcmread(stream, stop_before_pixels=stop_before_pixels)


@contextmanager
def damage_as_error(ref: FileRef, what: str) -> Iterator[None]:
    """Name the file in every refusal, and turn what the libraries raise on a damaged file into one.

    Values that break the rules of their type but can be read are no damage.

    Args:
        ref: the file.
        what: what it should be, such as "a DICOM SEG".
    """
    from pydicom.errors import InvalidDicomError

    try:
        with values_as_they_are():
            yield
    except DicomError as error:
        raise DicomError(f"{ref}: {error}") from error
    except (InvalidDicomError, zlib.error, zipfile.BadZipFile, *PARSE_ERRORS) as error:
        reason = str(error).strip().splitlines()
        raise DicomError(
            f"{ref}: not readable as {what} ({reason[0] if reason else type(error).__name__}). Is it complete?"
        ) from error
