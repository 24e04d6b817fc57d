"""Series of one study that show one body at one place, as PET and CT do: the channels of one image.

Series are matched by study and frame of reference, never by their names or numbers. The first modality gives the grid;
the others are resampled onto it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Series, Stack
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.volume import read_stack
from medseg3d.errors import DicomError
from medseg3d.resampling import resampled_onto, share_outside

__all__ = ["Coregistered", "companions_of", "modality_code", "onto_grid", "read_coregistered", "value_outside"]

# SUV by body weight: as the attribute Units has it (PS3.3 C.8.9.1.1.3), and as real-world maps have it (PS3.16 CID 85).
SUV_UNITS = ("GML", "g/ml{SUVbw}", "{SUVbw}g/ml")
# What people call them, and DICOM's codes.
ALIASES = {"PET": "PT", "MRI": "MR"}
# From this share of voxels on that a companion does not cover, a reader should know.
NOTABLE_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Coregistered:
    """Stacks that make one image: a channel each, on the grid of the first.

    Attributes:
        stacks: all sound; the first gives the grid, and masks in DICOM refer to its images.
        findings: about how they fit together, and those of the first stack.
    """

    stacks: tuple[Stack, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def reference(self) -> Stack:
        return self.stacks[0]


def modality_code(name: str) -> str:
    """DICOM's code of a modality.

    >>> modality_code("PET"), modality_code("ct")
    ('PT', 'CT')
    """
    return ALIASES.get(name.upper(), name.upper())


def companions_of(
    stack: Stack, all_series: Iterable[Series], modalities: Sequence[str]
) -> tuple[tuple[Stack, ...], tuple[Finding, ...]]:
    """The stacks of other modalities in the study and frame of reference of ``stack``, one a modality.

    Findings say how much of the grid each leaves uncovered. They hold a refusal, and no stacks come, where a modality
    is not there, is there several times, is refused itself, covers nothing, or is PET in another unit than SUV.
    """
    chosen: list[Stack] = []
    findings: list[Finding] = []
    candidates = list(all_series)
    for modality in modalities:
        stacks = [s for series in candidates if series.modality == modality for s in _in_place(stack, series)]
        if len(stacks) != 1:
            findings.append(_not_one(modality, stacks))
            continue
        findings += _fit(stack, stacks[0])
        chosen.append(stacks[0])
    refused = any(finding.severity == "refusal" for finding in findings)
    return (() if refused else tuple(chosen)), tuple(findings)


def read_coregistered(image: Coregistered) -> tuple[NDArray[np.float32], SeriesGrid]:
    """Voxels (channel, i, j, k) on the grid of the first stack, in the units of the files.

    Raises:
        DicomError: a frame cannot be decoded, or the first stack has no grid.
    """
    first = read_stack(image.reference)
    channels = [first.voxels.astype(np.float32)]
    channels += [onto_grid(stack, first.grid) for stack in image.stacks[1:]]
    return np.stack(channels), first.grid


def onto_grid(stack: Stack, grid: SeriesGrid) -> NDArray[np.float32]:
    """The voxels of a stack, interpolated linearly onto another grid of its frame of reference."""
    volume = read_stack(stack)
    return resampled_onto(
        volume.voxels,
        volume.grid.affine_ras,
        shape=grid.shape,
        onto=grid.affine_ras,
        outside=value_outside(stack.series.modality),
    )


def value_outside(modality: str) -> float:
    """What stands where a series has no voxel: air in CT, no uptake in PET, no signal in MRI."""
    return -1024.0 if modality == "CT" else 0.0


def _in_place(stack: Stack, series: Series) -> list[Stack]:
    """The volumes of a series that lie in the frame of reference of ``stack``."""
    grid = stack.grid
    if grid is None:
        raise DicomError(f"Series {stack.series.uid} has no regular grid that others could be resampled onto.")
    if series.study_uid != grid.study_uid or series.refused:
        return []
    return [
        other
        for other in series.stacks
        if other.grid is not None and not other.refused and _same_frame(grid, other.grid)
    ]


def _same_frame(a: SeriesGrid, b: SeriesGrid) -> bool:
    return bool(a.frame_of_reference_uid) and a.frame_of_reference_uid == b.frame_of_reference_uid


def _not_one(modality: str, stacks: Sequence[Stack]) -> Finding:
    if not stacks:
        what = f"No sound {modality} series of the study lies in the frame of reference of this one."
        return Finding("no_companion", "refusal", what, f"Add the {modality} series, or register and convert it first.")
    listed = ", ".join(f"number {s.series.number} {s.series.description!r} {s.label}".strip() for s in stacks)
    what = f"{len(stacks)} {modality} volumes of the study lie in the frame of reference of this one: {listed}."
    return Finding("several_companions", "refusal", what, "Keep the one that is meant in the folder.")


def _fit(stack: Stack, other: Stack) -> list[Finding]:
    modality, unit = other.series.modality, other.series.unit
    if modality == "PT" and unit not in SUV_UNITS:
        what = f"The PET is in {unit or 'no unit'}, not in SUV by body weight (GML): its numbers mean something else."
        return [Finding("not_suv", "refusal", what, "Export it in SUV by body weight, or convert it.")]
    if stack.grid is None or other.grid is None:
        raise DicomError("Stacks without a grid are never companions.")
    share = share_outside(other.grid.shape, other.grid.affine_ras, shape=stack.grid.shape, onto=stack.grid.affine_ras)
    if share == 1:
        return [Finding("no_overlap", "refusal", f"The {modality} series covers no voxel of this one.",
                        "Are the two of one scan?")]  # fmt: skip
    if share == 0:
        return []
    what = f"{100 * share:.1f} % of the voxels lie outside of the {modality} series and have "
    what += f"{value_outside(modality):g} there."
    return [Finding("partly_covered", "warning" if share >= NOTABLE_SHARE else "note", what)]
