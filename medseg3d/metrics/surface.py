"""Distances between the surfaces of two masks, by the field's two definitions of a surface.

**Point-wise** (``voxel_surface_distances``): the surface is the voxels of the mask that have a face in common with the
background, each counts once; distances run between voxel centres. So in MONAI, medpy and Metrics Reloaded.

**Surface-area-weighted** (``surfel_distances``): the surface is the points between voxel centres whose neighbours are
not all inside or all outside; each counts by the area that marching cubes gives it, so that neither anisotropic voxels
nor the direction of a surface change its weight. So in DeepMind's surface-distance (Nikolov et al. 2021).

Beyond the arrays is background: a mask that touches the border has a surface there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from medseg3d.metrics.surfels import neighbour_codes, surfel_sizes

__all__ = ["TIE_MM", "SurfaceDistances", "surfel_distances", "voxel_surface_distances"]

TIE_MM = 1e-4
"""A distance this little above a tolerance is within it: a header's float32 spacing makes 2 × 0.7 mm 1.4000001 mm."""

REACH = 3
"""Voxels along each axis in which a point looks for the other surface before it asks the search tree."""

FIRST_LOOK = 32
"""Places after which a surface that is mostly still without a neighbour is taken to lie farther off."""

DENSE = 0.03
"""Share of all voxels from which a distance transform of the whole box costs less than to search for each of them."""

FEW = 20_000
"""So few points are searched for one by one whatever their share: that takes no time, and is exact to float64."""


@dataclass(frozen=True)
class SurfaceDistances:
    """How far each point of either surface is from the other surface, in mm, and how much it counts.

    A point is infinitely far from an empty mask. So with one empty mask distances are inf and the overlap is 0; with
    two, all measures are NaN.

    Attributes:
        reference_mm: from every point of the reference's surface, in C order, to the nearest of the prediction's.
        prediction_mm: the way back.
        reference_weight, prediction_weight: 1 for each voxel, or areas in mm² (contours in mm).
    """

    reference_mm: NDArray[np.float64]
    prediction_mm: NDArray[np.float64]
    reference_weight: NDArray[np.float64]
    prediction_weight: NDArray[np.float64]

    def hausdorff_mm(self, percentile: float = 100.0) -> float:
        """Greater of the two directed percentiles, points counting once, between ranks by linear interpolation.

        The definition of HD (100) and HD95 in Metrics Reloaded and MONAI. (medpy pools both directions before it takes
        the percentile: its HD95 lies between the two.)
        """
        return self._greater_of(lambda distances, _: _percentile(distances, percentile))

    def weighted_hausdorff_mm(self, percentile: float = 95.0) -> float:
        """Greater of the two directed distances within which ``percentile`` % of the surface's area lies.

        The definition of surface-distance: the first distance at which the accumulated area reaches the share.
        """
        return self._greater_of(lambda distances, weight: _weighted_percentile(distances, weight, percentile))

    def mean_mm(self) -> float:
        """Average symmetric surface distance: the mean over all points of both surfaces.

        The definition of ASSD in Metrics Reloaded and of MONAI's symmetric surface distance. (The mean of the two
        directed means is the MASD.)
        """
        distances = np.concatenate((self.reference_mm, self.prediction_mm))
        return float(distances.mean()) if distances.size else float("nan")

    def overlap(self, tolerance_mm: float) -> float:
        """Normalised surface distance (surface Dice): the share of both surfaces within the tolerance of the other.

        Source: Nikolov et al. 2021, whose weights are areas. ``TIE_MM`` above the tolerance still counts.
        """
        total = self.reference_weight.sum() + self.prediction_weight.sum()
        if not total:
            return float("nan")
        within = self.reference_weight[self.reference_mm <= tolerance_mm + TIE_MM].sum()
        within += self.prediction_weight[self.prediction_mm <= tolerance_mm + TIE_MM].sum()
        return float(within / total)

    def _greater_of(self, measure: Callable[[NDArray[np.float64], NDArray[np.float64]], float]) -> float:
        sides = ((self.reference_mm, self.reference_weight), (self.prediction_mm, self.prediction_weight))
        found = [measure(distances, weight) for distances, weight in sides if distances.size]
        return max(found, default=float("nan"))


def voxel_surface_distances(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], *, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Distances between the surface voxels of two masks of one shape.

    >>> a, b = np.zeros((2, 9, 9, 9), bool)
    >>> a[1:5, 2:6, 2:6] = b[3:7, 2:6, 2:6] = True
    >>> voxel_surface_distances(a, b, spacing_mm=(1, 1, 1)).hausdorff_mm()
    2.0
    """
    surfaces = [_surface_voxels(_with_margin(mask)) for mask in (reference, prediction)]
    there, back = _both_ways(surfaces[0], surfaces[1], spacing_mm)
    return SurfaceDistances(there, back, np.ones(there.size), np.ones(back.size))


def surfel_distances(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], *, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Distances between the surface elements of two masks of one shape, weighted by area (mm²; in a plane by mm).

    >>> a, b = np.zeros((2, 9, 9, 9), bool)
    >>> a[1:5, 2:6, 2:6] = b[3:7, 2:6, 2:6] = True
    >>> surfel_distances(a, b, spacing_mm=(1, 1, 1)).overlap(tolerance_mm=2.0)
    1.0
    """
    sizes = surfel_sizes(spacing_mm)
    codes = neighbour_codes(_with_margin(reference)), neighbour_codes(_with_margin(prediction))
    surfaces = [(c != 0) & (c != sizes.size - 1) for c in codes]
    there, back = _both_ways(surfaces[0], surfaces[1], spacing_mm)
    weights = [sizes[c[s]] for c, s in zip(codes, surfaces, strict=True)]
    return SurfaceDistances(there, back, weights[0], weights[1])


