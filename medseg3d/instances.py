"""From classes of pixels to objects: touching ones separated, counted and measured; panoptic maps.

Two objects of one class that touch are joined by a neck. Each has a core, where the distance to the nearest pixel
outside is greatest: half the object's width. On the best way from core to core this distance falls to half the neck's
width. Objects are separated where the neck is clearly narrower than the smaller object, which says something of shape
alone: it holds for objects of any size, and needs no smallest distance between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg3d.errors import GeometryError, UsageError

__all__ = ["Instance", "Panoptic", "count_instances", "measure", "panoptic", "panoptic_to_rgb", "separate"]

Mask = NDArray[np.bool_]
Ids = NDArray[np.int32]

EIGHT = np.ones((3, 3), bool)
NEIGHBOURS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0))
# Edges of the pixel grid: half a pixel lies between a pixel's centre and its side.
HALF_PIXEL = 0.5


@dataclass(frozen=True)
class Instance:
    """One object.

    Attributes:
        id: its value in the map of instances.
        label: id of its class.
        area_px: pixels.
        centre: row and column of its centroid.
        box: left, top, right, bottom in pixels; (0, 0) is the image's top left corner.
        equivalent_diameter: of the circle of its area, in pixels; likewise the axes.
        major_axis, minor_axis: of the ellipse with its second moments.
        touches_edge: it may be cut off by the image's edge.
        area_mm2: None where the image has no spacing; likewise the next.
        equivalent_diameter_mm: of the circle of its area.
    """

    id: int
    label: int
    area_px: int
    centre: tuple[float, float]
    box: tuple[int, int, int, int]
    equivalent_diameter: float
    major_axis: float
    minor_axis: float
    touches_edge: bool
    area_mm2: float | None = None
    equivalent_diameter_mm: float | None = None


@dataclass(frozen=True, eq=False)
class Panoptic:
    """Class and object of every pixel (Kirillov et al. 2019).

    Attributes:
        classes: (rows, columns) of label ids, 0 the background.
        instances: (rows, columns) of instance ids from 1, unique in the image; 0 where there is no object. A class
            that is not counted is one instance.
    """

    classes: NDArray[np.integer]
    instances: Ids


def separate(mask: Mask, *, neck: float = 0.75, min_area_px: int = 0) -> Ids:
    """Number the objects of a mask from 1 in reading order of their first pixels; background is 0.

    Of thin objects, narrower than six pixels, about one in fifty is split where its outline steps from one pixel to
    the next: lower ``neck`` for them.

    Args:
        mask: (rows, columns) of one class.
        neck: objects are separated where they touch by a neck narrower than this share of the smaller one's width; at
            0 only what does not touch, over corners too, is separate.
        min_area_px: smaller objects are left out.

    Raises:
        GeometryError: not a mask of two axes.
        UsageError: ``neck`` outside 0 to 1.

    >>> two = np.zeros((9, 18), bool)
    >>> two[1:8, 1:8] = two[1:8, 10:17] = two[4, 8:10] = True  # two squares and a bridge of one pixel
    >>> int(separate(two).max()), int(separate(two, neck=0).max())
    (2, 1)
    """
    if mask.ndim != 2:
        raise GeometryError(f"A mask of shape {mask.shape} is no picture: two axes are wanted.")
    if not 0 <= neck <= 1:
        raise UsageError(f"neck is {neck}: a share from 0 (never separate) to 1 is possible.")
    found = _split(mask, neck) if neck and mask.any() else ndimage.label(mask, EIGHT)[0].astype(np.int32)
    return _renumbered(found, min_area_px)


def panoptic(
    classes: NDArray[np.integer], *, things: Sequence[int], neck: float = 0.75, min_area_px: int = 0
) -> Panoptic:
    """Objects of a label map.

    Args:
        classes: (rows, columns) of label ids.
        things: ids of the classes whose objects are counted; the pixels of each other class are one instance.
        neck, min_area_px: see ``separate``. What is too small becomes background in both maps.
    """
    instances = np.zeros(classes.shape, np.int32)
    kept = classes.copy()
    for label in np.unique(classes[classes > 0]).tolist():
        of_class = classes == label
        if label in things:
            found = separate(of_class, neck=neck, min_area_px=min_area_px)
            kept[of_class & (found == 0)] = 0
        else:
            found = of_class.astype(np.int32)
        instances[found > 0] = found[found > 0] + instances.max(initial=0)
    return Panoptic(kept, instances)


def measure(result: Panoptic, *, spacing_mm: Sequence[float] | None = None) -> list[Instance]:
    """Every object's place and size, in the order of the ids.

    Args:
        spacing_mm: between rows and between columns; None gives pixels alone.
    """
    boxes = ndimage.find_objects(result.instances) if result.instances.any() else []
    return [_measured(result, index, box, spacing_mm) for index, box in enumerate(boxes, start=1) if box is not None]


def count_instances(instances: Sequence[Instance], labels: Mapping[str, int]) -> dict[str, int]:
    """How many objects of each class, by name."""
    of_label = [instance.label for instance in instances]
    return {name: of_label.count(label) for name, label in labels.items()}


def panoptic_to_rgb(instances: Ids) -> NDArray[np.uint8]:
    """COCO's picture of a panoptic map: id = red + 256 green + 256² blue.

    >>> panoptic_to_rgb(np.array([[0, 258]], np.int32)).tolist()
    [[[0, 0, 0], [2, 1, 0]]]
    """
    return np.stack([(instances >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


# Parts ---------------------------------------------------------------------------------------------------------------


def _split(mask: Mask, neck: float) -> Ids:
    """The parts of a mask that are joined by narrow necks alone, numbered in any order."""
    # The outside begins at the image's edge: an object that is cut there is as wide as what is seen of it.
    half_width = np.pad(edt.edt(np.ascontiguousarray(mask), black_border=True), 1)
    half_width[half_width > 0] -= HALF_PIXEL
    basins = _basins(half_width)
    joined = _joined(basins, half_width, neck)
    return joined[basins][1:-1, 1:-1]


def _basins(height: NDArray[np.floating]) -> Ids:
    """For each pixel above 0 the summit, numbered from 1, to which the steepest way up from it leads.

    Level ground that nothing beside it exceeds is a summit; so is a shoulder's, which is then joined without a neck.
    """
    index = np.arange(height.size).reshape(height.shape)
    best, way = height.copy(), index.copy()
    for shift in NEIGHBOURS:
        there = np.roll(height, shift, (0, 1))  # the margin of 0 keeps the sides apart
        higher = there > best
        best[higher], way[higher] = there[higher], np.roll(index, shift, (0, 1))[higher]
    summits = ndimage.label((way == index) & (height > 0), EIGHT)[0].ravel().astype(np.int32)
    leads_to = way.ravel()
    while not np.array_equal(further := leads_to[leads_to], leads_to):
        leads_to = further
    return np.where(height > 0, summits[leads_to].reshape(height.shape), 0)


def _joined(basins: Ids, height: NDArray[np.floating], neck: float) -> Ids:
    """For each basin the basin that stands for the object it belongs to."""
    summit = ndimage.maximum(height, basins, np.arange(basins.max() + 1))
    parent = np.arange(len(summit), dtype=np.int32)

    def root(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = parent[parent[basin]]
            basin = int(parent[basin])
        return basin

    for one, other, pass_height in _passes(basins, height):
        low, high = sorted((root(one), root(other)), key=lambda basin: summit[basin])
        if low != high and pass_height >= neck * summit[low]:
            parent[low] = high
    return np.array([root(basin) for basin in range(len(parent))], np.int32)


def _passes(basins: Ids, height: NDArray[np.floating]) -> list[tuple[int, int, float]]:
    """Neighbouring basins with the height of the highest pass between them, the highest first."""
    pairs, heights = [], []
    for shift in NEIGHBOURS[:4]:  # the others are the same pairs
        there, height_there = np.roll(basins, shift, (0, 1)), np.roll(height, shift, (0, 1))
        border = (basins > 0) & (there > 0) & (basins != there)
        pairs.append(np.sort(np.stack([basins[border], there[border]], axis=1), axis=1))
        heights.append(np.minimum(height, height_there)[border])
    all_pairs, all_heights = np.concatenate(pairs), np.concatenate(heights)
    order = np.argsort(-all_heights, kind="stable")
    unique, first = np.unique(all_pairs[order], axis=0, return_index=True)
    highest = all_heights[order][first]
    return [(int(unique[i, 0]), int(unique[i, 1]), float(highest[i])) for i in np.argsort(-highest, kind="stable")]


def _renumbered(found: Ids, min_area_px: int) -> Ids:
    """Ids from 1 in reading order, without what is too small."""
    if not found.size:
        return found
    values, first, counts = np.unique(found, return_index=True, return_counts=True)
    kept = [
        value
        for _, value, count in sorted(zip(first, values, counts, strict=True))
        if value > 0 and count >= min_area_px
    ]
    ids = np.zeros(int(values.max(initial=0)) + 1, np.int32)
    ids[kept] = np.arange(1, len(kept) + 1)
    return np.asarray(ids[found])


def _measured(result: Panoptic, index: int, box: tuple[slice, slice], spacing_mm: Sequence[float] | None) -> Instance:
    inside = result.instances[box] == index
    rows, columns = np.nonzero(inside)
    area = len(rows)
    top, left, bottom, right = box[0].start, box[1].start, box[0].stop, box[1].stop
    height, width = result.instances.shape
    major, minor = _axes(rows, columns)
    diameter = 2 * float(np.sqrt(area / np.pi))
    pixel_mm2 = None if spacing_mm is None else float(spacing_mm[0] * spacing_mm[1])
    return Instance(
        id=index,
        label=int(result.classes[box][inside][0]),
        area_px=area,
        centre=(top + float(rows.mean()), left + float(columns.mean())),
        box=(left, top, right, bottom),
        equivalent_diameter=diameter,
        major_axis=major,
        minor_axis=minor,
        touches_edge=top == 0 or left == 0 or bottom == height or right == width,
        area_mm2=None if pixel_mm2 is None else area * pixel_mm2,
        equivalent_diameter_mm=None if pixel_mm2 is None else diameter * float(np.sqrt(pixel_mm2)),
    )


def _axes(rows: NDArray[np.integer], columns: NDArray[np.integer]) -> tuple[float, float]:
    """Axes of the ellipse with the second moments of the pixels, each of which is a square and not a point."""
    covariance = np.cov(np.stack([rows, columns]), bias=True) + np.eye(2) / 12
    minor, major = np.sqrt(np.linalg.eigvalsh(covariance))
    return 4 * float(major), 4 * float(minor)
