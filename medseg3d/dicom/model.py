"""Where a DICOM volume lies and which slices it was made from: small frozen types that the whole package shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medseg3d.dicom.findings import Finding
from medseg3d.geometry import Affine, lps_to_ras, spacing_mm

__all__ = ["DicomVolume", "FileRef", "SeriesGrid", "SliceRef"]


@dataclass(frozen=True, order=True)
class FileRef:
    """A file on disk, or a member of a zip archive on disk."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)


@dataclass(frozen=True)
class SliceRef:
    """The frame that one slice of a volume was read from.

    Attributes:
        file: where it lies.
        sop_class_uid, sop_instance_uid: of the instance.
        frame: number of the frame in a multi-frame instance, from 1 as in DICOM; None for a single-frame one.
    """

    file: FileRef
    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None = None


@dataclass(frozen=True)
class SeriesGrid:
    """The voxel grid of a volume, and its source slices in the order of the grid's third axis.

    Voxels are indexed (i, j, k) = (column, row, slice): i runs along DICOM's row direction, j along its column
    direction, k along the normal, the cross product of the two, so that the axes are right-handed in LPS.

    Attributes:
        shape: (columns, rows, slices).
        affine_ras: 4×4, voxel index → RAS+ mm.
        study_uid, series_uid, frame_of_reference_uid: as in the files.
        slices: one per k; empty for a grid that was resampled.
    """

    shape: tuple[int, int, int]
    affine_ras: Affine
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    slices: tuple[SliceRef, ...] = ()

    @property
    def affine_lps(self) -> Affine:
        return lps_to_ras(self.affine_ras)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return spacing_mm(self.affine_ras)


@dataclass(frozen=True)
class DicomVolume:
    """Voxels of a series on its grid, in the unit that the rescale gives (HU for CT), and what was found.

    Attributes:
        voxels: array (i, j, k): the smallest integer type that holds the values, or float32.
        grid: where they lie, and the source slices.
        modality: CT, MR, PT, …
        findings: notes and warnings; a refusal would have raised.
    """

    voxels: NDArray[Any]
    grid: SeriesGrid
    modality: str
    findings: tuple[Finding, ...] = ()
