"""Rare classes: how often each occurs, and the weights that make up for it, in the loss or in the sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import UsageError

__all__ = ["class_counts", "class_weights", "sampling_weights"]

Floats = NDArray[np.float64]


def class_counts(items: Sequence[Mapping[str, Any]], classes: int) -> NDArray[np.int64]:
    """Images of each class; one with several classes counts for each.

    Args:
        items: as ``medseg3d.images.training_items`` gives them: ``label`` is an id, or a vector with 1 at each class.
        classes: how many there are.

    >>> class_counts([{"label": 0}, {"label": 2}, {"label": 2}], 3).tolist()
    [1, 0, 2]
    """
    return _membership(items, classes).sum(axis=0).astype(np.int64)


def class_weights(
    items: Sequence[Mapping[str, Any]], classes: int, *, mode: Literal["none", "balanced"] = "balanced"
) -> list[float] | None:
    """Weights for ``ClassificationLoss``, such that all classes matter equally however rare they are.

    Of exclusive classes: images over (classes · images of the class), as scikit-learn's ``balanced``; the mean over the
    images is 1. Of classes that an image may have several of: images without over images with the class, the weight of
    a positive answer.

    Returns:
        A weight a class; None with ``"none"``.

    Raises:
        UsageError: ``mode`` is unknown, or a class has no image (or, where several are possible, all images).

    >>> class_weights([{"label": 0}, {"label": 1}, {"label": 1}, {"label": 1}], 2)
    [2.0, 0.6666666666666666]
    """
    if mode == "none":
        return None
    if mode != "balanced":
        raise UsageError(f"class_weighting is {mode!r}; known are none and balanced.")
    counts = class_counts(items, classes)
    several = _is_multi_label(items)
    empty = np.flatnonzero((counts == 0) | (several & (counts == len(items))))
    if len(empty):
        raise UsageError(
            f"Classes cannot be balanced: {counts[empty[0]]} of the {len(items)} training images are of class "
            f"{empty[0]}. Use class_weighting none, or another split."
        )
    weights: Floats = (len(items) - counts) / counts if several else len(items) / (classes * counts)
    return [float(w) for w in weights]


def sampling_weights(
    items: Sequence[Mapping[str, Any]], classes: int, *, mode: Literal["shuffled", "balanced"] = "balanced"
) -> list[float] | None:
    """Probabilities for ``training_loader``, with which all classes are drawn equally often.

    An image that has several classes is drawn as its rarest one; images without any are a class of their own.

    Returns:
        A probability an image, with a sum of 1; None with ``"shuffled"``, where every image is drawn once a pass.

    Raises:
        UsageError: ``mode`` is unknown.

    >>> sampling_weights([{"label": 0}, {"label": 1}, {"label": 1}], 2)
    [0.5, 0.25, 0.25]
    """
    if mode == "shuffled":
        return None
    if mode != "balanced":
        raise UsageError(f"sampling is {mode!r}; known are shuffled and balanced.")
    membership = _membership(items, classes)
    groups = np.c_[membership, membership.sum(axis=1) == 0]
    rarest = np.where(groups > 0, groups.sum(axis=0), np.inf).argmin(axis=1)
    weights = 1 / np.bincount(rarest, minlength=groups.shape[1])[rarest]
    return [float(w) for w in weights / weights.sum()]


def _membership(items: Sequence[Mapping[str, Any]], classes: int) -> Floats:
    """(images, classes): 1 where an image has the class."""
    rows: Floats = np.zeros((len(items), classes))
    for row, item in zip(rows, items, strict=True):
        label = np.asarray(item["label"])
        if label.ndim:
            row[:] = label
        else:
            row[int(label)] = 1
    return rows


def _is_multi_label(items: Sequence[Mapping[str, Any]]) -> bool:
    return any(np.asarray(item["label"]).ndim > 0 for item in items)
