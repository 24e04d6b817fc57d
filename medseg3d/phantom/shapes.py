"""Shapes as signed distances in mm, negative inside, and the canvas that they are painted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.phantom.model import FAR_MM, LABELS, Field
from medseg3d.phantom.scan import Space, rotation_of

__all__ = ["Canvas", "blend", "ellipsoid", "join", "meet", "tube"]


def ellipsoid(space: Space, centre: Sequence[Any], radii: ArrayLike, turn_deg: Sequence[float] = ()) -> Field:
    p = np.stack([space.x - centre[0], space.y - centre[1], space.z - centre[2]])
    if len(turn_deg):
        p = np.tensordot(rotation_of(np.asarray(turn_deg)).astype(np.float32), p, 1)
    half_axes = np.asarray(radii, np.float32)[:, None, None, None]
    p /= half_axes
    k = np.sqrt(np.einsum("cijk,cijk->ijk", p, p))
    p /= half_axes
    gradient = np.sqrt(np.einsum("cijk,cijk->ijk", p, p))
    tiny = np.float32(1e-6)
    return (k - 1) * (k + tiny * half_axes.min()) / (gradient + tiny)


def tube(space: Space, x: Any, y: Any, rx: Any, ry: Any) -> Field:
    """An upright tube around the line (x(z), y(z)) with half axes rx and ry."""
    return np.asarray((np.hypot((space.x - x) / rx, (space.y - y) / ry) - 1) * np.minimum(rx, ry), dtype=np.float32)


def meet(*distances: Any) -> Field:
    """Intersection."""
    result = distances[0]
    for distance in distances[1:]:
        result = np.maximum(result, distance)
    return np.asarray(result, dtype=np.float32)


def join(*distances: Any) -> Field:
    """Union."""
    return -meet(*(-d for d in distances))


def blend(a: Field, b: Field, width_mm: float) -> Field:
    """Union with a rounded seam."""
    seam = np.clip(width_mm - np.abs(a - b), 0, None)
    return np.asarray(np.minimum(a, b) - seam**2 / np.float32(4 * width_mm), dtype=np.float32)


class Canvas:
    """The picture in the making: intensity and label of every voxel, and the distance to the nearest thing in it.

    With several channels, values are arrays of shape (channel, 1, 1, 1) or (channel, x, y, z).
    """

    def __init__(self, space: Space, background: Any, labels: Mapping[str, int] = LABELS) -> None:
        channels = np.shape(background)[:1]
        self.value = np.zeros((*channels, *space.scan.size), np.float32) + np.float32(background)
        self.labels = labels
        self.label = np.zeros(space.scan.size, np.uint8)
        self.taken = np.full(space.scan.size, FAR_MM, np.float32)
        self._edge_mm = np.float32(np.min(space.scan.spacing_mm))

    def paint(self, distance: NDArray[Any], value: Any, label: str | None = None) -> None:
        """Paint the inside; voxels on the border get a share of both sides, as a scanner's would."""
        share = np.clip(0.5 - distance / self._edge_mm, 0, 1)
        self.value += share * (value - self.value)
        if label is not None:
            self.label[distance < 0] = self.labels[label]

    def place(self, distance: NDArray[Any], value: Any, label: str | None = None, *, gap_mm: float = 0.0) -> Field:
        """Paint what other placed things leave free, ``gap_mm`` away from them; return the distance that is left."""
        distance = meet(distance, np.float32(gap_mm) - self.taken)
        self.paint(distance, value, label)
        self.taken = np.minimum(self.taken, distance)
        return distance
