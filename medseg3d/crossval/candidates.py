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
from scipy import ndimage

from medseg3d.crossval.predictor import Answer, Predictor
from medseg3d.crossval.study import CASCADE
from medseg3d.files import whole_or_not_at_all, write_json
from medseg3d.geometry import voxel_volume_ml
from medseg3d.inference.cases import read_image_header
from medseg3d.inference.ensemble import NEAR_VOXELS
from medseg3d.inference.export import write_nifti
from medseg3d.inference.postprocess import mask_of
from medseg3d.labels import file_ids
from medseg3d.metrics import dice
from medseg3d.volume import label_map, read_volume

__all__ = [
    "SAMPLED_VOXELS",
    "Candidate",
    "CaseRecord",
    "Structures",
    "all_candidates",
    "network_ids",
    "predict_case",
    "read_record",
]

Structures = Mapping[str, Sequence[int]]

# Voxels of a case whose probabilities are kept for the calibration; they lie at most so far from where a structure is
# or has this probability. Farther out, certain background would hide what is said of the borders.
SAMPLED_VOXELS, POSSIBLE = 4000, 0.05
SCHEMA = "medseg3d.crossval_case/2"


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
        """Passes through a network a window costs; ``flip_axes`` has the number of mirrored axes of each plan.

        The cascade's first stage is one more.
        """
        own = sum(2 ** flip_axes[name] if self.mirrored else 1 for name in self.configurations)
        return own + (CASCADE in self.configurations)


@dataclass(frozen=True)
class CaseRecord:
    """What was found of one held-out case.

    Attributes:
        case, patient, fold: of the case.
        made_by: hash over weights and configurations; another one makes the record stale.
        dice: candidate's key → structure → Dice, NaN where neither side has it.
        reference_ml: label → volume in the reference.
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
    labels: Mapping[str, int],
    file_labels: Mapping[str, int],
    made_by: str,
    folder: Path,
    ignore_label: int | None = None,
) -> CaseRecord:
    """Predict a held-out case with its fold's networks, and write what each candidate makes of it.

    Written are ``<candidate>/<case>.nii.gz`` (label maps without correction), ``<case>.npz`` (probabilities of a sample
    of voxels around the structures) and ``<case>.json``. Probabilities of whole images stay in memory: those of all
    plans at once, in half precision.

    Args:
        item: case, patient, image and label, as ``medseg3d.datalist`` gives them.
        predictors: configuration → network that has not seen the case.
        structures: that are scored: labels, or regions of several ids.
        labels: name → id that the network answers with; ``file_labels``: those of the reference.
        made_by: hash of weights and configurations, for the record.
        ignore_label: id of reference voxels that do not count.

    Raises:
        CaseError: an image or label map cannot be read.
    """
    header = read_image_header(item["image"])
    stored = label_map(read_volume(Path(item["label"])))
    counted = np.ones(stored.shape, bool) if ignore_label is None else stored != ignore_label
    truth = network_ids(stored, labels, file_labels)
    images = {name: predictor.load(item) for name, predictor in predictors.items()}
    first = next(iter(predictors.values()))
    scores: dict[str, dict[str, float]] = {}
    arrays: dict[str, NDArray[Any]] = {}
    sampled: NDArray[np.int64] | None = None
    for mirrored in sorted({candidate.mirrored for candidate in candidates}):
        answers: dict[str, Answer] = {}  # the last ones are let go before there are new ones
        for name, image in images.items():
            answers[name] = predictors[name].answer(image, mirrored=mirrored and predictors[name].can_mirror)
        if sampled is None:
            foreground = _foreground(truth, list(answers.values()), structures, exclusive=first.exclusive)
            sampled = _sample(foreground, counted, item["case"])
            arrays["truth"] = truth.reshape(-1)[sampled]
        for candidate in (c for c in candidates if c.mirrored == mirrored):
            parts = [answers[name].probabilities for name in candidate.configurations]
            found = first.labels_of(parts, answers[candidate.configurations[0]].image).numpy().astype(np.uint16)
            found = found.astype(np.uint8) if found.max(initial=0) < 256 else found
            write_nifti(folder / candidate.key / f"{item['case']}.nii.gz", found, header)
            scores[candidate.key] = _dice(truth, found, counted, structures)
            kept = torch.stack([part.reshape(len(part), -1)[:, sampled].float() for part in parts]).mean(dim=0)
            arrays[candidate.key] = kept.T.half().numpy()
            del parts
    voxel_ml = voxel_volume_ml(header.affine_ras)
    volumes = {name: float(np.count_nonzero(truth == label)) * voxel_ml for name, label in labels.items()}
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
    """Hash over what a record depends on: weights and configurations of every plan, not where the study lies."""
    parts = [[name, predictors[name].sha256, _without_place(configs[name])] for name in predictors]
    return hashlib.sha256(json.dumps([SCHEMA, parts], sort_keys=True, default=str).encode()).hexdigest()


def _without_place(config: Mapping[str, Any]) -> dict[str, Any]:
    # The folder of a first stage's masks is called by its weights.
    masks = config.get("previous_dir")
    return {**config, "previous_dir": Path(masks).name} if masks else dict(config)


def network_ids(stored: NDArray[Any], labels: Mapping[str, int], file_labels: Mapping[str, int]) -> NDArray[Any]:
    """A label map with the ids that the network answers with, where files have others.

    >>> network_ids(np.array([0, 1, 4]), {"core": 1, "enhancing": 3}, {"core": 1, "enhancing": 4}).tolist()
    [0, 1, 3]
    """
    if dict(labels) == dict(file_labels):
        return stored
    mapped = np.zeros_like(stored)
    for network_id, file_id in file_ids(labels, file_labels).items():
        mapped[stored == file_id] = network_id
    return mapped


def _sample(foreground: NDArray[np.bool_], counted: NDArray[np.bool_], case: str) -> NDArray[np.int64]:
    """Indices of voxels on and near ``foreground``, the same ones in every run; of an empty one, of the whole image."""
    near = np.zeros(foreground.shape, bool)
    if foreground.any():
        used = [np.flatnonzero(foreground.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        box = tuple(slice(max(0, int(u[0]) - NEAR_VOXELS), int(u[-1]) + NEAR_VOXELS + 1) for u in used)
        near[box] = ndimage.binary_dilation(foreground[box], iterations=NEAR_VOXELS)
    else:
        near[...] = True
    indices = np.flatnonzero(near & counted)
    if len(indices) <= SAMPLED_VOXELS:
        return indices
    return np.sort(np.random.default_rng(zlib.crc32(case.encode())).choice(indices, SAMPLED_VOXELS, replace=False))


def _foreground(
    truth: NDArray[Any], answers: Sequence[Answer], structures: Structures, *, exclusive: bool
) -> NDArray[np.bool_]:
    """Where the reference has a structure, or some plan thinks it possible."""
    found = np.isin(truth, sorted({label for ids in structures.values() for label in ids}))
    for answer in answers:
        p = answer.probabilities
        found |= ((1 - p[0] if exclusive else p.amax(dim=0)) >= POSSIBLE).numpy()
    return found


def _dice(
    truth: NDArray[Any], labels: NDArray[Any], counted: NDArray[np.bool_], structures: Structures
) -> dict[str, float]:
    return {
        name: dice(mask_of(truth, ids) & counted, mask_of(labels, ids) & counted) for name, ids in structures.items()
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
