"""Annotations on the grid of a series: named masks that may overlap, and the label map made from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.naming import Naming
from medseg3d.errors import DicomError

__all__ = [
    "Annotation",
    "Overlap",
    "RefusedAnnotation",
    "Segment",
    "refuse_all_unmapped",
    "to_label_map",
    "unmapped_name",
]

Overlap = Literal["refuse", "last"]
Box = tuple[slice, slice, slice]


class RefusedAnnotation(DicomError):
    """An annotation that is refused; ``findings`` says why without the names of files that the message has."""

    def __init__(self, message: str, findings: Sequence[Finding]) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


@dataclass(frozen=True)
class Segment:
    """One structure of an annotation. Make it with ``Segment.of(name=…, number=…, mask=…)``.

    Only the box around its voxels is kept: a hundred organs of a CT fit in memory, a hundred full masks do not.

    Attributes:
        name: ROI name or segment label, as in the file.
        number: ROI number or segment number, as in the file.
        shape: (i, j, k) of the grid.
        start: index of the box's first voxel in the grid.
        voxels: bool array of the box; of no size where the segment has no voxel.
        meaning: what its code means (``"Liver"``); empty where the file has no code.
        color_rgb: recommended display colour, 0 to 255; None where the file has none.
    """

    name: str
    number: int
    shape: tuple[int, int, int]
    start: tuple[int, int, int]
    voxels: NDArray[np.bool_]
    meaning: str = ""
    color_rgb: tuple[int, int, int] | None = None

    @classmethod
    def of(
        cls,
        *,
        name: str,
        number: int,
        mask: NDArray[Any],
        start: tuple[int, int, int] = (0, 0, 0),
        shape: tuple[int, int, int] | None = None,
        meaning: str = "",
        color_rgb: tuple[int, int, int] | None = None,
    ) -> Segment:
        """The segment of a bool mask (i, j, k): of the whole grid, or of the part of it that begins at ``start``.

        >>> mask = np.zeros((4, 4, 3), bool); mask[1:3, 2, 1] = True
        >>> segment = Segment.of(name="GTV", number=1, mask=mask)
        >>> segment.start, segment.voxels.shape, segment.count
        ((1, 2, 1), (2, 1, 1), 2)
        """
        mask = np.asarray(mask, dtype=bool)
        grid_shape = shape if shape is not None else (mask.shape[0], mask.shape[1], mask.shape[2])
        box = _box_of(mask)
        first = tuple(int(s + b.start) for s, b in zip(start, box, strict=True))
        return cls(name, number, grid_shape, first, mask[box].copy(), meaning, color_rgb)  # type: ignore[arg-type]

    @property
    def box(self) -> Box:
        """Where ``voxels`` lie in the grid."""
        i, j, k = (slice(s, s + n) for s, n in zip(self.start, self.voxels.shape, strict=True))
        return i, j, k

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The segment's voxels as a bool array (i, j, k) on the whole grid, made anew at each call."""
        mask = np.zeros(self.shape, dtype=bool)
        mask[self.box] = self.voxels
        return mask

    @property
    def count(self) -> int:
        """Number of voxels."""
        return int(np.count_nonzero(self.voxels))


@dataclass(frozen=True)
class Annotation:
    """What a file marks on a series: its segments in the file's order, and what was found while reading.

    Attributes:
        segments: on ``grid``; they may overlap, and may be empty.
        grid: of the source series, or the annotation's own.
        findings: notes and warnings; what cannot be read rightly raises instead.
    """

    segments: tuple[Segment, ...]
    grid: SeriesGrid
    findings: tuple[Finding, ...] = ()


