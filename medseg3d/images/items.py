"""What a bundle feeds to its data sets: one dict an image, as MONAI's dictionary transforms read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.datalist.items import ALL_FOLDS, with_folds
from medseg3d.images.model import ImageItem, ImageList, as_datalist
from medseg3d.images.reading import read_image_list

__all__ = ["evaluation_items", "known_ids", "testing_items", "training_items", "validation_items"]


def training_items(path: str | Path, *, fold: int, folds: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """The training images outside ``fold``, as dicts with ``case``, ``patient``, ``image`` (a path) and the truth.

    The truth is, by the list's task:

    - classification: ``label``, the class id; in a multi-label list a float32 vector with 1 at each class's id.
    - detection: ``boxes`` (float32 (n, 4), left, top, right, bottom in pixels), ``box_labels`` (int64 (n,), ids from
      1) and ``difficult`` (bool (n,)); n may be 0.
    - segmentation_2d: ``label``, the path of the label map; in a multi-label list one path a label.

    With ``fold=-1`` all images are returned.

    Args:
        path: A list of 2D images.
        fold: The fold that is held out.
        folds: How many folds to make where the list has none: grouped by patient, classes and objects spread evenly.
        seed: Seed of folds that are made.

    Raises:
        DataListError: the list is malformed, has no training images, shares patients between folds, or has no such
            fold.
    """
    images, fold_of = _folded(path, fold=fold, folds=folds, seed=seed)
    return [_item(i, images) for i in images.training if fold == ALL_FOLDS or fold_of[i.case] != fold]


def validation_items(path: str | Path, *, fold: int, folds: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """The training images in ``fold``, which ``training_items`` holds out; empty with ``fold=-1``.

    Arguments and errors are those of ``training_items``.
    """
    images, fold_of = _folded(path, fold=fold, folds=folds, seed=seed)
    return [_item(i, images) for i in images.training if fold != ALL_FOLDS and fold_of[i.case] == fold]


def testing_items(path: str | Path) -> list[dict[str, Any]]:
    """The testing images, as dicts with ``case``, ``patient``, ``image``, and the truth where it is known."""
    images = read_image_list(path)
    return [_item(item, images) for item in images.testing]


testing_items.__test__ = False  # type: ignore[attr-defined]  # pytest collects names that begin with "test"


def evaluation_items(path: str | Path, *, fold: int) -> list[dict[str, Any]]:
    """What a training is judged by: the testing images whose truth is known, or the held-out fold where there are none.

    Errors are those of ``training_items``.
    """
    known = [item for item in testing_items(path) if "label" in item or "boxes" in item]
    return known or validation_items(path, fold=fold)


def known_ids(images: ImageList) -> dict[str, frozenset[int]] | None:
    """The label ids of each training image, where no file has to be opened for them: not for masks."""
    if images.task == "segmentation_2d":
        return None
    return {
        item.case: frozenset(images.labels[name] for name in (*(item.classes or ()), *_box_names(item)))
        for item in images.training
    }


def _box_names(item: ImageItem) -> tuple[str, ...]:
    return tuple(box.label for box in item.boxes or ())


def _folded(path: str | Path, *, fold: int, folds: int, seed: int) -> tuple[ImageList, Mapping[str, int | None]]:
    images = read_image_list(path)
    split = with_folds(as_datalist(images), fold=fold, folds=folds, seed=seed, presence=known_ids(images))
    return images, {case.case: case.fold for case in split.training}


def _item(item: ImageItem, images: ImageList) -> dict[str, Any]:
    values: dict[str, Any] = {"case": item.case, "patient": item.patient, "image": str(item.image)}
    if images.task == "classification" and item.classes is not None:
        ids = [images.labels[name] for name in item.classes]
        values["label"] = _multi_hot(ids, len(images.labels)) if images.multi_label else ids[0]
    if images.task == "segmentation_2d" and item.masks is not None:
        paths = [str(mask) for mask in item.masks]
        values["label"] = paths if images.multi_label else paths[0]
    if images.task == "detection" and item.boxes is not None:
        values["boxes"] = np.array([box.xyxy for box in item.boxes], np.float32).reshape(-1, 4)
        values["box_labels"] = np.array([images.labels[box.label] for box in item.boxes], np.int64)
        values["difficult"] = np.array([box.difficult for box in item.boxes], bool)
    return values


def _multi_hot(ids: list[int], length: int) -> np.ndarray:
    hot = np.zeros(length, np.float32)
    hot[ids] = 1
    return hot
