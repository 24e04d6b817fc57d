"""Files that hold the same instance twice: dropped where they are equal, refused where they are not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

from medseg3d.dicom.files import Opener
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Header

__all__ = ["drop_copies"]


def drop_copies(headers: Sequence[Header]) -> tuple[list[Header], list[Finding]]:
    """One header an instance, and a finding where there were more.

    Copies whose pixels, geometry or patient differ are all kept, and the series is refused: nobody knows which is
    right.
    """
    by_instance: dict[str, list[Header]] = defaultdict(list)
    for header in sorted(headers, key=lambda h: h.file):
        by_instance[header.sop_instance_uid or str(header.file)].append(header)
    kept: list[Header] = []
    equal, different = 0, []
    with Opener() as opener:
        for copies in by_instance.values():
            same = len(copies) == 1 or len({_identity(h, opener) for h in copies}) == 1
            kept += copies[:1] if same else copies
            equal += len(copies) - 1 if same else 0
            different += [] if same else [copies]
    findings = []
    if equal:
        files = "1 file is a copy of another" if equal == 1 else f"{equal} files are copies of others"
        findings.append(Finding("duplicate_file", "note", f"{files}: left out."))
    if different:
        names = " and ".join(str(h.file) for h in different[0][:2])
        findings.append(
            Finding(
                "conflicting_copies",
                "refusal",
                f"{len(different)} of {len(by_instance)} instances are there more than once, with different content "
                f"({names}, for one).",
                "Keep one file of each instance: they may be edited or compressed copies.",
            )
        )
    return kept, findings


def _identity(header: Header, opener: Opener) -> tuple[object, ...]:
    frame = header.frames[0] if header.frames else None
    layout = frame.layout if frame else None
    with opener.open(header.file) as stream:
        stream.seek(layout.offset if layout else 0)
        digest = sha256(stream.read()).hexdigest()
    geometry = [(f.position_mm, f.row, f.column, f.spacing_mm, f.slope, f.intercept) for f in header.frames]
    return (header.series_uid, header.patient_id, header.transfer_syntax, tuple(geometry), digest)
