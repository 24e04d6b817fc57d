"""Which files a series becomes: one a stack, one of several stacks, or none and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pydicom

from medseg3d.dicom.attributes import text
from medseg3d.dicom.checks import SPLITTABLE
from medseg3d.dicom.files import Opener
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.fourd import common_label, equal_grids
from medseg3d.dicom.frames import Series, Stack
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.resample import Resampling, SliceLattice, Vector, plan_resampling
from medseg3d.errors import CaseError
from medseg3d.geometry import Affine, lps_to_ras

__all__ = ["FIXABLE", "Job", "Refusal", "frame_of_reference", "jobs_of", "lattice_of", "regular_parts"]

# Refusals that --fix resample removes.
FIXABLE = frozenset({"gap", "uneven_spacing", "gantry_tilt", "shifted_slice"})
# Of a stack that nobody meant as a volume: a localizer, a screenshot, a single slice.
NOT_A_VOLUME = "not_a_volume"
# Distances that differ by less than this part are of one regular grid.
EVEN = 0.01


@dataclass(frozen=True, eq=False)
class Job:
    """One file to write.

    Attributes:
        series: that it comes from.
        label: of the stack; of a 4D file what its stacks' labels have in common.
        stacks: one; several are the volumes of a 4D file in their order.
        affine_ras, shape: of the file's first three axes.
        findings: of the series and the stacks, none of them a refusal.
        resampling: how the stack is brought onto a regular grid; None where it is one.
    """

    series: Series
    label: str
    stacks: tuple[Stack, ...]
    shape: tuple[int, int, int]
    affine_ras: Affine
    findings: tuple[Finding, ...]
    resampling: Resampling | None = None


@dataclass(frozen=True, eq=False)
class Refusal:
    """A series or a stack that becomes no file, and the findings that say why.

    Attributes:
        series, label: see ``Job``.
        findings: of the series and the refused stacks.
        slices: number of source slices.
        left_out: nobody meant a volume (a localizer, a screenshot, a single slice), whatever else is found: no failure.
    """

    series: Series
    label: str
    findings: tuple[Finding, ...]
    slices: int
    left_out: bool = False


def jobs_of(series: Series, *, split: bool, resample: bool, max_gap_mm: float, four_d: bool) -> Iterator[Job | Refusal]:
    """Everything that a series becomes.

    Args:
        split: write each stack of a series of mixed orientation or matrix.
        resample: repair gaps, uneven spacing and tilt.
        max_gap_mm: largest gap that is interpolated over.
        four_d: stacks on one grid become one file.
    """
    refusals = [f for f in series.findings if f.severity == "refusal"]
    if refusals and not (split and all(f.code in SPLITTABLE for f in refusals)):
        yield _whole_series(series)
        return
    about_series = tuple(_overcome(f) for f in series.findings)
    plain: list[Stack] = []
    for stack in series.stacks:
        if not stack.refused and stack.grid is not None:
            plain.append(stack)
        else:
            yield _repaired(series, stack, about_series, resample, max_gap_mm)
    for group in equal_grids(plain) if four_d else ([stack] for stack in plain):
        yield _job(series, group, about_series)


def lattice_of(stack: Stack) -> SliceLattice | None:
    """Where the slices of a stack lie; None where a frame does not say so."""
    first = stack.frames[0]
    if first.row is None or first.column is None or first.spacing_mm is None:
        return None
    positions = [frame.position_mm for frame in stack.frames]
    if any(position is None for position in positions):
        return None
    row, column = (np.array(v, dtype=np.float64) for v in (first.row, first.column))
    return SliceLattice(
        columns=first.columns,
        rows=first.rows,
        spacing_ij_mm=(first.spacing_mm[1], first.spacing_mm[0]),
        row_lps=row / np.linalg.norm(row),
        column_lps=column / np.linalg.norm(column),
        origins_lps=np.array(positions, dtype=np.float64),
    )


def regular_parts(stack: Stack, lattice: SliceLattice) -> list[SeriesGrid]:
    """The slices of a stack as regular grids one after another: one where nothing is missing or uneven.

    Annotations are read on these, since contours and segments lie on the slices that there are.
    """
    steps = np.diff(lattice.origins_lps, axis=0)
    parts, start = [], 0
    while start < len(stack.frames):
        stop = start + 1
        while stop < len(stack.frames) and _is_even(steps[stop - 1], steps[start]):
            stop += 1
        parts.append(_part(stack, lattice, start, stop))
        start = stop
    return parts


def _whole_series(series: Series) -> Refusal:
    """The refusal of a series; that of a localizer in three planes says that it is one."""
    slices = sum(len(stack.frames) for stack in series.stacks)
    left_out = all(map(_is_no_volume, series.stacks))
    reasons = dict.fromkeys(f for stack in series.stacks for f in stack.findings if f.code == NOT_A_VOLUME)
    findings = (*series.findings, *(reasons if left_out else ()))
    return Refusal(series, "", findings, slices, left_out)


def _is_no_volume(stack: Stack) -> bool:
    return any(finding.code == NOT_A_VOLUME for finding in stack.findings)


def _repaired(
    series: Series, stack: Stack, about_series: tuple[Finding, ...], resample: bool, max_gap_mm: float
) -> Job | Refusal:
    """The job that brings a refused stack onto a regular grid; a refusal where that is not asked or not possible."""
    refusals = [f for f in stack.findings if f.severity == "refusal"]
    refusal = Refusal(series, stack.label, (*about_series, *stack.findings), len(stack.frames), _is_no_volume(stack))
    if not resample or not refusals or not all(f.code in FIXABLE for f in refusals):
        return refusal
    lattice = lattice_of(stack)
    if lattice is None:
        return refusal
    try:
        resampling = plan_resampling(lattice, max_gap_mm=max_gap_mm)
    except CaseError as error:
        return replace(refusal, findings=(*refusal.findings, Finding("not_resampled", "refusal", str(error))))
    findings = (*about_series, *map(_overcome, stack.findings))
    return Job(series, stack.label, (stack,), resampling.shape, resampling.affine_ras, findings, resampling)


def _job(series: Series, stacks: Sequence[Stack], about_series: tuple[Finding, ...]) -> Job:
    grid = stacks[0].grid
    if grid is None:
        raise ValueError("a stack without a grid is no job")
    findings = (*about_series, *(finding for stack in stacks for finding in stack.findings))
    return Job(series, common_label(stacks), tuple(stacks), grid.shape, grid.affine_ras, tuple(dict.fromkeys(findings)))


def frame_of_reference(stack: Stack) -> str:
    """FrameOfReferenceUID of a stack without a grid, from its first file."""
    if stack.grid is not None:
        return stack.grid.frame_of_reference_uid
    with Opener() as opener, opener.open(stack.frames[0].source.file) as stream:
        header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=["FrameOfReferenceUID"], force=True)
    return text(header, "FrameOfReferenceUID")


def _overcome(finding: Finding) -> Finding:
    """A refusal that was overcome on request is a warning, and its remedy is done."""
    return replace(finding, severity="warning", remedy="") if finding.severity == "refusal" else finding


def _is_even(step: Vector, first: Vector) -> bool:
    return bool(np.linalg.norm(step - first) <= EVEN * np.linalg.norm(first))


def _part(stack: Stack, lattice: SliceLattice, start: int, stop: int) -> SeriesGrid:
    origins = lattice.origins_lps
    if stop - start > 1:
        step = (origins[stop - 1] - origins[start]) / (stop - start - 1)
    else:
        step = lattice.normal_lps * np.median(np.diff(lattice.depths_mm))
    i_mm, j_mm = lattice.spacing_ij_mm
    affine = np.eye(4)
    affine[:3] = np.stack([lattice.row_lps * i_mm, lattice.column_lps * j_mm, step, origins[start]], axis=1)
    return SeriesGrid(
        shape=(lattice.columns, lattice.rows, stop - start),
        affine_ras=lps_to_ras(affine),
        study_uid=stack.series.study_uid,
        series_uid=stack.series.uid,
        frame_of_reference_uid=frame_of_reference(stack),
        slices=tuple(frame.source for frame in stack.frames[start:stop]),
    )
