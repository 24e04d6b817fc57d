"""All measures of one case: a row for every label or region."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.errors import GeometryError, UsageError
from medseg3d.geometry import check_affine
from medseg3d.geometry import spacing_mm as spacing_of
from medseg3d.metrics.lesions import Connectivity, LesionScores, score_lesions
from medseg3d.metrics.overlap import LabelOverlap, Status
from medseg3d.metrics.regions import Box, Region, crops, memory_order, require_label_maps
from medseg3d.metrics.surface import surfel_distances, voxel_surface_distances

__all__ = ["SHEAR_TOLERANCE_DEGREES", "CaseScores", "score_labels"]

SHEAR_TOLERANCE_DEGREES = 0.1
"""How far voxel axes may be from right angles: a distance is then wrong by less than 0.1 %."""


@dataclass(frozen=True)
class CaseScores:
    """Measures of one label or region in one case, after Metrics Reloaded (Maier-Hein et al. 2024) where it has them.

    NaN is "not defined" and inf "infinitely far". The policy for empty masks: with both empty (``both_empty``)
    everything but the volumes is NaN; with one empty (``missed``: only the reference has the label; ``spurious``: only
    the prediction has it) Dice, IoU and NSD are 0 and every distance is inf.

    Attributes:
        dice, iou, sensitivity, precision, specificity: see ``LabelOverlap``.
        volume_ml, reference_ml: volumes of the prediction and of the reference.
        volume_difference_ml: prediction − reference.
        relative_volume_difference: that, divided by the reference's volume; NaN where the reference is empty.
        hd_mm, hd95_mm: Hausdorff distance, and the greater of the two directed 95th percentiles, over surface voxels.
        hd95_weighted_mm: the same percentile over the surface's area (DeepMind's surface-distance).
        assd_mm: average symmetric surface distance over surface voxels.
        nsd: normalised surface distance (surface Dice) at ``nsd_tolerance_mm``, by area.
        centre_distance_mm: between the centroids.
        lesions: None unless asked for.
    """

    label: str
    ids: tuple[int, ...]
    status: Status
    dice: float
    iou: float
    sensitivity: float
    precision: float
    specificity: float
    volume_ml: float
    reference_ml: float
    volume_difference_ml: float
    relative_volume_difference: float
    hd_mm: float
    hd95_mm: float
    hd95_weighted_mm: float
    assd_mm: float
    nsd: float
    nsd_tolerance_mm: float
    centre_distance_mm: float
    lesions: LesionScores | None = None


def score_labels(
    reference: NDArray,
    prediction: NDArray,
    *,
    regions: Sequence[Region],
    affine: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
    tolerance_mm: float | Mapping[str, float] = 2.0,
    lesions: bool = False,
    lesion_overlap: float = 0.1,
    connectivity: Connectivity = 26,
) -> list[CaseScores]:
    """Score every region of a predicted label map against a reference on the same grid.

    One pass over each volume finds where the labels are; each region is then measured in the box around it, so memory
    does not grow with the number of labels. A volume with one axis of a single voxel is a picture: its surfaces are
    contours in that plane. Ids that no region names count as background.

    Args:
        reference, prediction: integer label maps of one shape, three axes.
        affine: voxel indices to mm; or, instead, ``spacing_mm``.
        tolerance_mm: of the NSD, for all or by region's name.
        lesions: match connected components too.
        lesion_overlap: IoU from which a lesion counts as found.
        connectivity: voxels that hang together by faces (6), edges too (18), or corners too (26).

    Raises:
        GeometryError: shapes that differ, or an affine whose axes are not at right angles.
        CaseError: label maps that hold no integers.
        UsageError: both or neither of affine and spacing; a region without a tolerance; two regions of one name.

    >>> labels = np.zeros((20, 20, 20), np.uint8)
    >>> labels[5:15, 5:15, 5:15] = 1
    >>> row, = score_labels(labels, np.roll(labels, 1, axis=0), regions=[Region("organ", (1,))], spacing_mm=(1, 1, 2))
    >>> row.status, row.dice, row.hd95_mm, row.volume_ml
    ('scored', 0.9, 1.0, 2.0)
    """
    require_label_maps(reference, prediction)
    tolerances = _tolerances(regions, tolerance_mm)
    spacing = _upright_spacing(affine, spacing_mm)
    order = memory_order(reference)
    reference, prediction = reference.transpose(order), prediction.transpose(order)
    grid = _Grid(reference.shape, tuple(spacing[axis] for axis in order))
    rows = []
    for region, box, *masks in crops(reference, prediction, regions):
        found = None
        if lesions:
            found = score_lesions(*masks, voxel_ml=grid.voxel_ml, overlap=lesion_overlap, connectivity=connectivity)
            found = _moved(found, box, order)
        rows.append(_row(region, masks, grid, tolerances[region.name], found))
    return rows


@dataclass(frozen=True)
class _Grid:
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]

    @property
    def voxel_ml(self) -> float:
        return math.prod(self.spacing_mm) / 1000.0


def _row(
    region: Region,
    masks: Sequence[NDArray[np.bool_]],
    grid: _Grid,
    tolerance_mm: float,
    lesions: LesionScores | None,
) -> CaseScores:
    in_reference, in_prediction, in_both = (int(np.count_nonzero(m)) for m in (*masks, masks[0] & masks[1]))
    overlap = LabelOverlap(in_reference, in_prediction, in_both)
    change = in_prediction - in_reference
    return CaseScores(
        label=region.name,
        ids=region.ids,
        status=overlap.status,
        dice=overlap.dice,
        iou=overlap.iou,
        sensitivity=overlap.sensitivity,
        precision=overlap.precision,
        specificity=math.nan if overlap.status == "both_empty" else overlap.specificity(math.prod(grid.shape)),
        volume_ml=in_prediction * grid.voxel_ml,
        reference_ml=in_reference * grid.voxel_ml,
        volume_difference_ml=change * grid.voxel_ml,
        relative_volume_difference=change / in_reference if in_reference else math.nan,
        **(_distances(masks, grid, tolerance_mm) if overlap.status == "scored" else _no_distances(overlap.status)),
        nsd_tolerance_mm=tolerance_mm,
        lesions=lesions,
    )


def _no_distances(status: Status) -> dict[str, float]:
    """What stands for the distances where a mask, or both, is empty."""
    undefined = status == "both_empty"
    names = ("hd_mm", "hd95_mm", "hd95_weighted_mm", "assd_mm", "centre_distance_mm")
    return {**dict.fromkeys(names, math.nan if undefined else math.inf), "nsd": math.nan if undefined else 0.0}


def _distances(masks: Sequence[NDArray[np.bool_]], grid: _Grid, tolerance_mm: float) -> dict[str, float]:
    shift = _centre(masks[0]) - _centre(masks[1])
    plane = [axis for axis, n in enumerate(grid.shape) if n > 1]
    if len(plane) == 2:
        reference, prediction = (mask.squeeze(grid.shape.index(1)) for mask in masks)
        spacing = tuple(grid.spacing_mm[axis] for axis in plane)
    else:
        reference, prediction = masks
        spacing = grid.spacing_mm
    voxels = voxel_surface_distances(reference, prediction, spacing_mm=spacing)
    surfels = surfel_distances(reference, prediction, spacing_mm=spacing)
    return {
        "hd_mm": voxels.hausdorff_mm(),
        "hd95_mm": voxels.hausdorff_mm(95.0),
        "hd95_weighted_mm": surfels.weighted_hausdorff_mm(95.0),
        "assd_mm": voxels.mean_mm(),
        "nsd": surfels.overlap(tolerance_mm),
        "centre_distance_mm": float(np.linalg.norm(shift * grid.spacing_mm)),
    }


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Voxel index of the centroid of a mask that is not empty."""
    ones = mask.view(np.uint8)
    plane = ones.sum(axis=0, dtype=np.uint32)
    profiles = (ones.sum(axis=(1, 2), dtype=np.uint32), plane.sum(axis=1), plane.sum(axis=0))
    return np.array([profile @ np.arange(profile.size) / profile.sum() for profile in profiles])


