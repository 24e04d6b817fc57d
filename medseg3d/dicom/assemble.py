"""From headers to series and stacks: copies dropped, frames grouped, ordered and checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

from medseg3d.dicom.checks import check_frames, check_series
from medseg3d.dicom.copies import drop_copies
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Frame, Header, Series, SeriesInfo, Stack
from medseg3d.dicom.grouping import Group, group_frames
from medseg3d.dicom.interleaving import check_interleaving
from medseg3d.dicom.model import FileRef, SeriesGrid
from medseg3d.dicom.ordering import distances_mm, fit_line, grid_affine_ras
from medseg3d.dicom.spacing import check_line, check_repeats

__all__ = ["assemble", "pseudonym"]


def pseudonym(patient_id: str, *, key: str = "") -> str:
    """A short name for a patient that does not show the id, the same for the same id and key.

    Without a secret key, whoever knows the ids can tell them: it keeps names out of tables, it does not de-identify.

    >>> pseudonym("4711") == pseudonym("4711"), pseudonym("4711") == pseudonym("4711", key="secret")
    (True, False)
    """
    return f"P{blake2b(patient_id.strip().encode(), key=key.encode()[:64], digest_size=4).hexdigest()}"


def assemble(headers: Iterable[Header], *, key: str = "") -> tuple[Series, ...]:
    """The series that image headers belong to, by patient, study, series number and UID."""
    by_series: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for header in headers:
        by_series[header.study_uid, header.series_uid].append(header)
    series = [_series(members, key) for members in by_series.values()]
    return tuple(sorted(series, key=lambda s: (s.patient, s.study_uid, s.number or 0, s.uid)))


def _series(headers: Sequence[Header], key: str) -> Series:
    head = headers[0]
    info = SeriesInfo(
        uid=head.series_uid,
        study_uid=head.study_uid,
        # Without an id, studies are not known to be of one patient.
        patient=pseudonym(head.patient_id or head.study_uid, key=key),
        patient_id=head.patient_id,
        modality=head.modality,
        description=head.description,
        study_description=head.study_description,
        number=head.series_number,
        transfer_syntaxes=tuple(dict.fromkeys(h.transfer_syntax for h in headers)),
        unit=head.unit,
    )
    kept, findings = drop_copies(headers)
    of_file = {header.file: header for header in kept}
    frames = [frame for header in kept for frame in header.frames]
    groups = group_frames(frames, lambda frame: of_file[frame.source.file].frame_of_reference_uid)
    return Series(
        **vars(info),
        stacks=tuple(_stack(info, group, of_file) for group in groups),
        findings=(*findings, *check_series(groups, kept)),
    )


def _stack(info: SeriesInfo, group: Group, of_file: dict[FileRef, Header]) -> Stack:
    headers = [of_file[file] for file in dict.fromkeys(frame.source.file for frame in group.frames)]
    frames = group.frames
    findings = list(check_frames(frames, headers))
    grid = None
    if not any(_blocks_geometry(f) for f in findings):
        frames, grid, geometric = _place(info, frames, headers[0].frame_of_reference_uid)
        findings += geometric
    return Stack(series=info, label=group.label, frames=frames, grid=grid, findings=tuple(findings))


def _blocks_geometry(finding: Finding) -> bool:
    return finding.severity == "refusal" and finding.code in ("missing_tag", "contradictory_tags", "not_a_volume")


def _place(
    info: SeriesInfo, frames: Sequence[Frame], reference_uid: str
) -> tuple[tuple[Frame, ...], SeriesGrid | None, list[Finding]]:
    """Frames in order, the grid if they have one, and what was found on the way."""
    distances = distances_mm(frames)
    order = np.argsort(distances, kind="stable")
    ordered, distances = tuple(frames[n] for n in order), distances[order]
    findings = list(check_repeats(ordered, distances))
    if findings:
        return ordered, None, findings
    line = fit_line(np.array([f.position_mm for f in ordered]))
    usual_mm = float(np.median(np.diff(distances)))
    findings = [*check_line(ordered, distances, line), *check_interleaving(ordered, usual_mm)]
    if any(f.severity == "refusal" and f.code != "gantry_tilt" for f in findings):
        return ordered, None, findings
    grid = SeriesGrid(
        shape=(ordered[0].columns, ordered[0].rows, len(ordered)),
        affine_ras=grid_affine_ras(ordered[0], line),
        study_uid=info.study_uid,
        series_uid=info.uid,
        frame_of_reference_uid=reference_uid,
        slices=tuple(f.source for f in ordered),
    )
    return ordered, grid, findings
