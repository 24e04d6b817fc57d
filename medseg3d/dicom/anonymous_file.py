"""One file made anonymous: read, refused or cleaned, checked and written beside its final place."""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medseg3d import __version__
from medseg3d.dicom.attributes import PARSE_ERRORS, text
from medseg3d.dicom.clean import Changes, clean_dataset, identifiers_of
from medseg3d.dicom.files import is_dicom
from medseg3d.dicom.identifiable import burned_in, unfit
from medseg3d.dicom.identifiers import Identifiers
from medseg3d.dicom.model import FileRef
from medseg3d.dicom.pixel_bytes import clear_hidden_bits, strip_streams, trim_pixel_data
from medseg3d.dicom.profile import Options
from medseg3d.dicom.pseudonyms import STANDARD_ROOT, Pseudonyms
from medseg3d.errors import DicomError, OutputError

__all__ = ["Outcome", "Settings", "anonymise_file", "method_codes", "writing_to"]

PREAMBLE = bytes(128)
HEAD_BYTES = 140  # enough to see that a file is DICOM
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
PIXEL_DATA = int(Tag("PixelData"))
# Shorter values, and numbers shorter than the second, turn up in pixels and coordinates by chance.
TELLING_BYTES, TELLING_DIGITS = 8, 14
_DAMAGED = (*PARSE_ERRORS, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class Settings:
    """How files are de-identified; sent to every worker."""

    pseudonyms: Pseudonyms
    options: Options
    allow_burned_in: bool


@dataclass(frozen=True)
class Outcome:
    """What became of a file: written to ``staged``, to be moved to ``target``; or refused for a reason; or skipped.

    Attributes:
        source: the file.
        reason: why it was refused; empty where it was written, or is no DICOM object and was skipped.
        staged: the finished file; None where there is none.
        target: its place below the output folder.
        changes: what was done to it.
    """

    source: FileRef
    reason: str = ""
    staged: Path | None = None
    target: Path = Path()
    changes: Changes = field(default_factory=Counter)


def method_codes(options: Options) -> tuple[tuple[str, str], ...]:
    """Codes of PS3.16 CID 7050 for what is applied."""
    codes = [("113100", "Basic Application Confidentiality Profile")]
    if options.descriptions:
        codes.append(("113105", "Clean Descriptors Option"))
    if options.dates == "shift":
        codes.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
    if options.characteristics:
        codes.append(("113108", "Retain Patient Characteristics Option"))
    if options.safe_private:
        codes.append(("113111", "Retain Safe Private Option"))
    return tuple(codes)


def anonymise_file(source: FileRef, staged: Path, settings: Settings) -> Outcome:
    """Write the anonymous copy of a file to ``staged``; never raises for what a file may hold.

    Raises:
        OutputError: the copy cannot be written.
    """
    try:
        content = _content(source)
        if not is_dicom(content[:HEAD_BYTES]):
            return Outcome(source)
        with warnings.catch_warnings():
            # About values that are cleaned or kept as they are; the file is the user's, not ours to comment on.
            warnings.simplefilter("ignore")
            with config.disable_value_validation():
                copy = _anonymised(content, settings)
    except DicomError as error:
        return Outcome(source, str(error))
    except _DAMAGED as error:
        # The message of the error may quote the file.
        return Outcome(source, f"it cannot be read or written: the file is damaged ({type(error).__name__})")
    if copy is None:
        return Outcome(source)
    with writing_to(staged.parent.parent):
        staged.write_bytes(copy.content)
    return Outcome(source, staged=staged, target=copy.target, changes=copy.changes)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """The disk's refusals as a message. It names the folder, not the file: that is one of thousands."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written ({error.strerror or error}): choose another place, or make room."
        ) from error


@dataclass(frozen=True)
class _Copy:
    content: bytes
    target: Path
    changes: Changes


def _anonymised(content: bytes, settings: Settings) -> _Copy | None:
    """The copy of a file's content; None of a DICOMDIR, which is no image and is left out."""
    dataset = dcmread(BytesIO(content), force=True)
    if text(dataset.file_meta, "MediaStorageSOPClassUID") == DICOMDIR_CLASS:
        return None
    _require_fit(dataset, allow_burned_in=settings.allow_burned_in)
    syntax = _transfer_syntax(dataset)
    before = _Before.of(dataset)
    hidden = clear_hidden_bits(dataset, syntax)
    changes = clean_dataset(
        dataset, pseudonyms=settings.pseudonyms, options=settings.options, identifiers=before.identifiers
    )
    changes[PIXEL_DATA, "cleared hidden bits"] += hidden
    changes[PIXEL_DATA, "cut off trailing bytes"] += trim_pixel_data(dataset, syntax)
    stripped, tables = strip_streams(dataset, syntax)
    changes[PIXEL_DATA, "removed what is no image from the stream"] += stripped
    _state_method(dataset, settings.options)
    before.require_absent_beside_pixels(tables)
    written = _encoded(dataset, syntax)
    before.require_absent_in(_encoded(dataset, ExplicitVRLittleEndian) if syntax.is_deflated else written)
    return _Copy(written, _target(dataset), +changes)


def _require_fit(dataset: Dataset, *, allow_burned_in: bool) -> None:
    reason = unfit(dataset)
    if reason:
        raise DicomError(reason)
    reason = "" if allow_burned_in else burned_in(dataset)
    if reason:
        raise DicomError(f"its pixels may show who it is: {reason}. Look at it; --allow-burned-in takes it as it is")


@dataclass(frozen=True)
class _Before:
    """What must not be found in the written file: the last check, on its bytes."""

    identifiers: Identifiers
    uids: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> _Before:
        keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
        return cls(identifiers_of(dataset), tuple(uid for uid in (text(dataset, key) for key in keywords) if uid))

    def require_absent_beside_pixels(self, tables: bytes) -> None:
        """Raise ``DicomError`` if a name, an id or a date is in a part of compressed pixels that is no pixel."""
        if self.identifiers.echo_in(tables.decode("ascii", "replace")):
            raise DicomError("a name, an id or a date is in the tables of its compressed pixels: decompress it first")

    def require_absent_in(self, content: bytes) -> None:
        """Raise ``DicomError`` if a name, an id or a UID of the original is still there."""
        lowered = content.lower()
        for value in (*self.identifiers.long_ones(at_least=TELLING_BYTES), *self.uids):
            if value.startswith(STANDARD_ROOT) or (value.isdigit() and len(value) < TELLING_DIGITS):
                continue
            if any(_stands_in(lowered, spelled) for spelled in _encodings(value)):
                raise DicomError("an identifier is still in its bytes after cleaning, probably in the pixel data")


def _encodings(value: str) -> set[bytes]:
    """A value in the usual encodings; accented letters have two cases, all others are in lower case."""
    found = set[bytes]()
    for encoding in ("utf-8", "latin-1"):
        with suppress(UnicodeEncodeError):
            found |= {value.encode(encoding).lower(), value.upper().encode(encoding).lower()}
    return found


def _stands_in(content: bytes, value: bytes) -> bool:
    # The quick search first: a regular expression takes ten times as long.
    alone = rb"(?<![0-9a-z.])" + re.escape(value) + rb"(?![0-9a-z.])"
    return value in content and re.search(alone, content) is not None


def _transfer_syntax(dataset: Dataset) -> UID:
    stated = text(dataset.file_meta, "TransferSyntaxUID")
    if stated:
        return UID(stated)
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _state_method(dataset: Dataset, options: Options) -> None:
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"medseg3d {__version__}: DICOM PS3.15 Basic Profile"
    dataset.DeidentificationMethodCodeSequence = Sequence(_code(*code) for code in method_codes(options))
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if options.dates == "shift" else "REMOVED"


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _encoded(dataset: Dataset, syntax: UID) -> bytes:
    """The bytes of the file, with a blank preamble and new file meta information."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    dataset.file_meta, dataset.preamble = meta, PREAMBLE
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _target(dataset: Dataset) -> Path:
    folders = (text(dataset, key) or "none" for key in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
    return Path(*folders, f"{text(dataset, 'SOPInstanceUID')}.dcm")


def _content(source: FileRef) -> bytes:
    return _archive(source.path).read(source.member) if source.member else source.path.read_bytes()


@lru_cache(maxsize=1)
def _archive(path: Path) -> zipfile.ZipFile:
    """The archive, left open: its members come one after the other."""
    return zipfile.ZipFile(path)
