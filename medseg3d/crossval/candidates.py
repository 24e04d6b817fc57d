"""Which combinations of plans there are, and what each makes of a case that its networks have not seen."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg3d.crossval.predictor import Predictor
from medseg3d.evaluation.calibrating import MARGIN_MM
from medseg3d.files import whole_or_not_at_all, write_json
from medseg3d.geometry import spacing_mm, voxel_volume_ml
from medseg3d.inference.cases import read_image_header
from medseg3d.inference.export import write_nifti
from medseg3d.metrics import dice
from medseg3d.volume import label_map, read_volume

__all__ = ["Candidate", "CaseRecord", "Structures", "all_candidates", "predict_case", "read_record"]

Structures = Mapping[str, Sequence[int]]

# Voxels of a case whose probabilities are kept for the calibration.
SAMPLED_VOXELS = 4000
SCHEMA = "medseg3d.crossval_case/1"


@dataclass(frozen=True)
class Candidate:
    """Plans whose probabilities are averaged, with mirror images or without.

    >>> Candidate(("3d", "2d"), mirrored=True).name
    '3d+2d, mirrored'
    """

    configurations: tuple[str, ...]
    mirrored: bool = False

    @property
    def name(self) -> str:
        """As reports call it."""
        return "+".join(self.configurations) + (", mirrored" if self.mirrored else "")

    @property
    def key(self) -> str:
        """As files call it."""
        return "+".join(self.configurations) + ("_mirrored" if self.mirrored else "")

    def passes(self, flip_axes: Mapping[str, int]) -> int:
        """Passes through a network a window costs; ``flip_axes`` has the number of mirrored axes of each plan."""
        return sum(2 ** flip_axes[name] if self.mirrored else 1 for name in self.configurations)


@dataclass(frozen=True)
class CaseRecord:
    """What was found of one held-out case.

    Attributes:
        case, patient, fold: of the case.
        made_by: hash over weights and configurations; another one makes the record stale.
        dice: candidate's key → structure → Dice, NaN where neither side has it.
        reference_ml: structure → volume in the reference.
    """

    case: str
    patient: str
    fold: int
    made_by: str
    dice: Mapping[str, Mapping[str, float]]
    reference_ml: Mapping[str, float]


def all_candidates(configurations: Sequence[str], *, can_mirror: bool) -> list[Candidate]:
    """Every plan alone and every combination of plans, each with mirroring where that is possible.

    >>> [c.name for c in all_candidates(["3d", "2d"], can_mirror=False)]
    ['3d', '2d', '3d+2d']
    """
    together = [c for n in range(1, len(configurations) + 1) for c in combinations(configurations, n)]
    return [
        Candidate(names, mirrored) for mirrored in ((False, True) if can_mirror else (False,)) for names in together
    ]


def predict_case(
    item: Mapping[str, Any],
    *,
    fold: int,
    predictors: Mapping[str, Predictor],
    candidates: Sequence[Candidate],
    structures: Structures,
    made_by: str,
    folder: Path,
    ignore_label: int | None = None,
) -> CaseRecord:
    """Predict a held-out case with its fold's networks, and write what each candidate makes of it.

    Written are ``<candidate>/<case>.nii.gz`` (label maps without correction), ``<case>.npz`` (probabilities of a sample
    of voxels around the structures) and ``<case>.json``. Probabilities of whole images stay in memory: those of all
    plans at once, in half precision.

    Raises:
        CaseError: an image or label map cannot be read.
    """
    header = read_image_header(item["image"])
    truth = label_map(read_volume(Path(item["label"])))
    counted = np.ones(truth.shape, bool) if ignore_label is None else truth != ignore_label
    sampled = _sample(truth, counted, spacing_mm(header.affine_ras), structures, item["case"])
    images = {name: predictor.load(item) for name, predictor in predictors.items()}
    first = next(iter(predictors.values()))
    scores: dict[str, dict[str, float]] = {}
    arrays: dict[str, NDArray[Any]] = {"truth": truth.reshape(-1)[sampled]}
    for mirrored in sorted({candidate.mirrored for candidate in candidates}):
        answers = {name: predictors[name].answer(image, mirrored=mirrored and predictors[name].can_mirror)
                   for name, image in images.items()}  # fmt: skip
        for candidate in (c for c in candidates if c.mirrored == mirrored):
            parts = [answers[name].probabilities for name in candidate.configurations]
            mean = parts[0] if len(parts) == 1 else torch.stack(parts).float().mean(dim=0)
            labels = first.labels_of(mean, answers[candidate.configurations[0]].image).numpy().astype(np.uint16)
            labels = labels.astype(np.uint8) if labels.max(initial=0) < 256 else labels
            write_nifti(folder / candidate.key / f"{item['case']}.nii.gz", labels, header)
            scores[candidate.key] = _dice(truth, labels, counted, structures)
            arrays[candidate.key] = mean.reshape(len(mean), -1)[:, sampled].T.half().numpy()
    voxel_ml = voxel_volume_ml(header.affine_ras)
    volumes = {name: float(np.isin(truth, ids).sum()) * voxel_ml for name, ids in structures.items()}
    record = CaseRecord(item["case"], item["patient"], fold, made_by, scores, volumes)
    with whole_or_not_at_all(folder / f"{item['case']}.npz") as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    write_json(folder / f"{item['case']}.json", _to_json(record))
    return record


def read_record(folder: Path, case: str, *, made_by: str, candidates: Sequence[Candidate]) -> CaseRecord | None:
    """The record of an earlier run, if all its files are there and the same weights made it."""
    try:
        content = json.loads((folder / f"{case}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    keys = [candidate.key for candidate in candidates]
    files = [folder / f"{case}.npz", *(folder / key / f"{case}.nii.gz" for key in keys)]
    if content.get("made_by") != made_by or set(content["dice"]) != set(keys) or not all(f.is_file() for f in files):
        return None
    scores = {
        key: {n: np.nan if v is None else v for n, v in values.items()} for key, values in content["dice"].items()
    }
    return CaseRecord(case, content["patient"], content["fold"], made_by, scores, content["reference_ml"])


def fingerprint(predictors: Mapping[str, Predictor], configs: Mapping[str, Mapping[str, Any]]) -> str:
    """Hash over what a record depends on: weights and configurations of every plan."""
    parts = [[name, predictors[name].sha256, configs[name]] for name in predictors]
    return hashlib.sha256(json.dumps([SCHEMA, parts], sort_keys=True, default=str).encode()).hexdigest()


def _sample(
    truth: NDArray[Any], counted: NDArray[np.bool_], spacing: Sequence[float], structures: Structures, case: str
) -> NDArray[np.int64]:
    """Indices of voxels in the box around the structures, ``MARGIN_MM`` wider; the same ones in every run."""
    ids = sorted({label for ids in structures.values() for label in ids})
    inside = np.argwhere(np.isin(truth, ids))
    box = np.zeros(truth.shape, bool)
    if len(inside):
        margins = np.ceil(MARGIN_MM / np.asarray(spacing)).astype(int)
        low, high = np.maximum(inside.min(axis=0) - margins, 0), inside.max(axis=0) + margins + 1
        box[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    else:
        box[...] = True
    indices = np.flatnonzero(box & counted)
    if len(indices) <= SAMPLED_VOXELS:
        return indices
    return np.sort(np.random.default_rng(zlib.crc32(case.encode())).choice(indices, SAMPLED_VOXELS, replace=False))


def _dice(
    truth: NDArray[Any], labels: NDArray[Any], counted: NDArray[np.bool_], structures: Structures
) -> dict[str, float]:
    return {
        name: dice(np.isin(truth, list(ids)) & counted, np.isin(labels, list(ids)) & counted)
        for name, ids in structures.items()
    }


def _to_json(record: CaseRecord) -> dict[str, Any]:
    scores = {
        key: {name: None if np.isnan(value) else value for name, value in values.items()}
        for key, values in record.dice.items()
    }
    return {
        "schema": SCHEMA,
        "case": record.case,
        "patient": record.patient,
        "fold": record.fold,
        "made_by": record.made_by,
        "dice": scores,
        "reference_ml": dict(record.reference_ml),
    }
