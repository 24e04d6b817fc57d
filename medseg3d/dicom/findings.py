"""What is remarkable or wrong about a series or an annotation, by name, with numbers and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Severity"]

# note: worth knowing; warning: the volume is right, but look at it; refusal: no volume is written as things are.
Severity = Literal["note", "warning", "refusal"]


@dataclass(frozen=True)
class Finding:
    """One remark on a series, a volume or an annotation.

    Attributes:
        code: its name in snake case, such as ``gap`` or ``gantry_tilt``; stable, for programs.
        severity: note, warning or refusal.
        message: the fact with its numbers (mm, degrees, slices), for people. No name or id of a patient.
        remedy: what to do next; empty where nothing needs to be done.
    """

    code: str
    severity: Severity
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.code.replace('_', ' ')}: {self.message} {self.remedy}".strip()
