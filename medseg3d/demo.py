"""The main job on synthetic data, start to end, DICOM in and DICOM out.

Phantom studies as CT series with contours → images and labels → data list → training → masks of unseen series as
NIfTI, SEG and RTSTRUCT → scores, a report, a picture. Training goes through MONAI's own bundle runner, by the command
that a user would type.
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.errors import MedsegError
from medseg3d.evaluation import Summary

__all__ = ["Demo", "DemoPlan", "run_demo"]

logger = logging.getLogger("medseg3d")

BUNDLE = "ct_organ_segmentation"
OVERLAY = "low_resolution.yaml"
WINDOW_HU = (-160.0, 240.0)
FORMATS = ("nifti", "seg", "rtstruct")
# What medseg3d dicom convert calls a file begins with the patient's pseudonym.
PATIENT = "^([^_]+)_"


@dataclass(frozen=True)
class DemoPlan:
    """How much to do; the defaults take some minutes on two CPU cores."""

    cases: int = 32
    test_cases: int = 6
    size: tuple[int, int, int] = (128, 128, 64)
    seed: int = 0
    epochs: int = 20
    iterations_per_epoch: int = 100
    batch_size: int = 1


@dataclass(frozen=True)
class Demo:
    """What the demo made, and what it found there and used again."""

    summary: Summary
    masks: Path
    picture: Path
    run: Path
    reused: tuple[str, ...]


def run_demo(folder: Path, plan: DemoPlan, *, say: Callable[[str], None]) -> Demo:
    """Do every step that is not done yet in ``folder``; segment and evaluate in any case.

    Args:
        folder: phantoms go to ``study/``, images and labels made of them to ``data/``, the training to ``run/``, masks,
            scores, report and picture to ``unseen/``.
        plan: sizes and lengths. A folder that was made by another plan is refused.
        say: takes a line for the user before each step.

    Raises:
        MedsegError: the data is refused, training fails, or a case cannot be segmented.
    """
    _require_same_plan(folder, plan)
    study, data, run, masks = (folder / name for name in ("study", "data", "run", "unseen"))
    training, testing = data / "training" / "dataset.json", data / "testing" / "dataset.json"
    reused = []
    if (study / "study.json").is_file():
        reused.append(f"DICOM ({study})")
    else:
        say(f"1/6  Making {plan.cases} synthetic CT studies to train on and {plan.test_cases} unseen ones, as DICOM")
        _make_study(study, plan)
    if training.is_file() and testing.is_file():
        reused.append(f"data ({data})")
    else:
        say(f"2/6  Converting series and contours, as: medseg3d dicom convert {study}/training {training.parent}")
        for part in (training, testing):
            _convert(study, part)
    say("3/6  Checking the data list")
    _check(training)
    if _trained(run, plan):
        reused.append(f"weights ({run / 'best.pt'})")
        say(f"4/6  Training was done before: {run / 'best.pt'}")
    else:
        command = training_command(training, run, plan)
        say("4/6  Training by\n     " + shlex.join(["python", *command[1:]]))
        _train(command)
    say("5/6  Segmenting the unseen series: NIfTI, DICOM SEG and RTSTRUCT")
    _segment(study / "testing", masks, weights=run / "best.pt")
    say("6/6  Scoring the masks against the truth")
    summary = _evaluate(testing, masks)
    picture = _draw(testing, masks)
    return Demo(summary, masks, picture, run, tuple(reused))


def training_command(datalist: Path, run: Path, plan: DemoPlan) -> list[str]:
    """The training as a command line. Fold -1: the unseen cases are apart, so nothing needs to be held out."""
    from medseg3d.bundles import find_bundle

    bundle = find_bundle(BUNDLE)
    files = [str(bundle / "configs" / name) for name in ("train.yaml", OVERLAY)]
    overrides: dict[str, Any] = {
        "bundle_root": bundle,
        "dataset_dir": datalist.parent,
        "output_dir": run,
        "fold": -1,
        "max_epochs": plan.epochs,
        "iterations_per_epoch": plan.iterations_per_epoch,
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "resume": True,
    }
    typed = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    return [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", json.dumps(files), *typed]


def _require_same_plan(folder: Path, plan: DemoPlan) -> None:
    path = folder / "plan.json"
    wanted = json.dumps(vars(plan), default=list, indent=2) + "\n"
    if path.is_file() and path.read_text() != wanted:
        raise MedsegError(f"{folder} holds a demo made with other options ({path}). Use the same, or another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(wanted)


def _make_study(folder: Path, plan: DemoPlan) -> None:
    from medseg3d.phantom import write_study

    write_study(
        folder,
        modality="ct",
        cases=plan.cases,
        test_cases=plan.test_cases,
        seed=plan.seed,
        size=plan.size,
        lesions=False,
        workers=2,
        overwrite=True,
        format="dicom",
    )


def _convert(study: Path, datalist: Path) -> None:
    """Images and labels of one part of the study, and their data list, which is written last."""
    from medseg3d.datalist import build_datalist, write_datalist
    from medseg3d.dicom import ConvertOptions, convert
    from medseg3d.dicom.conversion import LabelRules
    from medseg3d.dicom.naming import read_naming

    naming = read_naming(study / "labels.yaml")
    data = datalist.parent
    options = ConvertOptions(labels=LabelRules(naming), force=True)
    failed = [done for done in convert(study / data.name, data, options=options) if done.failed]
    if failed:
        listed = "\n".join(f"  {done.name}: {' '.join(map(str, done.findings))}" for done in failed)
        raise MedsegError(f"{len(failed)} series could not be converted:\n{listed}")
    labels = dict(naming.labels)
    built = build_datalist(data, path=datalist, name="phantom_ct", modality="CT", labels=labels, patient_regex=PATIENT)
    write_datalist(built.datalist, datalist)


def _check(datalist: Path) -> None:
    from medseg3d.datalist import check_datalist, read_datalist

    report = check_datalist(read_datalist(datalist), workers=2)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    if errors:
        raise MedsegError("The data cannot be trained on:\n" + "\n".join(f"  {e.case}: {e.message}" for e in errors))


def _trained(run: Path, plan: DemoPlan) -> bool:
    """Whether the last epoch was written; a run killed before goes on from ``last.pt``."""
    from medseg3d.engines.checkpoint import load_checkpoint

    last = run / "last.pt"
    return last.is_file() and (run / "best.pt").is_file() and load_checkpoint(last)["epoch"] >= plan.epochs


def _train(command: list[str]) -> None:
    if subprocess.run(command, check=False).returncode:
        raise MedsegError("The training failed; its own message stands above.")


def _segment(series: Path, masks: Path, *, weights: Path) -> None:
    from medseg3d.bundles import find_bundle
    from medseg3d.inference.run import run_bundle

    bundle = find_bundle(BUNDLE)
    run_bundle(bundle, series, masks, weights=weights, config_files=[bundle / "configs" / OVERLAY], formats=FORMATS)


def _evaluate(datalist: Path, masks: Path) -> Summary:
    from medseg3d.datalist import read_datalist
    from medseg3d.evaluation import evaluate

    return evaluate(_cases(datalist), masks, labels=read_datalist(datalist).labels)


def _cases(datalist: Path) -> list[dict[str, Any]]:
    """All cases of a list whose labels are known."""
    from medseg3d.datalist import training_items

    return training_items(datalist, fold=-1)


def _draw(datalist: Path, masks: Path, *, shown: int = 2) -> Path:
    """A picture of the first cases in RAS axes: image, truth and mask."""
    from medseg3d.datalist import read_datalist
    from medseg3d.report.figures import CasePicture, montage

    pictures = []
    for item in _cases(datalist)[:shown]:
        image, spacing = _in_ras(item["image"])
        reference, _ = _in_ras(item["label"])
        prediction, _ = _in_ras(masks / f"{item['case']}.nii.gz")
        maps = (reference.astype(np.int16), prediction.astype(np.int16))
        pictures.append(CasePicture(item["case"], image, *maps, spacing_mm=spacing, window=WINDOW_HU))
    path = masks / "montage.png"
    montage(pictures, labels=read_datalist(datalist).labels).savefig(path)
    return path


def _in_ras(path: str | Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    import nibabel

    image: Any = nibabel.as_closest_canonical(nibabel.load(path))
    x, y, z = (float(size) for size in image.header.get_zooms()[:3])
    return np.asarray(image.dataobj, dtype=np.float32), (x, y, z)
