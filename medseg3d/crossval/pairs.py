"""How many voxels are what in a reference and a mask: from one small table every structure's Dice follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.crossval.candidates import Structures

__all__ = ["PairCounter", "Pairs"]

SLAB_VOXELS = 4_000_000
"""Of so many voxels at a time pairs of ids are counted."""

Pairs = NDArray[np.int64]
"""Voxels by their id's place in the reference (row) and in the mask (column); tables of parts add up."""


class PairCounter:
    """Counts pairs of label ids, and scores structures by them.

    A table costs one pass over the voxels, however many structures are scored by it.

    Args:
        structures: ids of each structure; all other ids count as background.

    >>> counter = PairCounter([(1, 2), (2,)])
    >>> pairs = counter.pairs(np.array([[[0, 1, 2, 2]]]), np.array([[[0, 0, 2, 1]]]))
    >>> counter.mean_dice(pairs, {"whole": (1, 2)}), round(counter.mean_dice(pairs, {"core": (2,)}), 3)
    (0.8, 0.667)
    """

    def __init__(self, structures: Iterable[Sequence[int]]) -> None:
        ids = sorted({label for members in structures for label in members})
        self._place = np.zeros(ids[-1] + 1, np.intp)  # 0 is the background, and ids of no structure
        self._place[ids] = np.arange(1, len(ids) + 1)
        self._size = len(ids) + 1

    def pairs(self, reference: NDArray[Any], mask: NDArray[Any], counted: NDArray[np.bool_] | None = None) -> Pairs:
        """The table of two label maps (x, y, z), over the voxels that are ``counted``; over all where it is None."""
        table = np.zeros(self._size**2, np.int64)
        thickness = max(1, SLAB_VOXELS // max(1, reference[:1].size))
        for start in range(0, len(reference), thickness):
            slab = slice(start, start + thickness)
            both = self._places(reference[slab]) * self._size + self._places(mask[slab])
            table += np.bincount(both.ravel() if counted is None else both[counted[slab]], minlength=len(table))
        return table.reshape(self._size, self._size)

    def mean_dice(self, pairs: Pairs, structures: Structures) -> float:
        """Mean over the structures; 1 where neither side has one."""
        return float(np.mean([_dice(pairs, self._place[list(ids)]) for ids in structures.values()]))

    def _places(self, labels: NDArray[Any]) -> NDArray[np.intp]:
        found: NDArray[np.intp] = self._place[np.where(labels < len(self._place), labels, 0)]
        return found


def _dice(pairs: Pairs, places: NDArray[np.intp]) -> float:
    reference, mask = int(pairs[places].sum()), int(pairs[:, places].sum())
    both = int(pairs[np.ix_(places, places)].sum())
    return 2 * both / (reference + mask) if reference + mask else 1.0
