"""What a source of images says before any image has been opened: files, classes, masks, boxes, and where it says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from medseg3d.datalist.cases import Finding
from medseg3d.datalist.model import shorten
from medseg3d.errors import DataListError
from medseg3d.images.image import image_name, is_image_file
from medseg3d.images.model import Box, ImageRef, Task

__all__ = ["Draft", "DraftBox", "ImageFinder", "Part", "Source", "images_in", "problem", "visible"]

Part = Literal["training", "validation", "testing"]

PARTS: Mapping[str, Part] = {
    "train": "training", "training": "training", "trn": "training",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "testing", "testing": "testing", "tst": "testing",
}  # fmt: skip
"""What people call the parts of a data set that is already split."""


@dataclass(frozen=True)
class DraftBox:
    """A box as a file gives it, in this project's coordinates, and where: it may have no area or lie outside."""

    box: Box
    where: str


@dataclass(frozen=True)
class Draft:
    """An image as a source names it.

    Attributes:
        image: the file, perhaps of several pages.
        where: file and row that say so, such as ``labels.csv, row 7``.
        case: its name, where the source gives one.
        patient: where the source says.
        part: of a data set that is already split.
        fold: where the source says.
        size: rows and columns that the image had when it was annotated, where the source says.
        classes, masks, boxes: as in ``ImageItem``.
    """

    image: ImageRef
    where: str
    case: str = ""
    patient: str | None = None
    part: Part | None = None
    fold: int | None = None
    size: tuple[int, int] | None = None
    classes: tuple[str, ...] | None = None
    masks: tuple[ImageRef, ...] | None = None
    boxes: tuple[DraftBox, ...] | None = None


@dataclass(frozen=True)
class Source:
    """What a folder, a table or an annotation file says.

    Attributes:
        labels: names in the order of their ids; empty where the masks will tell.
        problems: rows that cannot be used (errors) and what should be looked at (warnings).
    """

    task: Task
    drafts: tuple[Draft, ...]
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    problems: tuple[Finding, ...] = ()


def problem(where: str, code: str, message: str, *, warning: bool = False) -> Finding:
    """A finding about a file or a row."""
    return Finding("warning" if warning else "error", "", code, f"{where}: {message}")


def visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden entries."""
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if not child.name.startswith("."))


def images_in(folder: Path, *, deep: bool = False) -> list[Path]:
    """The image files of a folder, and with ``deep`` of the folders below it, sorted."""
    files: list[Path] = []
    for child in visible(folder):
        if child.is_dir():
            files += images_in(child, deep=True) if deep else []
        elif is_image_file(child):
            files.append(child)
    return files


class ImageFinder:
    """Finds the image that a row means: by its path, by its file's name, or by that name without suffix.

    Args:
        folder: where images are looked for, with all folders below.
        beside: the folder of the file that names them.
    """

    def __init__(self, folder: Path, beside: Path) -> None:
        self.folder, self.beside = folder, beside
        self._used: set[Path] = set()

    def find(self, text: str) -> Path:
        """The image of this path or name.

        Raises:
            DataListError: none, or several.
        """
        text = text.strip().replace("\\", "/")
        found = next((p for p in (self.beside / text, self.folder / text) if text and p.is_file()), None)
        if found is None:
            found = self._by_name(text)
        self._used.add(found)
        return found

    def unused(self) -> list[Path]:
        """Images of the folder that nothing has asked for."""
        used = {path.resolve() for path in self._used}
        return [file for file in self._files if file.resolve() not in used]

    def _by_name(self, text: str) -> Path:
        name = text.rsplit("/", 1)[-1]
        for index, key in ((self._names, name), (self._stems, name), (self._stems, image_name(Path(name)))):
            files = index.get(key, [])
            if len(files) > 1:
                shown = shorten(str(file.relative_to(self.folder)) for file in files)
                raise DataListError(f"{text!r} may be {shown}: give its path, relative to {self.folder}.")
            if files:
                return files[0]
        raise DataListError(f"no image {text!r} in {self.folder}: correct the name, or complete the folder.")

    @cached_property
    def _files(self) -> list[Path]:
        return images_in(self.folder, deep=True)

    @cached_property
    def _names(self) -> dict[str, list[Path]]:
        return _grouped((file.name, file) for file in self._files)

    @cached_property
    def _stems(self) -> dict[str, list[Path]]:
        return _grouped((image_name(file), file) for file in self._files)


def _grouped(pairs: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    grouped: dict[str, list[Path]] = defaultdict(list)
    for key, file in pairs:
        grouped[key].append(file)
    return grouped
