"""Overlap over a whole data set: one confusion matrix, to which cases are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg3d.metrics.overlap import LabelOverlap
from medseg3d.metrics.regions import Region, boxes_of_ids, memory_order, require_label_maps, union_box

__all__ = ["DatasetCounts", "count_labels"]


@dataclass(frozen=True, eq=False)
class DatasetCounts:
    """Voxels by reference label and predicted label, summed over cases.

    Counts of several cases, or of the parts that several processes counted, add up with ``+``. Every voxel of the data
    set weighs the same, so large structures and large images weigh more than in a mean over cases.

    Attributes:
        regions: labels and regions that the measures are about.
        matrix: rows reference, columns prediction; row 0 is the background and every id that no region names, then the
            ids in ``ids``.

    >>> counts = DatasetCounts.empty([Region("a", (1,)), Region("b", (2,))])
    >>> counts = counts.add(np.array([[[0, 1, 1, 2]]]), np.array([[[1, 1, 1, 0]]]))
    >>> counts.matrix.tolist()
    [[0, 1, 0], [0, 2, 0], [1, 0, 0]]
    >>> counts.iou, counts.miou
    ({'a': 0.6666666666666666, 'b': 0.0}, 0.3333333333333333)
    """

    regions: tuple[Region, ...]
    matrix: NDArray[np.int64]

    @classmethod
    def empty(cls, regions: Sequence[Region]) -> DatasetCounts:
        """Counts of no case: where a sum starts."""
        size = 1 + len(_ids_of(regions))
        return cls(tuple(regions), np.zeros((size, size), np.int64))

    def add(self, reference: NDArray, prediction: NDArray) -> DatasetCounts:
        """These counts and those of one more case."""
        return self + count_labels(reference, prediction, regions=self.regions)

    def __add__(self, other: DatasetCounts) -> DatasetCounts:
        if self.regions != other.regions:
            raise ValueError("Counts of different labels cannot be added.")
        return DatasetCounts(self.regions, self.matrix + other.matrix)

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the rows and columns of ``matrix`` after the first."""
        return _ids_of(self.regions)

    @property
    def overlaps(self) -> dict[str, LabelOverlap]:
        """Voxels of each region in the references, in the predictions, and in both."""
        return {region.name: self._overlap(region) for region in self.regions}

    @property
    def iou(self) -> dict[str, float]:
        """Accumulated intersection over accumulated union (Everingham et al. 2015); NaN for what no case has."""
        return {name: overlap.iou for name, overlap in self.overlaps.items()}

    @property
    def dice(self) -> dict[str, float]:
        """Dice of the accumulated counts; NaN for what no case has."""
        return {name: overlap.dice for name, overlap in self.overlaps.items()}

    @property
    def miou(self) -> float:
        """Mean IoU over the regions that some case has, without the background; NaN when there are none."""
        found = [value for value in self.iou.values() if not np.isnan(value)]
        return float(np.mean(found)) if found else float("nan")

    def _overlap(self, region: Region) -> LabelOverlap:
        at = [1 + self.ids.index(i) for i in region.ids]
        return LabelOverlap(
            int(self.matrix[at].sum()), int(self.matrix[:, at].sum()), int(self.matrix[np.ix_(at, at)].sum())
        )


def count_labels(reference: NDArray, prediction: NDArray, *, regions: Sequence[Region]) -> DatasetCounts:
    """Confusion matrix of one case.

    Only the box around all labels is counted, one slab after another; what lies outside is background on both sides.

    Raises:
        GeometryError: the shapes differ, or have not three axes.
        CaseError: label maps that hold no integers.
    """
    require_label_maps(reference, prediction)
    order = memory_order(reference)
    reference, prediction = reference.transpose(order), prediction.transpose(order)
    counts = DatasetCounts.empty(regions)
    size = len(counts.matrix)
    box = union_box(
        [b for labels in (reference, prediction) for b in boxes_of_ids(labels, highest=max(counts.ids)).values()]
        if counts.ids
        else []
    )
    if box is not None:
        rows = _row_of_id(counts.ids)
        for pair in zip(reference[box], prediction[box], strict=True):
            to, by = (rows[slab.astype(np.intp).clip(0, rows.size - 1)] for slab in pair)
            counts.matrix[...] += np.bincount((to * size + by).ravel(), minlength=size**2).reshape(size, size)
    counts.matrix[0, 0] += reference.size - int(counts.matrix.sum())
    return counts


def _ids_of(regions: Sequence[Region]) -> tuple[int, ...]:
    return tuple(sorted({i for region in regions for i in region.ids}))


def _row_of_id(ids: Sequence[int]) -> NDArray[np.intp]:
    """Row of the matrix for each id; the entry after the highest one stands for all that are higher."""
    rows = np.zeros(max(ids) + 2, np.intp)
    rows[list(ids)] = np.arange(1, len(ids) + 1)
    return rows
