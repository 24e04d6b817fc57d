"""What a conversion is asked for, and what comes of each volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import SeriesInfo
from medseg3d.dicom.resample import MAX_GAP_MM
from medseg3d.errors import UsageError

if TYPE_CHECKING:
    from medseg3d.dicom.annotation import Overlap
    from medseg3d.dicom.naming import Naming
    from medseg3d.dicom.rtstruct_read import Gaps

__all__ = ["ConvertOptions", "Converted", "LabelRules", "Progress", "Status"]

Status = Literal["written", "left out", "refused"]
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class LabelRules:
    """What the segments of annotations become.

    Attributes:
        naming: names and ids of labels; None gives every name an id of its own.
        overlap: see ``to_label_map``.
        accept: refusals of contours that shall be warnings, see ``read_rtstruct``.
        gaps: what becomes of slices without contour between contoured ones, see ``read_rtstruct``.

    Raises:
        UsageError: ``accept`` holds a code that cannot be accepted.
    """

    naming: Naming | None = None
    overlap: Overlap = "refuse"
    accept: tuple[str, ...] = ()
    gaps: Gaps = "leave"

    def __post_init__(self) -> None:
        if not self.accept:
            return
        from medseg3d.dicom.rtstruct_read import ACCEPTABLE

        if unknown := sorted(set(self.accept) - set(ACCEPTABLE)):
            raise UsageError(f"{', '.join(unknown)} cannot be accepted; what can is {', '.join(ACCEPTABLE)}.")


@dataclass(frozen=True)
class ConvertOptions:
    """What a conversion does beyond the plain case.

    Attributes:
        suffix: ``.nii.gz`` or ``.nii``.
        resample: bring gaps, uneven spacing and tilt onto a regular grid instead of refusing them.
        max_gap_mm: the largest gap that is interpolated over.
        split: write each part of a series of mixed orientation, matrix or spacing.
        four_d: one file of the stacks of a series that lie on one grid.
        keep_uids: write UIDs, file names and names of structures into sidecars; without, UIDs are hashed, file names
            are left out, and findings about labels are their codes and how often each occurs.
        labels: how segments of annotations become labels.
        series_uid: convert this series only: its UID, or the hash that sidecars have; "" for all.
        annotation: file name or SOPInstanceUID of the only annotation to take; "" for all.
        force: replace files that exist.
        channels: modalities that make one image together, such as ``("CT", "PT")``: the volumes of the first are the
            cases, and of each other one the volume in the same study and frame of reference is resampled onto them.
            () makes each series an image of its own.

    Raises:
        UsageError: channels that are fewer than two, or repeated, or asked for together with an option that makes
            other volumes of a series.
    """

    suffix: Literal[".nii.gz", ".nii"] = ".nii.gz"
    resample: bool = False
    max_gap_mm: float = MAX_GAP_MM
    split: bool = False
    four_d: bool = False
    keep_uids: bool = False
    labels: LabelRules = field(default_factory=LabelRules)
    series_uid: str = ""
    annotation: str = ""
    force: bool = False
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.channels:
            return
        if len(self.channels) < 2 or len(set(self.channels)) < len(self.channels) or not all(self.channels):
            raise UsageError(f"Channels are {', '.join(self.channels)}: name two modalities or more, each once: CT,PT.")
        if self.resample or self.split or self.four_d:
            raise UsageError("Channels cannot be combined with repairing, splitting or 4D files: convert those first.")


@dataclass(frozen=True)
class Converted:
    """What became of one volume.

    Attributes:
        name: of its files, without suffix.
        series: where it comes from.
        status: ``written``; ``left out`` where nobody meant a volume (a localizer, a screenshot, one slice);
            or ``refused``.
        slices: number of source slices.
        shape: of the written image; () where there is none.
        spacing_mm: of the written image.
        image, label: the files; None where there is none.
        findings: why it was refused, and what is to know about it; a refusal beside a written image concerns its label.
    """

    name: str
    series: SeriesInfo
    status: Status
    slices: int
    findings: tuple[Finding, ...]
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    image: Path | None = None
    label: Path | None = None

    @property
    def failed(self) -> bool:
        """Whether something that was wanted is not there: the image, or its label."""
        return self.status != "left out" and any(f.severity == "refusal" for f in self.findings)
