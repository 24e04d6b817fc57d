"""Studies as ``medseg3d plan`` leaves them, small enough to be trained, or made up, in seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser

from medseg3d.crossval import Study, read_study
from medseg3d.crossval.configuration import inference_config, training_config
from medseg3d.datalist import read_datalist, split, write_datalist

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "mri_hippocampus_segmentation"
LABELS = {"liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4, "aorta": 5, "lungs": 6, "spine": 7, "lesion": 8}

SMALL = {
    "labels": LABELS,
    "spacing": [8.0, 8.0, 8.0],
    "patch_size": [32, 32, 32],
    "batch_size": 1,
    "max_epochs": 2,
    "iterations_per_epoch": 1,
    "val_interval": 2,
    "network_def::filters": [4, 4, 4, 4],
    "device": "cpu",
}
COARSE = {"spacing": [12.0, 12.0, 12.0], "network_def::filters": [6, 6, 6, 6]}


def make_study(folder: Path, datalist: Path, *, folds: int, plans: dict[str, dict[str, Any]]) -> Path:
    """A study of the phantoms: plans by name, each over ``SMALL``."""
    folder.mkdir(parents=True)
    write_datalist(split(read_datalist(datalist), folds=folds, seed=0), folder / "dataset.json")
    files = {name: "plan.yaml" if place == 0 else f"plan_{name}.yaml" for place, name in enumerate(plans)}
    for name, values in plans.items():
        (folder / files[name]).write_text(yaml.safe_dump(SMALL | values))
    content = {
        "bundle": str(BUNDLE),
        "recommended": next(iter(plans)),
        "configurations": {name: {"file": file, "values": {}} for name, file in files.items()},
    }
    (folder / "plan.json").write_text(json.dumps(content))
    return folder


def pretend_trained(study: Study, *, seed: int = 0) -> None:
    """Finished folds with random weights, in the files that a training leaves."""
    for number, run in enumerate(study.runs()):
        torch.manual_seed(seed + number)
        config = inference_config(study, run.configuration)
        network = ConfigParser(config | {"device": "cpu"}).get_parsed_content("network_def")
        content = {
            "format": "medseg3d.run/1",
            "network": network.state_dict(),
            "epoch": 2,
            "best_epoch": 2,
            "training_cases": study.trained_on(run.fold),
        }
        run.folder.mkdir(parents=True)
        torch.save(content, run.folder / "last.pt")
        shutil.copy(run.folder / "last.pt", run.weights)
        merged = training_config(study, run.configuration) | {"fold": run.fold}
        (run.folder / "run.json").write_text(json.dumps({"config": merged, "starts": [{"command": "made up"}]}))


def two_plans(folder: Path, datalist: Path, *, folds: int = 2) -> Study:
    """A study with the plans 3d and lowres, trained."""
    study = read_study(make_study(folder, datalist, folds=folds, plans={"3d": {}, "lowres": COARSE}))
    pretend_trained(study)
    return study
