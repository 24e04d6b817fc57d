"""Which images train, validate and test: folds, shares such as 70/15/15, or lists that are given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medseg3d.datalist import folds as folding
from medseg3d.datalist.cases import Finding
from medseg3d.datalist.model import shorten
from medseg3d.errors import DataListError, UsageError
from medseg3d.images.drafts import Part, problem
from medseg3d.images.image import image_name
from medseg3d.images.model import ImageItem, ImageList, as_datalist

if TYPE_CHECKING:
    from medseg3d.images.check import ImageReport

__all__ = ["HELD_OUT", "TRAINED_ON", "Contents", "into_folds", "into_shares", "parse_shares", "read_split_files"]

HELD_OUT, TRAINED_ON = 0, 1
"""Folds of a list with one validation part: ``--fold 0`` trains on the training part and validates on the other."""

Contents = Mapping[str, tuple[str, ...]]
Presence = Mapping[str, frozenset[int]]


@dataclass(frozen=True)
class SplitFile:
    """A text file with the names of one part's images."""

    part: Part
    path: Path
    names: tuple[str, ...]


def parse_shares(text: str) -> tuple[float, float, float]:
    """Shares of training, validation and testing.

    >>> parse_shares("70/15/15")
    (70.0, 15.0, 15.0)

    Raises:
        UsageError: not two or three positive numbers; two leave no test.
    """
    numbers = re.fullmatch(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?", text.strip())
    shares = tuple(float(n or 0) for n in numbers.groups()) if numbers else ()
    if not shares or min(shares[:2]) <= 0:
        raise UsageError(f"--split {text!r}: write the shares of training, validation and testing, as in 70/15/15.")
    return shares[0], shares[1], shares[2]


def into_folds(images: ImageList, *, folds: int, seed: int, presence: Presence, contents: Contents) -> ImageList:
    """Give every training image a fold, grouped by patient and with each class spread evenly.

    Raises:
        UsageError, DataListError: as ``medseg3d.datalist.split``.
    """
    split = folding.split(
        as_datalist(images), folds=folds, seed=seed, presence=presence, contents=contents, replace_existing=True
    )
    fold_of = {case.case: case.fold for case in split.training}
    return replace(images, training=tuple(replace(item, fold=fold_of[item.case]) for item in images.training))


def into_shares(
    images: ImageList, shares: tuple[float, float, float], *, seed: int, presence: Presence, contents: Contents
) -> ImageList:
    """Divide the training images by shares of training (fold 1), validation (fold 0) and testing.

    Raises:
        UsageError: a share for testing where the list has testing images.
        DataListError: fewer patients than parts, or one image under two patients.
    """
    wanted = [share for share in shares if share > 0]
    if images.testing and len(wanted) > 2:
        raise UsageError(
            f"{images.path} has {len(images.testing)} testing images already: give two shares, as in 80/20."
        )
    divided = folding.divide(as_datalist(images), shares=wanted, seed=seed, presence=presence, contents=contents)
    part_of = {case.case: case.fold for case in divided.training}
    fold_of = {0: TRAINED_ON, 1: HELD_OUT}
    parted = [(item, part_of[item.case] or 0) for item in images.training]
    return replace(
        images,
        training=tuple(replace(item, fold=fold_of[part]) for item, part in parted if part in fold_of),
        testing=(*images.testing, *(replace(item, fold=None) for item, part in parted if part not in fold_of)),
    )


def refuse_errors(report: ImageReport) -> None:
    """Raise ``DataListError`` where images have errors: what cannot be read, or is there twice, cannot be split."""
    errors = [finding.message for finding in report.findings if finding.severity == "error"]
    if errors:
        raise DataListError(
            f"{report.images.path} has {len(errors)} errors: {shorten(errors, limit=2)}. "
            f"`medseg3d datalist check {report.images.path}` lists them."
        )


def read_split_files(texts: Sequence[str], folders: Sequence[Path]) -> tuple[SplitFile, ...]:
    """Lists of training, validation and perhaps testing, in this order: one image a line.

    Args:
        folders: Where the files are looked for, besides as they are typed; ``ImageSets/Main`` below them too.

    Raises:
        UsageError: not two or three files, or one that is not there.
    """
    if len(texts) not in (2, 3):
        raise UsageError(
            f"--split-files names {len(texts)} files: give train.txt,val.txt or train.txt,val.txt,test.txt."
        )
    parts: tuple[Part, ...] = ("training", "validation", "testing")
    return tuple(_split_file(part, text.strip(), folders) for part, text in zip(parts, texts, strict=False))


def _split_file(part: Part, text: str, folders: Sequence[Path]) -> SplitFile:
    places = [Path(text), *(place for folder in folders for place in (folder / text, folder / "ImageSets/Main" / text))]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UsageError(f"--split-files: {text} is not in {shorten(p.parent for p in places)}.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--split-files: {path} cannot be read ({error}).") from error
    return SplitFile(part, path, tuple(line for line in lines if line))


def parts_of(files: Sequence[SplitFile], names: Mapping[str, Sequence[str]]) -> tuple[dict[str, Part], list[Finding]]:
    """The part of each case, and lines that name no image.

    Args:
        names: case → what a line may call it: its path, the file's name, the name without suffix.

    Raises:
        DataListError: a name that stands in two of the files.
    """
    known = {spelled: case for case, spellings in names.items() for spelled in spellings}
    parts: dict[str, Part] = {}
    problems: list[Finding] = []
    for file in files:
        for number, line in enumerate(file.names, 1):
            # VOC's lists of one class have 1 or -1 behind the name.
            case = next((known[n] for n in (line, line.split()[0], image_name(Path(line))) if n in known), None)
            if case is None:
                where = f"{file.path.name}, row {number}"
                problems.append(problem(where, "row-without-file", f"no image {line!r} in the data set"))
            elif parts.setdefault(case, file.part) != file.part:
                raise DataListError(
                    f"{file.path.name}, row {number}: {case} is in the {parts[case]} list too: keep it in one of them."
                )
    if unlisted := [case for case in names if case not in parts]:
        message = f"{len(unlisted)} images are in none of the lists and are left out: {shorten(unlisted)}"
        problems.append(problem("--split-files", "image-unlisted", message, warning=True))
    return parts, problems


def placed(item: ImageItem, part: Part | None) -> ImageItem:
    """The item with the fold that stands for its part of a data set that is already split."""
    folds: dict[Part, int] = {"training": TRAINED_ON, "validation": HELD_OUT}
    return item if part is None else replace(item, fold=folds.get(part))
