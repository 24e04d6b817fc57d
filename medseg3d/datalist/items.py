"""What a bundle feeds to its data sets: one dict a case, as MONAI's dictionary transforms read it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from medseg3d.datalist.folds import check_folds, split
from medseg3d.datalist.model import Case, DataList
from medseg3d.datalist.reading import read_datalist
from medseg3d.errors import DataListError, UsageError

__all__ = ["ALL_FOLDS", "testing_items", "training_items", "validation_items", "with_folds"]

ALL_FOLDS = -1
"""As ``fold``: train on every case and hold out none."""

_log = logging.getLogger("medseg3d")


def training_items(path: str | Path, *, fold: int, folds: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """The training cases outside ``fold``, as dicts with ``case``, ``patient``, ``image`` and ``label``.

    ``image`` is a path, or a list of one path a channel (None where the case lacks it); ``label`` is a path. With
    ``fold=-1`` all cases are returned.

    Args:
        path: A data list.
        fold: The fold that is held out.
        folds: How many folds to make where the list has none; grouped by patient, not balanced by label, because no
            file is opened. ``medseg3d datalist split`` does that, and stores the folds.
        seed: Seed of folds that are made.

    Raises:
        DataListError: the list is malformed, has no training cases, shares patients between folds, or has no such fold.
    """
    return _items(path, lambda case: fold == ALL_FOLDS or case.fold != fold, fold=fold, folds=folds, seed=seed)


def validation_items(path: str | Path, *, fold: int, folds: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """The training cases in ``fold``, which ``training_items`` holds out; empty with ``fold=-1``.

    Arguments and errors are those of ``training_items``.
    """
    return _items(path, lambda case: fold != ALL_FOLDS and case.fold == fold, fold=fold, folds=folds, seed=seed)


def testing_items(path: str | Path) -> list[dict[str, Any]]:
    """The testing cases, as dicts with ``case``, ``patient``, ``image``, and ``label`` where it is known."""
    return [_item(case) for case in read_datalist(path).testing]


testing_items.__test__ = False  # type: ignore[attr-defined]  # pytest collects names that begin with "test"


def _items(
    path: str | Path, wanted: Callable[[Case], bool], *, fold: int, folds: int, seed: int
) -> list[dict[str, Any]]:
    datalist = with_folds(read_datalist(path), fold=fold, folds=folds, seed=seed)
    return [_item(case) for case in datalist.training if wanted(case)]


def with_folds(
    datalist: DataList,
    *,
    fold: int,
    folds: int,
    seed: int,
    presence: Mapping[str, frozenset[int]] | None = None,
) -> DataList:
    """The list with folds, made where it has none and ``fold`` asks for one, and good to hold ``fold`` out.

    ``presence`` balances folds that are made, as in ``split``. Errors are those of ``training_items``.
    """
    if not datalist.training:
        raise DataListError(f"{datalist.path} has no training cases, only {len(datalist.testing)} for testing.")
    if fold == ALL_FOLDS:
        return datalist
    if not datalist.folds:
        _announce(datalist.path, folds, seed)
        datalist = split(datalist, folds=folds, seed=seed, presence=presence)
    check_folds(datalist)
    _check_fold(datalist, fold)
    return datalist


@cache  # a run asks for its items several times; once is enough to know it
def _announce(path: Path, folds: int, seed: int) -> None:
    _log.info("%s has no folds: made %d by patient with seed %d", path.name, folds, seed)


def _check_fold(datalist: DataList, fold: int) -> None:
    if fold not in datalist.folds:
        raise UsageError(
            f"{datalist.path} has no fold {fold}: there are {_joined(datalist.folds)}, and {ALL_FOLDS} trains on all."
        )
    if len(datalist.folds) == 1:
        raise DataListError(
            f"{datalist.path} has only fold {fold}, so that nothing is left to train on: "
            "make more with `medseg3d datalist split --replace`."
        )


def _joined(folds: Iterable[int]) -> str:
    return ", ".join(map(str, folds))


def _item(case: Case) -> dict[str, Any]:
    images = [None if path is None else str(path) for path in case.image]
    item: dict[str, Any] = {
        "case": case.case,
        "patient": case.patient,
        "image": images[0] if len(images) == 1 else images,
    }
    if case.label is not None:
        item["label"] = str(case.label)
    return item
