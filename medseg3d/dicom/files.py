"""Finding and opening DICOM files: folder trees, single files, zip archives; with any name."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from medseg3d.dicom.model import FileRef
from medseg3d.errors import DicomError

__all__ = ["MAX_INFLATED_BYTES", "Inflated", "Opener", "find_files", "is_dicom"]

# A deflated data set is inflated whole. Few bytes can claim to hold very many; no series of one file is larger.
MAX_INFLATED_BYTES = 512 * 2**20

_PREAMBLE = 128
# First bytes of a data set without preamble: its group is 0002 (file meta information) or 0008 (identification).
_GROUPS = {b"\x02\x00": "little", b"\x08\x00": "little", b"\x00\x08": "big"}


def find_files(path: str | Path) -> list[FileRef]:
    """Every file below a folder, or a single file; a zip archive gives its members. Sorted by name.

    Links are followed. Hidden files, folders that begin with a dot, pipes, sockets and devices are left out; so is
    ``DICOMDIR``: it is an index of files that are found anyway, and often of files that are no longer there.

    Raises:
        DicomError: no such file or folder, or a pipe; an archive that cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        files = [Path(folder, name) for folder, name in _walk(path)]
    elif path.is_file():
        files = [path]
    else:
        what = "neither file nor folder, but a pipe, socket or device" if path.exists() else "no such file or folder"
        raise DicomError(f"{path}: {what}.")
    refs: list[FileRef] = []
    for file in sorted(files):
        refs.extend(_members(file, required=file == path) if _is_zip(file) else [FileRef(file)])
    return refs


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these bytes (140 suffice) is DICOM, with or without the 128-byte preamble.

    >>> is_dicom(bytes(128) + b"DICM")
    True
    >>> is_dicom(b"just some text")
    False
    """
    return head[_PREAMBLE : _PREAMBLE + 4] == b"DICM" or _is_bare_dataset(head)


class Inflated(BytesIO):
    """The bytes of a deflated file as an explicit little endian one holds them."""


class Opener:
    """Opens files and archive members as seekable binary streams; keeps the last archive open.

    Use it as a context manager, in one thread.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._archive: zipfile.ZipFile | None = None

    def __enter__(self) -> Opener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    @contextmanager
    def open(self, ref: FileRef) -> Iterator[BinaryIO]:
        """A stream of the file; a deflated data set is inflated first (an ``Inflated`` then).

        Raises:
            OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError: as the standard library does.
            DicomError: a deflated data set of more than ``MAX_INFLATED_BYTES``.
        """
        with self._archive_of(ref.path).open(ref.member) if ref.member else ref.path.open("rb") as stream:
            yield _inflated(stream)  # type: ignore[arg-type]

    def _archive_of(self, path: Path) -> zipfile.ZipFile:
        if self._archive is None or self._path != path:
            self._close()
            self._archive, self._path = zipfile.ZipFile(path), path
        return self._archive

    def _close(self) -> None:
        if self._archive is not None:
            self._archive.close()
        self._archive, self._path = None, None


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    """Folder and name of every file; links to folders are followed, and each folder is met once.

    A folder that may not be listed is given like a file: reading it says why.
    """
    met: set[tuple[int, int]] = set()
    unlisted: list[OSError] = []
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unlisted.append):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in met:
            folders.clear()
            continue
        met.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from ((parent, name) for name in names if _is_wanted(parent, name))
    yield from (("", error.filename) for error in unlisted)


def _is_wanted(parent: str, name: str) -> bool:
    """Whether a name is to be opened: no pipe, socket or device, which may block for ever.

    A link to nowhere is wanted: reading it says what is missing.
    """
    if name.startswith(".") or name.upper() == "DICOMDIR":
        return False
    try:
        return stat.S_ISREG(Path(parent, name).stat().st_mode)
    except OSError:
        return True


def _is_zip(file: Path) -> bool:
    return file.suffix.lower() == ".zip"


def _members(file: Path, *, required: bool) -> list[FileRef]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    except (OSError, zipfile.BadZipFile) as error:
        if required:
            raise DicomError(f"{file}: not a readable zip archive ({error}). Copy or download it again.") from error
        return [FileRef(file)]
    parts = {name: name.split("/") for name in names}
    return [
        FileRef(file, name)
        for name in names
        if parts[name][-1].upper() != "DICOMDIR" and not any(p.startswith((".", "__MACOSX")) for p in parts[name])
    ]


def _is_bare_dataset(head: bytes) -> bool:
    order = _GROUPS.get(head[:2])
    if order is None or len(head) < 8:
        return False
    element = int.from_bytes(head[2:4], order)  # type: ignore[arg-type]
    if element > 0x0100:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], order) < 1024  # type: ignore[arg-type]


def _inflated(stream: BinaryIO) -> BinaryIO:
    head = stream.read(1024)
    stream.seek(0)
    if DeflatedExplicitVRLittleEndian.encode() not in head or head[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        return stream
    stream.seek(_PREAMBLE + 4)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        stream.seek(0)
        return stream
    start = stream.tell()
    stream.seek(0)
    prefix = stream.read(start)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(stream.read(), MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise DicomError(f"The deflated data set holds more than {MAX_INFLATED_BYTES // 2**20} MiB: not read.")
    # What follows is no longer deflated, and the file meta information must say so; zero bytes pad a UID.
    plain = ExplicitVRLittleEndian.ljust(len(DeflatedExplicitVRLittleEndian), "\0")
    return Inflated(prefix.replace(DeflatedExplicitVRLittleEndian.encode(), plain.encode()) + data)
