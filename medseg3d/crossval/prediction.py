"""Every held-out case by the networks that have not seen it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medseg3d.crossval.candidates import (
    SAMPLED_VOXELS,
    Candidate,
    CaseRecord,
    Structures,
    all_candidates,
    fingerprint,
    network_ids,
    predict_case,
    read_record,
)
from medseg3d.crossval.configuration import EnsemblePart, ensemble_config, inference_config
from medseg3d.crossval.corrections import LabelledCase
from medseg3d.crossval.honesty import Sample
from medseg3d.crossval.predictor import Predictor, parsed
from medseg3d.crossval.study import Study
from medseg3d.engines.training import require_unseen
from medseg3d.geometry import voxel_volume_ml
from medseg3d.inference.cases import image_paths
from medseg3d.volume import label_map, read_volume

__all__ = ["Predictions", "predict_folds", "predict_out_of_fold", "samples_of"]

Progress = Callable[[int, int], None]
CANDIDATES = "candidates"

MOST_VALUES = 50_000_000
"""Probabilities that a calibration looks at, of all cases together: it takes about 40 bytes for each."""


class Predictions:
    """What all candidates made of all held-out cases: small records in memory, label maps and samples on disk.

    Attributes:
        records: one a case.
        candidates: that were tried.
        labels: name → id that the networks answer with; ``file_labels``: the ids in label maps and masks.
        structures: label or region → ids, in the order of the network's channels where these are regions.
        exclusive: whether labels exclude each other.
        flip_axes: configuration → number of axes it can be mirrored along.
        folder: where the files are.
        ignore_label: id of reference voxels that do not count.
    """

    def __init__(self, study: Study, *, mirror: bool, ignore_label: int | None = None) -> None:
        self.study = study
        self.ignore_label = ignore_label
        self.configs = {c.name: inference_config(study, c) for c in study.configurations}
        regions = next(iter(self.configs.values())).get("regions") or {}
        self.exclusive = not regions
        config = next(iter(self.configs.values()))
        self.labels: Mapping[str, int] = config["labels"]
        stated = config.get("file_labels")
        self.file_labels: Mapping[str, int] = stated if isinstance(stated, Mapping) else self.labels
        self.structures: Structures = dict(regions) or {name: (i,) for name, i in self.labels.items()}
        self.flip_axes = {name: len(config.get("flip_axes") or ()) for name, config in self.configs.items()}
        can_mirror = mirror and any(self.flip_axes.values())
        self.candidates: list[Candidate] = all_candidates(list(self.configs), can_mirror=can_mirror)
        self.folder = study.output / CANDIDATES
        self.records: list[CaseRecord] = []

    def median_ml(self) -> dict[str, float]:
        """Median volume of each structure over the references that have it."""
        names = {label_id: name for name, label_id in self.labels.items()}
        volumes = {
            structure: [sum(record.reference_ml[names[i]] for i in ids) for record in self.records]
            for structure, ids in self.structures.items()
        }
        found = {structure: [value for value in values if value > 0] for structure, values in volumes.items()}
        return {structure: float(np.median(values)) for structure, values in found.items() if values}

    def cases(self, candidate: Candidate) -> Callable[[], Any]:
        """Reads references and a candidate's masks, case by case, as often as it is called."""
        labels = {item["case"]: item["label"] for fold in self.study.folds for item in self.study.held_out(fold)}

        def read() -> Any:
            for record in self.records:
                mask: Any = nibabel.load(self.folder / candidate.key / f"{record.case}.nii.gz")
                stored = label_map(read_volume(Path(labels[record.case])))
                yield LabelledCase(
                    record.case,
                    reference=network_ids(stored, self.labels, self.file_labels),
                    mask=np.asanyarray(mask.dataobj),
                    voxel_ml=voxel_volume_ml(np.asarray(mask.affine)),
                    counted=None if self.ignore_label is None else stored != self.ignore_label,
                )

        return read


