"""Label maps of a converted volume, from the RTSTRUCT and SEG files that refer to its series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from medseg3d.dicom.annotation import Annotation, refuse_all_unmapped, to_label_map, unmapped_name
from medseg3d.dicom.conversion import LabelRules
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Annotated
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.naming import Naming
from medseg3d.dicom.rtstruct_read import read_rois
from medseg3d.dicom.seg_parts import read_seg_in_parts
from medseg3d.dicom.seg_read import read_seg
from medseg3d.dicom.structure_set import read_structure_set
from medseg3d.errors import DicomError

__all__ = ["read_label_map"]


def read_label_map(
    files: Sequence[Annotated], parts: Sequence[SeriesGrid], rules: LabelRules, ids: dict[str, int]
) -> tuple[NDArray[Any], tuple[Finding, ...]]:
    """One label map of all annotations of a volume.

    Args:
        files: annotations of one series; their segments are put together, and a name may be in one of them only.
        parts: grids of the volume; several where its slices are no regular grid, each of a part of them, in order
            along k.
        rules: how segments become labels. Structures that the naming does not map are not read, so that a fault in
            one of them does no harm; they get a finding.
        ids: name → id of what was met before in this run; used, and added to, where the rules have no naming, so that
            a name has one id in all cases.

    Returns:
        Label ids (i, j, k) over all slices of the parts, and the findings of reading them.

    Raises:
        DicomError: an annotation that cannot be read rightly, overlapping segments, one name in two annotations, or
            none that is mapped. ``RefusedAnnotation`` where findings say why.
    """
    found = [_read(file, parts, rules) for file in files]
    annotation = _together([annotation for annotation, _ in found], files)
    unmapped = [name for _, names in found for name in names]
    if not annotation.segments:
        if rules.naming is not None:
            refuse_all_unmapped(unmapped, rules.naming)
        raise DicomError("The annotation has no segment: there is nothing to make a label map of.")
    voxels, findings = to_label_map(annotation, rules.naming or _naming(annotation, ids), overlap=rules.overlap)
    left_out = [unmapped_name(repr(name)) for name in unmapped]
    return voxels, tuple(dict.fromkeys([*annotation.findings, *findings, *left_out]))


def _naming(annotation: Annotation, ids: dict[str, int]) -> Naming:
    """The naming of all names met so far; those of ``annotation`` are added in order of their numbers."""
    known = {name.casefold() for name in ids}
    for segment in sorted(annotation.segments, key=lambda s: s.number):
        name = segment.name.strip()
        if name.casefold() not in known:
            known.add(name.casefold())
            ids[name] = max(ids.values(), default=0) + 1
    return Naming(ids)


def _read(file: Annotated, parts: Sequence[SeriesGrid], rules: LabelRules) -> tuple[Annotation, list[str]]:
    """The structures of a file that are wanted, and the names of those that the naming does not know."""

    def select(name: str) -> bool:
        return rules.naming is None or rules.naming.label_of(name) is not None

    if file.modality == "SEG":
        if len(parts) == 1:
            annotation = read_seg(file.file, parts[0])
        else:
            annotation = read_seg_in_parts(file.file, parts, select=select, accept=rules.accept)
        names = [segment.name for segment in annotation.segments]
        annotation = replace(annotation, segments=tuple(s for s in annotation.segments if select(s.name)))
    else:
        structure_set = read_structure_set(file.file)
        names = [roi.name for roi in structure_set.rois]
        annotation = read_rois(
            structure_set, parts, name=str(file.file), select=select, accept=rules.accept, gaps=rules.gaps
        )
    unknown = [n for n in names if not select(n) and rules.naming is not None and not rules.naming.ignores(n)]
    return annotation, unknown


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
