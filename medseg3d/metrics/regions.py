"""Labels and regions of a label map, and the part of the volume that each of them occupies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg3d.errors import CaseError, GeometryError, UsageError

__all__ = [
    "Box",
    "Region",
    "as_regions",
    "boxes_of_ids",
    "crops",
    "mask_in_box",
    "memory_order",
    "require_label_maps",
    "require_same_shape",
    "union_box",
]

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Region:
    """What one row of scores is about: a label (one id), or several labels taken together.

    Regions may overlap: a whole tumour of ids (1, 2, 3) holds a core of ids (2, 3).

    Raises:
        UsageError: no id, an id twice, or an id below 1 (0 is the background).

    >>> Region("whole tumour", (1, 2, 3)).ids
    (1, 2, 3)
    """

    name: str
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.ids or len(set(self.ids)) != len(self.ids) or min(self.ids) < 1:
            raise UsageError(
                f"{self.name}: the ids {list(self.ids)} make no region. Give one or more different ids, 1 or higher."
            )


def as_regions(labels: Mapping[str, int | Iterable[int]]) -> tuple[Region, ...]:
    """Regions from a data list's ``labels`` or ``regions``: a name and an id, or a name and ids.

    >>> as_regions({"core": 1, "whole": [1, 2]})
    (Region(name='core', ids=(1,)), Region(name='whole', ids=(1, 2)))
    """
    return tuple(Region(name, (ids,) if isinstance(ids, int) else tuple(ids)) for name, ids in labels.items())


def require_label_maps(reference: NDArray, prediction: NDArray) -> None:
    """Raise unless both are three-dimensional integer (or bool) arrays of one shape.

    Raises:
        GeometryError: the shapes differ, or have not three axes.
        CaseError: numbers that are no integers.
    """
    require_same_shape(reference, prediction)
    if reference.ndim != 3:
        raise GeometryError(
            f"The label maps have {reference.ndim} axes, a volume has 3. Give a picture a third axis of length 1."
        )
    for side, labels in (("reference", reference), ("prediction", prediction)):
        if labels.dtype.kind not in "bui":
            raise CaseError(f"The {side} holds {labels.dtype}, not integers: round or threshold it to labels first.")


def require_same_shape(reference: NDArray, prediction: NDArray) -> None:
    """Raise ``GeometryError`` unless both have the same shape."""
    if reference.shape != prediction.shape:
        raise GeometryError(
            f"The reference's shape {reference.shape} differs from the prediction's {prediction.shape}: "
            "resample the prediction to the reference's grid."
        )


def memory_order(labels: NDArray) -> tuple[int, ...]:
    """Order of the axes in which ``labels`` lies in memory; to read a volume that way is several times faster.

    NIfTI files come with the first axis innermost, ITK's with the last.

    >>> memory_order(np.zeros((2, 3, 4), order="F"))
    (2, 1, 0)
    """
    return tuple(sorted(range(labels.ndim), key=lambda axis: -abs(labels.strides[axis])))


def boxes_of_ids(labels: NDArray, *, highest: int) -> dict[int, Box]:
    """Bounding box of every id from 1 to ``highest`` that ``labels`` holds, in one pass over it.

    >>> boxes_of_ids(np.array([[0, 2, 2], [0, 0, 0]]), highest=3)
    {2: (slice(0, 1, None), slice(1, 3, None))}
    """
    if labels.dtype == bool:
        labels = labels.view(np.uint8)
    found = ndimage.find_objects(labels, max_label=highest)
    return {index: box for index, box in enumerate(found, start=1) if box is not None}


def union_box(boxes: Sequence[Box]) -> Box | None:
    """Smallest box around all ``boxes``; None around none."""
    if not boxes:
        return None
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def mask_in_box(labels: NDArray, ids: Sequence[int], box: Box) -> NDArray[np.bool_]:
    """Where ``labels`` is one of ``ids``, inside ``box``.

    >>> mask_in_box(np.array([[0, 2, 3]]), (2, 3), (slice(0, 1), slice(1, 3)))
    array([[ True,  True]])
    """
    crop = labels[box]
    mask = crop == ids[0]
    for further in ids[1:]:
        mask |= crop == further
    return mask


def crops(
    reference: NDArray, prediction: NDArray, regions: Sequence[Region]
) -> Iterator[tuple[Region, Box | None, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Each region with the box around it on both sides, and its two masks in there; one region at a time is in memory.

    Where neither side has the region the box is None and the masks are empty.
    """
    highest = max((i for region in regions for i in region.ids), default=0)
    boxes = [boxes_of_ids(labels, highest=highest) for labels in (reference, prediction)] if highest else []
    nothing = np.zeros((1,) * reference.ndim, bool)
    for region in regions:
        box = union_box([side[i] for side in boxes for i in region.ids if i in side])
        if box is None:
            yield region, None, nothing, nothing
        else:
            yield region, box, mask_in_box(reference, region.ids, box), mask_in_box(prediction, region.ids, box)
