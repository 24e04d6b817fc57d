"""What a data list says: cases with their images, labels, patients and folds. Valid once constructed."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg3d.errors import DataListError

__all__ = ["Case", "DataList", "absolute", "relative", "shorten", "to_json", "write_datalist", "write_json"]


@dataclass(frozen=True)
class Case:
    """One image (a file a channel), whose patient it is, and its label map.

    Attributes:
        case: Name of the case, unique in the list. Masks are named after it, so it holds no path separator.
        patient: Cases of one patient are never split over folds.
        image: Absolute paths, in the order of the list's channels; None for a channel that this case lacks. One path
            alone may be a NIfTI file whose fourth axis holds all channels.
        label: Absolute path of the label map; None where it is not known (testing only).
        fold: The fold in which this case is held out; None before the list is split, and in testing.
    """

    case: str
    patient: str
    image: tuple[Path | None, ...]
    label: Path | None = None
    fold: int | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The image files that there are, without missing channels."""
        return tuple(path for path in self.image if path is not None)

    def missing(self, channels: Sequence[str]) -> tuple[str, ...]:
        """Those of ``channels``, the list's, that this case lacks."""
        return tuple(name for name, path in zip(channels, self.image, strict=False) if path is None)

    def __post_init__(self) -> None:
        if not self.case or self.case in (".", "..") or any(character in self.case for character in "/\\\0"):
            raise DataListError(
                f"The case name {self.case!r} cannot name a mask file: give a name that is not empty and has no slash."
            )
        if not self.patient:
            raise DataListError(f"Case {self.case} has an empty patient: give a name, or leave the key out everywhere.")
        if not self.files:
            raise DataListError(f"Case {self.case} has no image: give one path a channel.")
        if self.fold is not None and self.fold < 0:
            raise DataListError(f"Case {self.case} is in fold {self.fold}: folds are numbered from 0.")


