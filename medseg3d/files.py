"""Files that are there whole or not at all, and JSON that any parser reads."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from medseg3d.errors import OutputError

__all__ = ["new_folder_or_none", "whole_or_not_at_all", "write_json"]


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@contextmanager
def whole_or_not_at_all(path: Path) -> Iterator[Path]:
    """A temporary path of the same name in a folder beside the final one; renamed to it when the block ends well.

    The final folder is made if absent, and a file of this name is replaced. When the block raises, nothing is left.

    Raises:
        OutputError: the folder cannot be made or written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(mkdtemp(prefix=".writing-", dir=path.parent))
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = folder / path.name
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # What is read in the block may fail too; that has a name of its own.
        if error.errno in DISK_ERRORS or error.filename == str(temporary):
            raise _cannot_write(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def new_folder_or_none(path: Path) -> Iterator[Path]:
    """A folder that is being made, beside its final place; renamed to ``path`` when the block ends well.

    An empty folder at ``path`` is replaced; anything else there is never overwritten. When the block raises, nothing is
    left.

    Raises:
        OutputError: something lies at ``path``, the folder beside it cannot be written to, or the disk is full.
    """
    if path.is_symlink() or path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise OutputError(f"{path} is there already and is not overwritten: remove it, or choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(mkdtemp(prefix=".writing-", dir=path.parent))
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = folder / path.name
    try:
        temporary.mkdir()
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno in DISK_ERRORS or error.filename == str(temporary):
            raise _cannot_write(path, error) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON without NaN and infinity, which many parsers refuse.

    Raises:
        ValueError: NaN or infinity in ``content``.
    """
    with whole_or_not_at_all(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror or error}): choose another place, or make room.")
