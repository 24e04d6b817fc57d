"""Stacks of one series that lie on one grid, as one file with a fourth axis: time, diffusion weight, echo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from medseg3d.dicom.attributes import first, number
from medseg3d.dicom.files import Opener
from medseg3d.dicom.frames import Stack
from medseg3d.geometry import grid_distance_mm
from medseg3d.volume import GRID_TOLERANCE_MM

__all__ = ["common_dtype", "common_label", "diffusion_of", "equal_grids", "even_step", "seconds_between"]

# Times of volumes that are apart by less than this part of the usual step are evenly apart.
EVEN = 0.05
# The coarsest times that scanners write.
CLOCK_S = 1.0


def equal_grids(stacks: Sequence[Stack]) -> Iterator[list[Stack]]:
    """Groups of stacks whose voxels are at the same places and mean the same; stacks without a grid stay alone.

    Magnitude and phase, or an image and a map computed from it, do not share a file. The order within a group is that
    of the series: acquisition, or the value that tells its stacks apart.
    """
    groups: list[list[Stack]] = []
    for stack in stacks:
        group = next((g for g in groups if _is_like(g[0], stack)), None)
        if group is None:
            groups.append([stack])
        else:
            group.append(stack)
    yield from groups


def common_dtype(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """The type that holds the values of all: integers where all are, else float32.

    >>> common_dtype([np.dtype("int16"), np.dtype("uint16")])
    dtype('int32')
    """
    joined = np.result_type(*dtypes)
    return joined if joined.kind in "iu" else np.dtype(np.float32)


def diffusion_of(stacks: Sequence[Stack]) -> tuple[list[float], NDArray[np.float64]] | None:
    """b-values (s/mm²) and directions in LPS, shape (n, 3), of diffusion volumes; None where one is not known.

    A volume without direction, as one without weighting or a trace image has none, gets zeros; not one whose direction
    is given in the scanner's own axes.
    """
    if any(frame.gradient is None and "gradient" in frame.traits for stack in stacks for frame in stack.frames):
        return None
    b_values = [_single({frame.b_value for frame in stack.frames}) for stack in stacks]
    known = [b for b in b_values if b is not None]
    if len(known) < len(stacks) or not any(known):
        return None
    directions = [_single({frame.gradient for frame in stack.frames}) or (0.0, 0.0, 0.0) for stack in stacks]
    return known, np.array(directions, dtype=np.float64)


def seconds_between(stacks: Sequence[Stack]) -> float | None:
    """The step in time from one volume to the next; None where it is not even, or the volumes are no time series.

    When frames were acquired says it. The repetition time of an MR does where the clock tells too little: one time for
    all volumes, or whole seconds. Times that contradict it, or do not ascend, are believed.
    """
    moments = _moments_s(stacks)
    measured = even_step(moments)
    if measured is not None:
        return measured
    times = [time for stack in stacks if (time := stack.frames[0].traits.get("time")) is not None]
    if len(times) < max(len(stacks), 2) or any(b <= a for a, b in pairwise(times)):
        return None
    repetition = _repetition_time_s(stacks[0])
    return repetition if repetition is not None and _agree(moments, repetition) else None


def _agree(moments_s: Sequence[float | None], step_s: float) -> bool:
    """Whether volumes may have begun at these times, ``step_s`` apart: unknown, all equal, or so to the second."""
    known = [(n, moment) for n, moment in enumerate(moments_s) if moment is not None]
    if len({moment for _, moment in known}) < 2:
        return True
    (n, start), *_ = known
    return all(abs(moment - start - (m - n) * step_s) < CLOCK_S for m, moment in known)


def even_step(times_s: Sequence[float | None]) -> float | None:
    """The step of increasing, evenly spaced times; None where they are not.

    >>> even_step([10.0, 12.5, 15.0])
    2.5
    >>> even_step([10.0, 12.5, 25.0]) is None
    True
    """
    known = [time for time in times_s if time is not None]
    if len(known) < len(times_s) or len(known) < 2:
        return None
    steps = [b - a for a, b in pairwise(known)]
    usual = float(np.median(steps))
    even = usual > 0 and all(abs(step - usual) <= EVEN * usual for step in steps)
    return (known[-1] - known[0]) / len(steps) if even else None


def _moments_s(stacks: Sequence[Stack]) -> list[float | None]:
    """When each volume began, in seconds from some instant; None where its frames do not say."""
    times: list[float | None] = []
    for stack in stacks:
        moments = [moment for frame in stack.frames if (moment := frame.traits.get("moment")) is not None]
        times.append(min(moments) if len(moments) == len(stack.frames) else None)
    return times


def _repetition_time_s(stack: Stack) -> float | None:
    with Opener() as opener, opener.open(stack.frames[0].source.file) as stream:
        header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    own, shared = (first(header, f"{kind}FunctionalGroupsSequence") for kind in ("PerFrame", "Shared"))
    timing = [first(groups, "MRTimingAndRelatedParametersSequence") for groups in (own, shared)]
    found = [number(dataset, "RepetitionTime") for dataset in (*timing, header)]
    return next((milliseconds / 1000 for milliseconds in found if milliseconds), None)


def common_label(stacks: Sequence[Stack]) -> str:
    """What the labels of stacks have in common: ``part1`` of ``part1_t001`` and ``part1_t002``."""
    first, *others = (stack.label.split("_") for stack in stacks)
    return "_".join(part for part in first if all(part in other for other in others))


def _is_like(a: Stack, b: Stack) -> bool:
    kinds = [(stack.frames[0].traits.get("component"), stack.frames[0].traits.get("image_type")) for stack in (a, b)]
    return kinds[0] == kinds[1] and _same_grid(a, b)


def _same_grid(a: Stack, b: Stack) -> bool:
    if a.grid is None or b.grid is None or a.grid.shape != b.grid.shape:
        return False
    return grid_distance_mm(a.grid.affine_ras, b.grid.affine_ras, a.grid.shape) <= GRID_TOLERANCE_MM


def _single(values: set[Any]) -> Any:
    return next(iter(values)) if len(values) == 1 else None
