"""The grid that the frames of a DICOM SEG span by themselves, where the series is not at hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.seg_frames import INDEX_TOLERANCE, Frame
from medseg3d.errors import DicomError
from medseg3d.geometry import Affine, lps_to_ras

__all__ = ["own_grid"]

# Largest difference between direction cosines of frames that are parallel: a thirtieth of a degree.
PARALLEL_TOLERANCE = 5e-4

# Of a grid made from frames alone: a body of two metres at 0.4 mm. One damaged position would ask for millions.
MAX_SLICES = 5000


def own_grid(
    frames: Sequence[Frame], *, columns: int, rows: int, study_uid: str, series_uid: str, frame_of_reference_uid: str
) -> SeriesGrid:
    """The grid that the frames themselves span.

    Its slices lie from the lowest frame to the highest, as far apart as the file says, or as the two nearest frames
    where positions contradict that; slices between them that have no frame (empty ones are left out of a SEG) count.

    Raises:
        DicomError: frames without a position; not parallel, shifted within their plane, unevenly spaced, or so far
            apart that no series has so many slices.
    """
    planes = [frame.plane_lps for frame in frames]
    known = [plane for plane in planes if plane is not None]
    if not known or len(known) < len(planes):
        raise DicomError(
            f"{len(planes) - len(known)} of {len(planes)} frames of the SEG have no position: give the series it was "
            "made from, on whose slices the frames can be put by reference."
        )
    first, step = known[0], float(np.linalg.norm(known[0][:3, 2]))
    unit = first[:3, 2] / step
    heights = np.array([unit @ (plane[:3, 3] - first[:3, 3]) for plane in known])
    _require_stack(known, heights, unit)
    spacing = _slice_spacing(heights, step)
    affine = first.copy()
    affine[:3, 2] = unit * spacing
    affine[:3, 3] += unit * heights.min()
    slices = round(float(np.ptp(heights)) / spacing) + 1
    if slices > MAX_SLICES:
        raise DicomError(
            f"The frames of the SEG span {slices} slices of {spacing:.4g} mm, and there are {len(frames)} frames: its "
            "positions are damaged, or it belongs to several series. Give the series it was made from."
        )
    return SeriesGrid((columns, rows, slices), lps_to_ras(affine), study_uid, series_uid, frame_of_reference_uid)


def _require_stack(planes: Sequence[Affine], heights: NDArray[np.float64], unit: NDArray[np.float64]) -> None:
    first = planes[0]
    pixel = np.linalg.norm(first[:3, :2], axis=0)
    for number, (plane, height) in enumerate(zip(planes, heights, strict=True), start=1):
        if np.abs((plane[:3, :2] - first[:3, :2]) / pixel).max() > PARALLEL_TOLERANCE:
            raise DicomError(f"Frame {number} of the SEG is not parallel to the first, or has other pixels.")
        aside = plane[:3, 3] - first[:3, 3] - height * unit
        if np.linalg.norm(aside) > INDEX_TOLERANCE * pixel.min():
            raise DicomError(
                f"Frame {number} of the SEG lies {np.linalg.norm(aside):.2f} mm beside the first, within its "
                "plane: the frames are no rectangular stack. Give the series they were made from."
            )


def _slice_spacing(heights: NDArray[np.float64], step: float) -> float:
    """Distance between slices in mm: the file's own where positions are multiples of it, else the smallest gap."""
    ordered = np.sort(heights)
    gaps = np.diff(ordered)
    gaps = gaps[gaps > INDEX_TOLERANCE * step]
    if not gaps.size:
        return step
    for spacing in (step, float(gaps.min())):
        multiples = (ordered - ordered[0]) / spacing
        if np.abs(multiples - np.rint(multiples)).max() <= INDEX_TOLERANCE:
            count = float(np.rint(multiples[-1]))
            return float(ordered[-1] - ordered[0]) / count
    raise DicomError(
        f"The frames of the SEG are {gaps.min():.3f} to {gaps.max():.3f} mm apart, not multiples of one distance: give "
        "the series they were made from."
    )
