"""What runs here, for records that let a result be made again: versions and the command."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["command_line", "package_version"]


def command_line() -> str:
    """The command that this process was started with, as one would type it.

    A module is ``python -m …``; other programs go by their file's name, without the folder that they lie in.
    """
    program, *arguments = sys.argv
    if Path(program).name == "__main__.py":
        return shlex.join(["python", "-m", ".".join(Path(program).parts[-3:-1]), *arguments])
    return shlex.join([Path(program).name, *arguments])


def package_version(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
