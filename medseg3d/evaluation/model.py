"""What an evaluation is made of: cases, how they are scored, what came out and what was wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medseg3d.errors import CaseError
from medseg3d.metrics import Calibration, CaseScores, DatasetCounts, Region

__all__ = ["CaseResult", "EvaluationCase", "LabelScore", "Problem", "RefusedError", "Scoring", "Severity"]

Severity = Literal["error", "note"]


class RefusedError(CaseError):
    """A case that cannot be scored, and the kind of reason in a few fixed words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class EvaluationCase:
    """A reference and the prediction that is held against it.

    Attributes:
        patient: whose case it is; cases of one patient are drawn together where intervals are computed.
        images: a file a channel, for pictures; empty where they are not known.
        reference, prediction: label maps; None where there is none, which is reported.
    """

    case: str
    patient: str
    reference: Path | None
    prediction: Path | None
    images: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Something about the input that a person should know.

    Attributes:
        case: its name; empty where it is about the whole.
        code: ``missing-prediction``, ``extra-prediction``, ``no-reference``, ``shape-mismatch``, ``grid-mismatch``,
            ``label-unknown``, ``label-not-integer``, ``unreadable``, ``bad-affine``; as notes ``resampled``,
            ``label-as-float``, ``label-ignored``, ``no-attributes``, ``no-probability``.
        message: the fact, the numbers, and what to do.
        severity: an ``error`` makes the exit status 1.
    """

    case: str
    code: str
    message: str
    severity: Severity = "error"


@dataclass(frozen=True)
class Scoring:
    """How cases are scored; the same for all of them.

    Attributes:
        regions: the labels, and then unions of them.
        labels: name → id of every label that may occur.
        tolerance_mm: of the normalised surface distance, one number or one a region.
        lesions: names of the regions that are also scored lesion by lesion.
        lesion_overlap: IoU from which a predicted lesion counts as having found one.
        resample: put a prediction that lies on another grid onto the reference's, by nearest neighbour, and its
            probabilities linearly.
        other_labels: what to do with ids that are not in ``labels``.
        calibration: also read ``<case>_probability.nii.gz`` beside the prediction, a channel a label id.
        plane_unit: of 2D images, written as slices 1 mm thick: what their distances are in, ``px`` where none says its
            spacing. Reports then show areas. Empty for volumes.
        ignore_label: id of reference voxels that nobody labelled: they are background on both sides. Distances near
            them are to a border that is not a surface.
    """

    regions: tuple[Region, ...]
    labels: Mapping[str, int]
    tolerance_mm: float | Mapping[str, float] = 2.0
    lesions: frozenset[str] = frozenset()
    lesion_overlap: float = 0.1
    resample: bool = False
    other_labels: Literal["refuse", "background"] = "refuse"
    calibration: bool = False
    ignore_label: int | None = None
    plane_unit: Literal["", "mm", "px"] = ""

    @property
    def averaged(self) -> tuple[str, ...]:
        """The regions that a mean over labels is over: those that are one label, since unions would count voxels twice.

        All of them where none is: labels that overlap are scored as unions of their combinations.
        """
        own = tuple(region.name for region in self.regions if region.ids == (self.labels.get(region.name),))
        return own or tuple(region.name for region in self.regions)


@dataclass(frozen=True)
class LabelScore:
    """One row of ``cases.csv``: one label or region of one case."""

    case: str
    patient: str
    scores: CaseScores

    @property
    def label(self) -> str:
        return self.scores.label

    @property
    def label_id(self) -> str:
        """The ids, joined by ``+``."""
        return "+".join(map(str, self.scores.ids))

    @property
    def status(self) -> str:
        return self.scores.status

    @property
    def dice(self) -> float:
        return self.scores.dice

    @property
    def volume_ml(self) -> float:
        return self.scores.volume_ml

    @property
    def reference_ml(self) -> float:
        return self.scores.reference_ml


@dataclass(frozen=True)
class CaseResult:
    """What came of one case.

    Attributes:
        scores: a row a region; empty when the case was refused.
        lesions: rows of ``lesions.csv``.
        counts: voxels by reference and prediction; None when refused.
        calibration: region → accumulated calibration.
        sha256: of the voxels and grids of both files, as they were read; empty when one is missing.
    """

    case: EvaluationCase
    scores: tuple[LabelScore, ...] = ()
    lesions: tuple[Mapping[str, Any], ...] = ()
    counts: DatasetCounts | None = None
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    sha256: str = ""

    @property
    def failed(self) -> Problem | None:
        """Why the case has no scores, if it has none."""
        return next((p for p in self.problems if p.severity == "error"), None) if not self.scores else None