def predict_folds(
    study: Study,
    *,
    mirror: bool = True,
    device: str | None = None,
    ignore_label: int | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Predict each fold's held-out cases by each configuration's network of that fold, and score every candidate.

    Cases that an earlier run with the same weights did, and whose files have not changed since, are not done again. On
    disk, a candidate costs a compressed label map a case, and all candidates together about 4,000 voxels'
    probabilities a case.

    Args:
        mirror: also try averaging over mirror images, where the bundle was trained on them.
        device: None leaves it to the bundle.
        ignore_label: id of reference voxels that do not count.

    Raises:
        CheckpointError: weights are missing, of another network, or were trained on a case that they should not know.
        CaseError: a case cannot be read or predicted.
    """
    predictions = Predictions(study, mirror=mirror, ignore_label=ignore_label)
    total = sum(len(study.held_out(fold)) for fold in study.folds)
    for fold in study.folds:
        items = study.held_out(fold)
        predictors = {}
        for configuration in study.configurations:
            weights = study.run(configuration, fold).weights
            require_unseen(weights, items)
            config = predictions.configs[configuration.name]
            predictors[configuration.name] = Predictor(config, bundle=study.bundle, weights=weights, device=device)
        made_by = fingerprint(predictors, predictions.configs)
        for item in items:
            of_case = _made_by(made_by, item, ignore_label)
            record = read_record(
                predictions.folder, item["case"], made_by=of_case, candidates=predictions.candidates
            ) or predict_case(
                item,
                fold=fold,
                predictors=predictors,
                candidates=predictions.candidates,
                structures=predictions.structures,
                labels=predictions.labels,
                file_labels=predictions.file_labels,
                made_by=of_case,
                folder=predictions.folder,
                ignore_label=ignore_label,
            )
            predictions.records.append(record)
            if progress is not None:
                progress(len(predictions.records), total)
    return predictions


def _made_by(networks: str, item: Mapping[str, Any], ignore_label: int | None) -> str:
    """What a case's record depends on: the networks, and size and time of its files."""
    stats = [path.stat() for path in (*image_paths(item["image"]), Path(item["label"])) if path.exists()]
    parts = [networks, ignore_label, [(stat.st_size, stat.st_mtime_ns) for stat in stats]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def samples_of(predictions: Predictions, candidate: Candidate) -> list[Sample]:
    """The voxels of every case that were kept for the calibration.

    Of many cases with many labels, every second, third, … of them, so that memory does not grow without end.
    """
    samples = []
    for record in predictions.records:
        with np.load(predictions.folder / f"{record.case}.npz") as arrays:
            probabilities, truth = arrays[candidate.key], arrays["truth"]
        values = len(predictions.records) * SAMPLED_VOXELS * probabilities.shape[1]
        step = math.ceil(values / MOST_VALUES)
        samples.append(Sample(record.case, record.fold, probabilities[::step].copy(), truth[::step].copy()))
    return samples


def predict_out_of_fold(
    predictions: Predictions,
    candidate: Candidate,
    *,
    corrections: Sequence[Mapping[str, Any]],
    temperature: float,
    output: Path,
    uncertainty: bool = False,
    device: str | None = None,
) -> None:
    """Masks and sidecars of every held-out case by what is chosen, made by the code that the shipped bundle runs.

    Masks that are there from the same weights are kept: the caller removes those of another choice.

    Raises:
        CaseError: some case failed.
    """
    study = predictions.study
    for fold in study.folds:
        parts = [
            EnsemblePart(name, predictions.configs[name], [str(study.folder / name / f"fold{fold}" / "best.pt")])
            for name in candidate.configurations
        ]
        config = ensemble_config(parts, mirrored=candidate.mirrored, corrections=corrections, temperature=temperature)
        config["dataset"]["data"] = study.held_out(fold)
        config["evaluator"] |= {"overwrite": False, "save_uncertainty": uncertainty}
        parser = parsed(config, bundle=study.bundle, device=device, output_dir=str(output))
        parser.get_parsed_content("evaluator").segment().raise_for_failed()