def _upright_spacing(affine: ArrayLike | None, spacing_mm: Sequence[float] | None) -> tuple[float, float, float]:
    """Spacing of a grid whose axes are at right angles; the volume of a voxel is then its product."""
    if (affine is None) == (spacing_mm is None):
        raise UsageError("Give either the affine or the spacing of the label maps, not both or neither.")
    if affine is None:
        affine = np.diag([*np.asarray(spacing_mm, float), 1.0])
    spacing = spacing_of(affine)
    axes = check_affine(affine)[:3, :3] / spacing
    off = float(np.degrees(np.arcsin(np.abs(axes.T @ axes - np.eye(3)).max())))
    if off > SHEAR_TOLERANCE_DEGREES:
        raise GeometryError(
            f"The grid is sheared: its axes are {off:.2f}° off right angles, and distances need at most "
            f"{SHEAR_TOLERANCE_DEGREES}°. Resample image and masks to an upright grid first."
        )
    return spacing


def _tolerances(regions: Sequence[Region], tolerance_mm: float | Mapping[str, float]) -> dict[str, float]:
    names = [region.name for region in regions]
    if len(set(names)) != len(names):
        raise UsageError(f"Two regions have one name: {', '.join(names)}. Names must differ.")
    if not isinstance(tolerance_mm, Mapping):
        tolerance_mm = dict.fromkeys(names, tolerance_mm)
    for name in names:
        given = tolerance_mm.get(name)
        if given is None or not given >= 0:
            raise UsageError(f"{name} needs an NSD tolerance of 0 mm or more; {given} was given.")
    return {name: float(tolerance_mm[name]) for name in names}


def _moved(scores: LesionScores, box: Box | None, order: Sequence[int]) -> LesionScores:
    """Centres as voxel indices of the whole volume, where they were those of ``box`` with its axes in ``order``."""
    if box is None:
        return scores
    moved = []
    for lesion in scores.lesions:
        centre = np.empty(3)
        centre[list(order)] = np.add(lesion.centre_ijk, [axis.start for axis in box])
        i, j, k = centre.tolist()
        moved.append(replace(lesion, centre_ijk=(i, j, k)))
    return replace(scores, lesions=tuple(moved))