def _with_margin(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``mask`` with background around it, one voxel for the surface and ``REACH`` to look around from there."""
    wider = np.zeros([n + 2 * (REACH + 1) for n in mask.shape], bool)
    wider[(slice(REACH + 1, -REACH - 1),) * mask.ndim] = mask
    return wider


def _surface_voxels(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of ``mask``, which has a margin, that share a face with the background."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        along = np.moveaxis(inner, axis, 0)
        source = np.moveaxis(mask, axis, 0)
        along[1:] &= source[:-1]
        along[:-1] &= source[1:]
    return mask & ~inner


def _both_ways(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance in mm from each point of one surface, in C order, to the nearest of the other; there and back."""
    in_reference, in_prediction = np.flatnonzero(reference), np.flatnonzero(prediction)
    return (
        _nearest_mm(in_reference, in_prediction, prediction, spacing_mm),
        _nearest_mm(in_prediction, in_reference, reference, spacing_mm),
    )


def _nearest_mm(
    points: NDArray[np.intp], goals: NDArray[np.intp], is_goal: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> NDArray[np.float64]:
    """Distance in mm from each of ``points`` to the nearest of ``goals``, both flat indices into ``is_goal``.

    Most surfaces that are compared lie a voxel or two apart, so each point first looks around itself, nearest places
    first; those that find nothing there ask a search tree. Cost and memory then grow with the surface, not with the
    volume. Only where very many are left, as in noise, a distance transform answers all at once; it is
    float32, so distances are then right to 1e-7 of themselves.
    """
    if not goals.size:
        return np.full(points.size, np.inf)
    distances = np.zeros(points.size)
    flat = is_goal.ravel()
    left = np.flatnonzero(~flat[points])
    for tried, (offset, distance) in enumerate(_around(is_goal.shape, spacing_mm)):
        if not left.size or (tried == FIRST_LOOK and left.size > points.size / 2):
            break
        hit = flat[points[left] + offset]
        distances[left[hit]] = distance
        left = left[~hit]
    if left.size > max(FEW, DENSE * is_goal.size):
        squared = edt.edtsq((~is_goal).view(np.uint8), anisotropy=tuple(map(float, spacing_mm)))
        distances[left] = np.sqrt(squared.ravel()[points[left]], dtype=np.float64)
    elif left.size:
        # Sliding midpoints, not medians: points on a grid tie, and the tree is made twice as fast.
        tree = KDTree(_in_mm(goals, is_goal.shape, spacing_mm), leafsize=32, balanced_tree=False, compact_nodes=False)
        distances[left] = tree.query(_in_mm(points[left], is_goal.shape, spacing_mm))[0]
    return distances


def _around(shape: tuple[int, ...], spacing_mm: Sequence[float]) -> list[tuple[int, float]]:
    """Flat offsets and distances in mm of the places up to ``REACH`` voxels away along each axis, nearest first.

    Only those nearer than any place beyond that reach, so that the first one that hits is the nearest of all.
    """
    spacing = np.asarray(spacing_mm, float)
    steps = np.stack(np.meshgrid(*[np.arange(-REACH, REACH + 1)] * len(shape), indexing="ij"), -1)
    steps = steps.reshape(-1, len(shape))
    distances = np.linalg.norm(steps * spacing, axis=1)
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    order = np.argsort(distances, kind="stable")
    near = order[(distances[order] > 0) & (distances[order] < (REACH + 1) * spacing.min())]
    return list(zip((steps[near] @ strides).tolist(), distances[near].tolist(), strict=True))


def _in_mm(flat: NDArray[np.intp], shape: tuple[int, ...], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    return np.stack(np.unravel_index(flat, shape), axis=1) * np.asarray(spacing_mm, float)


def _percentile(distances: NDArray[np.float64], percentile: float) -> float:
    # Interpolating between two infinities would give NaN.
    return float(np.percentile(distances, percentile)) if np.isfinite(distances).all() else float("inf")


def _weighted_percentile(distances: NDArray[np.float64], weight: NDArray[np.float64], percentile: float) -> float:
    order = np.argsort(distances)
    share = np.cumsum(weight[order]) / weight.sum()
    reached = int(np.searchsorted(share, percentile / 100.0))
    return float(distances[order[min(reached, order.size - 1)]])
