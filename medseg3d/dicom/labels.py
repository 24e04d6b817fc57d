"""Label maps of a converted volume, from the RTSTRUCT and SEG files that refer to its series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.annotation import Annotation, to_label_map
from medseg3d.dicom.conversion import LabelRules
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Annotated
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.naming import Naming
from medseg3d.dicom.rtstruct_read import read_rtstruct
from medseg3d.dicom.seg_read import read_seg
from medseg3d.errors import DicomError

__all__ = ["read_label_map"]

# Of a part of a series these say nothing: the other parts have what this one lacks.
OF_THE_WHOLE = frozenset(
    {"outside_series", "missing_source_slices", "contour_gap", "empty_mask", "contour_outside_image"}
)


def read_label_map(
    files: Sequence[Annotated], grids: Sequence[SeriesGrid], rules: LabelRules, ids: dict[str, int]
) -> tuple[NDArray[Any], tuple[Finding, ...]]:
    """One label map of all annotations of a volume.

    Args:
        files: annotations of one series; their segments are put together, and a name may be in one of them only.
        grids: of the volume; several where its slices are no regular grid, each of a part of them, in order along k.
        rules: how segments become labels.
        ids: name → id of what was met before in this run; used, and added to, where the rules have no naming, so that
            a name has one id in all cases.

    Returns:
        Label ids (i, j, k) over all slices of the grids, and the findings of reading them.

    Raises:
        DicomError: an annotation that cannot be read rightly, overlapping segments, one name in two annotations.
    """
    annotations = [_together([_read(file, grid, rules) for file in files], files) for grid in grids]
    if not any(annotation.segments for annotation in annotations):
        raise DicomError("The annotation has no segment: there is nothing to make a label map of.")
    maps, findings = [], []
    for annotation in annotations:
        voxels, found = to_label_map(annotation, rules.naming or _naming(annotation, ids), overlap=rules.overlap)
        maps.append(voxels)
        findings += [*annotation.findings, *found]
    if len(grids) > 1:
        findings = [finding for finding in findings if finding.code not in OF_THE_WHOLE]
    return np.concatenate(maps, axis=2), tuple(dict.fromkeys(findings))


def _naming(annotation: Annotation, ids: dict[str, int]) -> Naming:
    """The naming of all names met so far; those of ``annotation`` are added in order of their numbers."""
    known = {name.casefold() for name in ids}
    for segment in sorted(annotation.segments, key=lambda s: s.number):
        name = segment.name.strip()
        if name.casefold() not in known:
            known.add(name.casefold())
            ids[name] = max(ids.values(), default=0) + 1
    return Naming(ids)


def _read(file: Annotated, grid: SeriesGrid, rules: LabelRules) -> Annotation:
    if file.modality == "SEG":
        annotation = read_seg(file.file, grid)
        if rules.naming is None:
            return annotation
        wanted = tuple(s for s in annotation.segments if not rules.naming.ignores(s.name))
        return Annotation(wanted, grid, annotation.findings)

    def select(name: str) -> bool:
        return rules.naming is None or not rules.naming.ignores(name)

    return read_rtstruct(file.file, grid, select=select, accept=rules.accept)


def _together(annotations: Sequence[Annotation], files: Sequence[Annotated]) -> Annotation:
    """The segments of several annotations as one."""
    first_with: dict[str, int] = {}
    for number, annotation in enumerate(annotations):
        for segment in annotation.segments:
            other = first_with.setdefault(segment.name.strip().casefold(), number)
            if other != number:
                raise DicomError(
                    f"{segment.name!r} is in two annotations of the series ({files[other].file.path.name} and "
                    f"{files[number].file.path.name}): which one counts? Leave one out with --annotation."
                )
    segments = tuple(segment for annotation in annotations for segment in annotation.segments)
    findings = tuple(finding for annotation in annotations for finding in annotation.findings)
    return Annotation(segments, annotations[0].grid, findings)
