"""Label maps to the contours of an RTSTRUCT: outlines per slice as decimal strings in patient millimetres."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import floor, log10
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.contours import Ring, keyhole, outlines
from medseg3d.dicom.model import SeriesGrid
from medseg3d.errors import GeometryError

__all__ = ["EncodedContour", "Holes", "encode_labels"]

Holes = Literal["keyhole", "xor"]

DS_LENGTH = 16  # characters of a decimal string, PS3.5 6.2
# Coordinates are rounded to this part of a pixel; outlines stay 0.35 pixel away from every centre.
PRECISION = 1e-4


@dataclass(frozen=True)
class EncodedContour:
    """One contour as it stands in the file.

    Attributes:
        k: slice of the grid.
        kind: Contour Geometric Type.
        points: their number.
        data: Contour Data, ``x\\y\\z\\x\\y\\z…`` in mm, LPS.
    """

    k: int
    kind: str
    points: int
    data: str


def encode_labels(
    voxels: NDArray[Any], grid: SeriesGrid, ids: Mapping[str, int], *, holes: Holes
) -> dict[str, list[EncodedContour]]:
    """The contours of each label, slice by slice.

    Args:
        voxels: label map (i, j, k) on ``grid``.
        grid: of the series.
        ids: name of each label → its id.
        holes: ``"keyhole"``: rim and holes are one contour of type CLOSED_PLANAR. ``"xor"``: each is a contour; those
            of a label that has holes are of type CLOSEDPLANAR_XOR.

    Raises:
        GeometryError: the grid lies so far out that 16 characters cannot hold its coordinates.
    """
    from scipy import ndimage

    decimals = _decimals(grid)
    boxes = ndimage.find_objects(voxels, max_label=max(ids.values()))
    return {
        name: [] if (box := boxes[number - 1]) is None else _encode(voxels, number, box, grid, decimals, holes)
        for name, number in ids.items()
    }


def _encode(
    voxels: NDArray[Any],
    number: int,
    box: tuple[slice, slice, slice],
    grid: SeriesGrid,
    decimals: int,
    holes: Holes,
) -> list[EncodedContour]:
    start = np.array([box[0].start, box[1].start])
    parts = [
        (k, [ring + start for ring in part])
        for k in range(box[2].start, box[2].stop)
        for part in outlines(voxels[box[0], box[1], k] == number)
    ]
    kind = "CLOSEDPLANAR_XOR" if holes == "xor" and any(len(part) > 1 for _, part in parts) else "CLOSED_PLANAR"
    return [
        EncodedContour(k, kind, len(ring), _decimal_strings(ring, k, grid, decimals))
        for k, part in parts
        for ring in _contours_of(part, holes)
    ]


def _contours_of(part: list[Ring], holes: Holes) -> Iterator[Ring]:
    if holes == "xor":
        yield from part
    else:
        yield keyhole(part)


def _decimal_strings(ring: Ring, k: int, grid: SeriesGrid, decimals: int) -> str:
    affine = grid.affine_lps
    points = ring @ affine[:3, :2].T + (affine[:3, 2] * k + affine[:3, 3])
    # Adding 0 turns -0.0 into 0.0; repr is the shortest text that gives the number.
    return "\\".join(map(repr, (np.round(points, decimals) + 0.0).ravel().tolist()))


def _decimals(grid: SeriesGrid) -> int:
    """Decimals of millimetres that keep ``PRECISION``."""
    decimals = max(0, -floor(log10(min(grid.spacing_mm[:2]) * PRECISION)))
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners[:, :3] *= grid.shape
    largest = float(np.abs(corners @ grid.affine_lps.T).max())
    if largest >= 10.0 ** (DS_LENGTH - 2 - decimals):  # a sign and a point stand there too
        raise GeometryError(
            f"The series reaches {largest:.3g} mm from the origin at {min(grid.spacing_mm[:2]):.3g} mm a pixel: "
            f"DICOM's {DS_LENGTH} characters cannot hold such coordinates. Its geometry is probably damaged."
        )
    return decimals