@dataclass(frozen=True)
class DataList:
    """A data set: what its labels and channels mean, and which cases it has.

    Attributes:
        path: The JSON file it was read from, or will be written to; absolute.
        name: Name of the data set.
        modality: ``"CT"``, ``"MRI"``, …; empty where the file does not say.
        labels: Names of the foreground structures and their ids in the label maps; background (0) is not listed.
        regions: Names of unions of labels, such as "whole tumour", and the ids they consist of.
        channels: Names of the image channels, in order.
        training: Cases with a label map.
        testing: Cases that are never trained on, with or without a label map.
        ignore_label: The id of voxels that nobody labelled, in partly annotated label maps; None where there are none.
    """

    path: Path
    name: str
    modality: str
    labels: Mapping[str, int]
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    channels: tuple[str, ...] = ("image",)
    training: tuple[Case, ...] = ()
    testing: tuple[Case, ...] = ()
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        _check_labels(self)
        _check_regions(self)
        _check_cases(self)

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that the training cases name, sorted; empty where the list is not split."""
        return tuple(sorted({case.fold for case in self.training if case.fold is not None}))


def _check_labels(datalist: DataList) -> None:
    if not datalist.labels:
        raise DataListError(f'{datalist.path}: no label is named. Add for example "labels": {{"liver": 1}}.')
    for name, label_id in datalist.labels.items():
        if not name:
            raise DataListError(f"{datalist.path}: label {label_id} has an empty name.")
        if label_id < 1:
            raise DataListError(
                f"{datalist.path}: label {name!r} has id {label_id}, but 0 is background in every label map: "
                "give it an id from 1 on, and the same one in the label maps."
            )
    if datalist.ignore_label is not None and datalist.ignore_label in (0, *datalist.labels.values()):
        raise DataListError(
            f"{datalist.path}: ignore_label is {datalist.ignore_label}, which is the id of background or of a label: "
            "voxels that nobody labelled need an id of their own."
        )
    for label_id, count in Counter(datalist.labels.values()).items():
        if count > 1:
            names = [name for name, other in datalist.labels.items() if other == label_id]
            raise DataListError(
                f"{datalist.path}: the labels {', '.join(names)} all have id {label_id}: give each its own."
            )


def _check_regions(datalist: DataList) -> None:
    known = set(datalist.labels.values())
    for name, ids in datalist.regions.items():
        unknown = sorted(set(ids) - known)
        if not ids or unknown:
            what = f"names the ids {unknown}, which no label has" if unknown else "has no label ids"
            raise DataListError(f"{datalist.path}: region {name!r} {what}. The labels are {dict(datalist.labels)}.")
        if name in datalist.labels and tuple(ids) != (datalist.labels[name],):
            raise DataListError(
                f"{datalist.path}: {name!r} is a label (id {datalist.labels[name]}) and a region ({list(ids)}): "
                "rename one of them."
            )


def _check_cases(datalist: DataList) -> None:
    if not datalist.channels or len(set(datalist.channels)) < len(datalist.channels):
        raise DataListError(f"{datalist.path}: channels are {list(datalist.channels)}: name each once, at least one.")
    cases = datalist.training + datalist.testing
    if not cases:
        raise DataListError(f"{datalist.path}: there is no case, in training or in testing.")
    repeated = [name for name, count in Counter(case.case for case in cases).items() if count > 1]
    if repeated:
        raise DataListError(
            f"{datalist.path}: {len(repeated)} case names are used more than once ({shorten(repeated)}). "
            'Masks are named after the case: give each entry its own "case".'
        )
    for case in cases:
        # One file for several channels holds them along its fourth axis: seen when it is opened.
        if len(case.image) not in (1, len(datalist.channels)):
            raise DataListError(
                f"{datalist.path}: case {case.case} has {len(case.image)} image files, the list names "
                f"{len(datalist.channels)} channels ({', '.join(datalist.channels)}): give one file a channel "
                "(null for one that the case lacks), or one NIfTI file with a fourth axis of channels."
            )
    without_label = [case.case for case in datalist.training if case.label is None]
    if without_label:
        raise DataListError(
            f"{datalist.path}: {len(without_label)} training cases have no label ({shorten(without_label)}): "
            "add the label, or move the case to testing."
        )
    without_fold = [case.case for case in datalist.training if case.fold is None]
    if without_fold and len(without_fold) < len(datalist.training):
        raise DataListError(
            f"{datalist.path}: {len(without_fold)} of {len(datalist.training)} training cases have no fold "
            f"({shorten(without_fold)}): give every case a fold, or none and run `medseg3d datalist split`."
        )


def absolute(path: str | Path, *, folder: Path | None = None) -> Path:
    """``path``, seen from ``folder`` or else as it was typed (from the current folder, ``~`` is home), without ``..``.

    Links are not followed: a data set made of links keeps the names that its owner gave.
    """
    from_here = os.path.expanduser(path) if folder is None else folder / path  # noqa: PTH111 (Path's raises)
    return Path(os.path.abspath(from_here))  # noqa: PTH100 (resolve follows links)


def shorten(names: Iterable[object], *, limit: int = 5) -> str:
    """The first names, and how many more there are.

    >>> shorten(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    texts = [str(name) for name in names]
    shown = ", ".join(texts[:limit])
    return shown if len(texts) <= limit else f"{shown} and {len(texts) - limit} more"


def to_json(datalist: DataList, *, folder: Path) -> dict[str, Any]:
    """The data list as JSON values, its paths relative to ``folder``."""
    values: dict[str, Any] = {
        "name": datalist.name,
        "modality": datalist.modality,
        "labels": dict(datalist.labels),
    }
    if datalist.regions:
        values["regions"] = {name: list(ids) for name, ids in datalist.regions.items()}
    if datalist.ignore_label is not None:
        values["ignore_label"] = datalist.ignore_label
    values["channels"] = list(datalist.channels)
    values["training"] = [_case_to_json(case, folder) for case in datalist.training]
    values["testing"] = [_case_to_json(case, folder) for case in datalist.testing]
    return values


def _case_to_json(case: Case, folder: Path) -> dict[str, Any]:
    images = [None if path is None else relative(path, folder) for path in case.image]
    values: dict[str, Any] = {
        "case": case.case,
        "patient": case.patient,
        "image": images[0] if len(images) == 1 else images,
    }
    if case.label is not None:
        values["label"] = relative(case.label, folder)
    if case.fold is not None:
        values["fold"] = case.fold
    return values


def relative(path: Path, folder: Path) -> str:
    """``path`` as seen from ``folder``, with slashes; the whole path where none leads there."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive on Windows: no relative path leads there
        return path.as_posix()


def write_datalist(datalist: DataList, path: str | Path) -> None:
    """Write ``datalist`` as JSON to ``path``; the file appears whole or not at all.

    Paths are written relative to the file, which may lie outside the data's folder. Reading it back gives an equal
    list, but for its ``path``.

    Raises:
        DataListError: the file cannot be written.
    """
    path = absolute(path)
    write_json(to_json(datalist, folder=path.parent), path)


def write_json(values: Any, path: Path) -> None:
    """Write JSON beside ``path`` and rename it there; NaN and infinity are refused."""
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataListError(f"{path} cannot be written ({error.strerror}): choose another place.") from error
