"""Findings about where the slices of a stack lie: repeats, gaps, uneven spacing, sideways shifts, tilt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Frame
from medseg3d.dicom.ordering import Line, Vectors, duplicate_tolerance_mm, normal, position_ids

__all__ = [
    "EVENNESS_FRACTION",
    "EVENNESS_MM",
    "FEW_SLICES",
    "PITCH_TOLERANCE",
    "TILT_TOLERANCE_DEG",
    "check_line",
    "check_repeats",
    "evenness_tolerance_mm",
]

# Fewer slices than this make a volume, but hardly one that was meant as such.
FEW_SLICES = 4
# 0.1° shears a stack of 300 mm by 0.5 mm; rounded positions stay far below it.
TILT_TOLERANCE_DEG = 0.1
# A slice may be this far off the regular grid, but by no more than this part of the spacing: writers round positions
# to 0.1 mm (of 0.6 mm), and a missing slice is off by half a spacing at least.
EVENNESS_MM = 0.1
EVENNESS_FRACTION = 0.1
# SpacingBetweenSlices is believed to contradict the positions from 2 % on: it is often rounded.
PITCH_TOLERANCE = 0.02

_EXPORT = "Export the series again from the archive."


def evenness_tolerance_mm(spacing_mm: float) -> float:
    """How far a slice may be off its place on the regular grid.

    >>> evenness_tolerance_mm(5.0), evenness_tolerance_mm(0.5)
    (0.1, 0.05)
    """
    return min(EVENNESS_MM, EVENNESS_FRACTION * spacing_mm)


def check_repeats(frames: Sequence[Frame], distances: Vectors) -> Iterator[Finding]:
    """Repeated positions, given the distances of the frames along the normal, in ascending order."""
    ids = position_ids(distances, duplicate_tolerance_mm(frames[0]))
    counts = Counter(ids.tolist())
    repeated = {position: n for position, n in counts.items() if n > 1}
    if repeated:
        worst = max(repeated, key=lambda p: repeated[p])
        at_mm = distances[int(np.argmax(ids == worst))]
        yield Finding(
            "duplicate_position",
            "refusal",
            f"{len(repeated)} of {len(counts)} positions hold more than one slice (up to {repeated[worst]}, "
            f"at {at_mm:.2f} mm along the normal), and no attribute that is known here (echo, time, b-value, "
            "acquisition, …) tells them apart.",
            "Keep one slice a position, or separate the repeats into series of their own.",
        )


def check_line(frames: Sequence[Frame], distances: Vectors, line: Line) -> Iterator[Finding]:
    """Gaps, uneven spacing, sideways shifts, tilt and few slices of an ordered stack without repeats."""
    steps = np.diff(distances)
    yield from _few(len(frames))
    yield from _spacing(steps, line, normal(frames[0]))
    yield from _tilt(line, normal(frames[0]))
    yield from _pitch(frames, float(np.median(steps)))


def _few(slices: int) -> Iterator[Finding]:
    if slices < FEW_SLICES:
        yield Finding(
            "few_slices",
            "warning",
            f"{slices} slices make a very thin volume.",
            "Check that the series was exported completely.",
        )


def _spacing(steps: Vectors, line: Line, axis: Vectors) -> Iterator[Finding]:
    along = line.residuals_mm @ axis
    sideways = np.linalg.norm(line.residuals_mm - along[:, None] * axis, axis=1)
    usual = float(np.median(steps))
    tolerance = evenness_tolerance_mm(usual)
    if np.abs(along).max() > tolerance:
        yield _gap(steps, usual) or _uneven(steps, usual, float(np.abs(along).max()))
    elif sideways.max() > tolerance:
        worst = int(np.argmax(sideways))
        yield Finding(
            "shifted_slice",
            "refusal",
            f"Slice {worst + 1} of {len(sideways)} lies {sideways[worst]:.2f} mm beside the line through the others "
            f"(tolerance {tolerance:.2f} mm).",
            f"{_EXPORT} If the slices really shift, resample each.",
        )


def _gap(steps: Vectors, usual: float) -> Finding | None:
    """A gap, if the wide steps are whole multiples of the usual one and the exception."""
    wide = np.flatnonzero(np.abs(steps - usual) > evenness_tolerance_mm(usual))
    multiples = np.rint(steps[wide] / usual)
    fits = np.abs(steps[wide] - multiples * usual) <= evenness_tolerance_mm(usual) * np.maximum(multiples, 1)
    if not len(wide) or not fits.all() or (multiples < 2).any():
        return None
    missing = int((multiples - 1).sum())
    where = ", ".join(f"{n + 1} and {n + 2} ({steps[n]:.2f} mm)" for n in wide[:3])
    more = f" and {len(wide) - 3} more places" if len(wide) > 3 else ""
    return Finding(
        "gap",
        "refusal",
        f"{missing} {'slice is' if missing == 1 else 'slices are'} missing between slices {where}{more}; "
        f"the others are {usual:.2f} mm apart.",
        f"{_EXPORT} Or convert with --fix resample, which fills the gap by interpolation and says so.",
    )


def _uneven(steps: Vectors, usual: float, worst_mm: float) -> Finding:
    narrow, wide = int(np.argmin(steps)), int(np.argmax(steps))
    return Finding(
        "uneven_spacing",
        "refusal",
        f"Slices are {steps[narrow]:.3f} mm (between {narrow + 1} and {narrow + 2}) to {steps[wide]:.3f} mm (between "
        f"{wide + 1} and {wide + 2}) apart, mostly {usual:.3f} mm: up to {worst_mm:.2f} mm off a regular grid.",
        "Convert with --fix resample, which interpolates onto a regular grid and says so.",
    )


def _tilt(line: Line, axis: Vectors) -> Iterator[Finding]:
    cosine = abs(float(line.step_mm @ axis)) / float(np.linalg.norm(line.step_mm))
    degrees = float(np.degrees(np.arccos(min(cosine, 1.0))))
    if degrees > TILT_TOLERANCE_DEG:
        yield Finding(
            "gantry_tilt",
            "refusal",
            f"Slices follow each other {degrees:.2f}° off their normal: the gantry was tilted, the voxels are sheared.",
            "Convert with --fix resample, which interpolates onto a rectangular grid and says so.",
        )


def _pitch(frames: Sequence[Frame], usual: float) -> Iterator[Finding]:
    pitch = frames[0].pitch_mm
    if pitch and abs(pitch - usual) > max(PITCH_TOLERANCE * usual, EVENNESS_FRACTION * EVENNESS_MM):
        yield Finding(
            "contradictory_tags",
            "warning",
            f"SpacingBetweenSlices is {pitch:g} mm, but the positions of the slices are {usual:.3f} mm apart: "
            "the positions are used.",
            "Check that no slices were left out at a regular interval." if usual > pitch else "",
        )
