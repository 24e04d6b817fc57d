"""RTSTRUCT to masks on the grid of a series, by the even-odd rule at pixel centres.

What a structure set leaves open is not guessed: it gets a finding, and where the mask would depend on the guess, the
finding is a refusal that the caller may accept by its code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from medseg3d.dicom.annotation import Annotation, RefusedAnnotation, Segment
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import FileRef, SeriesGrid
from medseg3d.dicom.rtstruct_place import place_contours
from medseg3d.dicom.rtstruct_shapes import check_shapes, fill_slices, interpolate_gaps
from medseg3d.dicom.structure_set import Roi, StructureSet, read_structure_set
from medseg3d.errors import UsageError

__all__ = ["ACCEPTABLE", "Gaps", "joined", "read_rois", "read_rtstruct", "settled"]

Gaps = Literal["leave", "interpolate"]

# Refusals that a caller may accept, and what is done then.
ACCEPTABLE = {
    "other_frame_of_reference": "coordinates are taken as they are",
    "contour_off_slice": "the contours are left out",
    "on_missing_slices": "the structure is left out",
    "open_contour": "the contours are left out",
    "damaged_contour": "the contours are left out",
    "duplicate_contour": "each is counted once",
    "self_crossing": "the even-odd rule decides",
    "crossing_contours": "the even-odd rule decides",
}


def read_rtstruct(
    file: FileRef | str | Path,
    grid: SeriesGrid,
    *,
    select: Callable[[str], bool] | None = None,
    accept: Collection[str] = (),
    gaps: Gaps = "leave",
) -> Annotation:
    """Read the ROIs of a structure set as masks on ``grid``.

    A voxel belongs to an ROI when its centre lies inside an odd number of the ROI's contours on its slice (see
    ``medseg3d.dicom.rasterise`` for centres exactly on an edge). Holes may be keyholes or contours inside others.

    Args:
        file: the RTSTRUCT, alone or in a zip archive.
        grid: of the series; its slices serve to check the references.
        select: takes an ROI's name and tells whether it is wanted; the others are neither read nor checked.
        accept: codes of refusals that shall be warnings, with the consequence that ``ACCEPTABLE`` tells.
        gaps: what to do with slices without contour between contoured ones: ``"leave"`` them empty, or
            ``"interpolate"`` by shape (signed distances, linear between the neighbours).

    Returns:
        A segment for each wanted ROI with a closed contour, in the file's order. Findings: ``other_series``,
        ``missing_source_slices``, ``no_contours``, ``no_area``, ``contour_without_area``, ``empty_mask``,
        ``outside_series``, ``contour_outside_image``, ``contradicting_reference``, ``holes``, ``contour_gap``,
        and those of ``ACCEPTABLE`` where they make no difference to the mask or are accepted.

    Raises:
        DicomError: not an RTSTRUCT, or damaged; or refusals, all of which the message names.
        UsageError: ``accept`` holds a code that cannot be accepted.
    """
    return read_rois(read_structure_set(file), [grid], name=str(file), select=select, accept=accept, gaps=gaps)


def read_rois(
    structure_set: StructureSet,
    parts: Sequence[SeriesGrid],
    *,
    name: str,
    select: Callable[[str], bool] | None = None,
    accept: Collection[str] = (),
    gaps: Gaps = "leave",
) -> Annotation:
    """``read_rtstruct`` of a structure set that is read already, and of a series with faults.

    Args:
        structure_set: as read.
        parts: grids one after another that hold the slices that there are, where some are missing or unevenly apart.
        name: of the file, for messages.
        select, accept, gaps: see ``read_rtstruct``.

    Returns:
        Masks with one slice for each slice that there is, and besides the findings of ``read_rtstruct``
        ``on_missing_slices``: a refusal for an ROI of which nothing else is drawn.
    """
    unknown = sorted(set(accept) - set(ACCEPTABLE))
    if unknown:
        raise UsageError(f"{', '.join(unknown)} cannot be accepted; what can is {', '.join(ACCEPTABLE)}.")
    whole = joined(parts)
    rois = [roi for roi in structure_set.rois if select is None or select(roi.name)]
    findings = list(_reference_findings(structure_set, rois, whole))
    segments = []
    for roi in rois:
        segment, found = _read_roi(roi, parts, whole, gaps)
        findings += found
        if segment is not None:
            segments.append(segment)
    return Annotation(tuple(segments), whole, tuple(settled(findings, accept, name)))


def joined(parts: Sequence[SeriesGrid]) -> SeriesGrid:
    """All slices as one grid; of several parts, its third axis counts slices and says nothing about distances."""
    columns, rows, _ = parts[0].shape
    slices = tuple(ref for part in parts for ref in part.slices)
    return replace(parts[0], shape=(columns, rows, sum(part.shape[2] for part in parts)), slices=slices)


def settled(findings: Iterable[Finding], accept: Collection[str], name: str) -> list[Finding]:
    """Findings with the accepted refusals as warnings.

    Raises:
        RefusedAnnotation: refusals are left; the message names them and the file.
    """
    findings = [_accepted(f) if f.code in accept and f.severity == "refusal" else f for f in findings]
    refusals = [f for f in findings if f.severity == "refusal"]
    if refusals:
        listed = "\n".join(f"  {f}" for f in refusals)
        codes = ", ".join(dict.fromkeys(f.code for f in refusals))
        raise RefusedAnnotation(
            f"{name}: {len(refusals)} refusals, no mask is made.\n{listed}\n"
            f"Leave these ROIs out, or accept what was found ({codes}).",
            refusals,
        )
    return findings


def _accepted(finding: Finding) -> Finding:
    return replace(finding, severity="warning", remedy=f"Accepted: {ACCEPTABLE[finding.code]}.")


def _read_roi(
    roi: Roi, parts: Sequence[SeriesGrid], grid: SeriesGrid, gaps: Gaps
) -> tuple[Segment | None, list[Finding]]:
    if not roi.contours:
        return None, [Finding("no_contours", "warning", f"{roi} has no contour: left out.", "Was it never drawn?")]
    placed, findings = place_contours(roi, parts)
    if any(f.code == "no_area" for f in findings):
        return None, findings
    slices, shape_findings = check_shapes(roi, placed, grid)
    findings += shape_findings
    start, mask = fill_slices(slices, grid)
    findings += _gap_findings(roi, sorted(slices), grid, gaps)
    if gaps == "interpolate":
        mask = interpolate_gaps(mask, [k - start[2] for k in sorted(slices)], grid)
    if not mask.any():
        findings.append(Finding("empty_mask", "warning", f"{roi}: its contours enclose no voxel centre of the series."))
    segment = Segment.of(
        name=roi.name,
        number=roi.number,
        mask=mask,
        start=start,
        shape=grid.shape,
        meaning=roi.meaning,
        color_rgb=roi.color_rgb,
    )
    return segment, findings


def _gap_findings(roi: Roi, contoured: Sequence[int], grid: SeriesGrid, gaps: Gaps) -> Iterator[Finding]:
    between = [(a, b) for a, b in pairwise(contoured) if b - a > 1]
    if not between:
        return
    missing = sum(b - a - 1 for a, b in between)
    shown = ", ".join(f"{a + 1} and {b + 1}" for a, b in between[:3]) + (", …" if len(between) > 3 else "")
    done = "interpolated" if gaps == "interpolate" else "left empty"
    yield Finding(
        "contour_gap",
        "warning",
        f"{roi}: {missing} slices (of {grid.shape[2]}) without contour between contoured ones (between {shown}): "
        f"{done}.",
        "" if gaps == "interpolate" else "If every other slice was contoured, pass --interpolate-contours.",
    )


def _reference_findings(structure_set: StructureSet, rois: Sequence[Roi], grid: SeriesGrid) -> Iterator[Finding]:
    """What the file says about its source, held against the series."""
    drawn = [roi for roi in rois if roi.contours]
    same_series = grid.series_uid in structure_set.series_uids or (
        not structure_set.series_uids and _names_images(drawn, grid)
    )
    foreign = [roi for roi in drawn if not _same_frame(roi, grid)]
    if foreign:
        names = ", ".join(repr(roi.name) for roi in foreign)
        fact = f"{len(foreign)} of {len(rois)} ROIs ({names}) are not known to share the series' frame of reference"
        if same_series:
            text = f"{fact}, though the structure set refers to the series: coordinates are taken as they are."
            yield Finding("other_frame_of_reference", "warning", text, "Look at the mask over the images.")
        else:
            text = f"{fact}, nor does the structure set refer to the series: their coordinates mean nothing there."
            yield Finding("other_frame_of_reference", "refusal", text, "Give the series that it was drawn on.")
    if structure_set.series_uids and not same_series and len(foreign) < len(drawn):
        yield Finding(
            "other_series", "note", "The structure set was drawn on another series in the same frame of reference."
        )
    if same_series and grid.slices:
        yield from _missing_slices(drawn, grid)


def _same_frame(roi: Roi, grid: SeriesGrid) -> bool:
    return bool(grid.frame_of_reference_uid) and roi.frame_of_reference_uid == grid.frame_of_reference_uid


def _names_images(rois: Sequence[Roi], grid: SeriesGrid) -> bool:
    known = {ref.sop_instance_uid for ref in grid.slices}
    return any(uid in known for roi in rois for contour in roi.contours for uid, _ in contour.images)


def _missing_slices(rois: Sequence[Roi], grid: SeriesGrid) -> Iterator[Finding]:
    known = {ref.sop_instance_uid for ref in grid.slices}
    named = {uid for roi in rois for contour in roi.contours for uid, _ in contour.images}
    missing = len(named - known)
    if missing:
        which = "None" if missing == len(named) else f"{len(named) - missing}"
        yield Finding(
            "missing_source_slices",
            "warning",
            f"{which} of the {len(named)} images that contours refer to are in the series. Contours are placed by "
            "their coordinates.",
            "Is the series complete, and the one that was contoured?",
        )
