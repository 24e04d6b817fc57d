"""What stands in the JSON beside a converted volume: where it lies, where it came from, what was found and done."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import SliceRef
from medseg3d.dicom.resample import Resampling
from medseg3d.geometry import Affine, orientation, spacing_mm

__all__ = [
    "UidWriter",
    "counted_findings",
    "finding_dicts",
    "grid_dict",
    "hashed_uid",
    "raw_uid",
    "resampling_dict",
    "slices_dict",
]

UidWriter = Callable[[str], str]

HASH_DIGITS = 24  # 96 bits: two of a million UIDs agree once in 10¹⁶ archives


def hashed_uid(uid: str) -> str:
    """A short one-way stand-in for a UID: whoever holds the original series finds it again, nobody else can.

    >>> hashed_uid("1.2.3") == hashed_uid("1.2.3 ") != hashed_uid("1.2.4")
    True
    >>> hashed_uid("")
    ''
    """
    uid = raw_uid(uid)
    return f"sha256:{hashlib.sha256(uid.encode()).hexdigest()[:HASH_DIGITS]}" if uid else ""


def raw_uid(uid: str) -> str:
    """The UID itself, without the padding that files may have."""
    return uid.strip().strip("\0")


def finding_dicts(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Findings as JSON has them; a remark that stands there twice is written once."""
    return [
        {"code": f.code, "severity": f.severity, "message": f.message, "remedy": f.remedy}
        for f in dict.fromkeys(findings)
    ]


def counted_findings(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """How often each finding occurs, without its message: on an annotation that has names of structures and files,
    which people type, and type a patient's name into.

    >>> found = [Finding("holes", "note", "ROI 'GTV Doe' has holes."), Finding("holes", "note", "ROI 'CTV' has holes.")]
    >>> counted_findings(found)
    [{'code': 'holes', 'severity': 'note', 'count': 2, 'remedy': ''}]
    """
    times = Counter((f.code, f.severity, f.remedy) for f in dict.fromkeys(findings))
    return [
        {"code": code, "severity": severity, "count": count, "remedy": remedy}
        for (code, severity, remedy), count in times.items()
    ]


def grid_dict(shape: Sequence[int], affine_ras: Affine) -> dict[str, Any]:
    """Shape, spacing, orientation and affine of a volume; as in its NIfTI header, for programs that read only JSON."""
    return {
        "shape": [int(n) for n in shape],
        "spacing_mm": [round(step, 6) for step in spacing_mm(affine_ras)],
        "orientation": orientation(affine_ras),
        "affine_ras": [[round(float(value), 6) + 0.0 for value in row] for row in affine_ras],
    }


def slices_dict(slices: Sequence[SliceRef], write_uid: UidWriter) -> dict[str, Any]:
    """The source of each slice in the order of the third axis (and then the fourth): the way back to DICOM.

    ``frames`` counts from 1 within a multi-frame instance, and is left out where no instance has several.
    """
    content: dict[str, Any] = {"sop_instance_uids": [write_uid(ref.sop_instance_uid) for ref in slices]}
    if any(ref.frame is not None for ref in slices):
        content["frames"] = [ref.frame for ref in slices]
    return content


def resampling_dict(resampling: Resampling, *, fill: float) -> dict[str, Any]:
    """What ``--fix resample`` did to an image."""
    return {
        "interpolation": "linear between slices and along the shift of a tilt; labels nearest",
        "slices": resampling.shape[2],
        "slices_copied_unchanged": resampling.copied,
        "step_mm": round(resampling.step_mm, 6),
        "largest_gap_interpolated_over_mm": round(resampling.largest_gap_mm, 4),
        "tilt_degrees": round(resampling.tilt_degrees, 4),
        "value_where_no_slice_reaches": fill,
    }