def to_label_map(
    annotation: Annotation, labels: Mapping[str, int] | Naming, *, overlap: Overlap = "refuse"
) -> tuple[NDArray[Any], tuple[Finding, ...]]:
    """One label id per voxel (uint8, or int16 where ids exceed 255), and what was found on the way.

    Names are matched as in ``Naming``; segments that mean the same label are united. A name that nothing maps is left
    out with the finding ``unmapped_name``. An annotation without segments gives an empty map.

    Args:
        annotation: its own findings are not repeated in those returned.
        labels: name → id, or a naming with patterns.
        overlap: what to do where segments of different labels share voxels. ``"refuse"``; or ``"last"``: the label that
            comes later in ``labels`` gets the voxels, with the finding ``overlapping_segments``.

    Raises:
        DicomError: segments of different labels overlap and ``overlap`` is ``"refuse"``; or there are segments and none
            is mapped or ignored: an empty map would look like "nothing there".
        UsageError: labels that ``Naming`` refuses.
    """
    naming = Naming.of(labels)
    findings = list(_name_findings(annotation, naming))
    refuse_all_unmapped([segment.name for segment in annotation.segments], naming)
    largest = max(naming.labels.values())
    voxels = np.zeros(annotation.grid.shape, dtype=np.uint8 if largest < 256 else np.int16)
    shared: dict[tuple[str, str], int] = {}
    label_of_id = {number: name for name, number in naming.labels.items()}
    for label, number in naming.labels.items():
        for segment in annotation.segments:
            if naming.label_of(segment.name) == label:
                _paint(voxels[segment.box], segment.voxels, number, label_of_id, shared)
    if shared:
        findings.append(_overlap_finding(shared, overlap))
    if shared and overlap == "refuse":
        raise RefusedAnnotation(str(findings[-1]), findings[-1:])
    return voxels, tuple(findings)


def _paint(
    part: NDArray[Any],
    mask: NDArray[np.bool_],
    number: int,
    label_of_id: Mapping[int, str],
    shared: dict[tuple[str, str], int],
) -> None:
    """Set ``part`` to ``number`` under ``mask``, and count the voxels taken from other labels in ``shared``."""
    before, counts = np.unique(part[mask], return_counts=True)
    for other, count in zip(before.tolist(), counts.tolist(), strict=True):
        if other not in (0, number):
            pair = label_of_id[other], label_of_id[number]
            shared[pair] = shared.get(pair, 0) + count
    part[mask] = number


def _name_findings(annotation: Annotation, naming: Naming) -> Iterator[Finding]:
    by_label: dict[str, list[str]] = {}
    for segment in annotation.segments:
        label = naming.label_of(segment.name)
        if label is not None:
            by_label.setdefault(label, []).append(segment.name)
        elif not naming.ignores(segment.name):
            yield unmapped_name(f"{segment.name!r} ({segment.count} voxels)")
    for label, names in by_label.items():
        if len(names) > 1:
            listed = ", ".join(repr(name) for name in names)
            yield Finding("united_segments", "note", f"{len(names)} segments became {label}: {listed}.")


def unmapped_name(name: str) -> Finding:
    """The remark on a structure whose name means no label."""
    return Finding(
        "unmapped_name",
        "warning",
        f"No label is known by the name {name}: it is left out.",
        "Map it to a label under names, or to null to leave it out without this remark.",
    )


def refuse_all_unmapped(names: Sequence[str], naming: Naming) -> None:
    """Raise ``DicomError`` where there are names, and none of them is mapped or ignored."""
    if names and not any(naming.label_of(name) or naming.ignores(name) for name in names):
        raise DicomError(
            f"None of the names in the annotation ({', '.join(map(repr, names))}) means one of the labels "
            f"{', '.join(naming.labels)}: map them under names, or to null where the label map shall be empty."
        )


def _overlap_finding(shared: Mapping[tuple[str, str], int], overlap: Overlap) -> Finding:
    pairs = ", ".join(f"{a} and {b} share {count} voxels" for (a, b), count in shared.items())
    if overlap == "last":
        return Finding("overlapping_segments", "warning", f"{pairs}: the one named second has them.")
    return Finding(
        "overlapping_segments",
        "refusal",
        f"{pairs}, and a label map has one label a voxel.",
        "Ask for overlap 'last' to give them to the label that comes later in the list, or map only one of the names.",
    )


def _box_of(mask: NDArray[np.bool_]) -> Box:
    """The smallest box around the true voxels; empty, at the origin, where there are none."""
    ranges = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        ranges.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0))
    return ranges[0], ranges[1], ranges[2]
