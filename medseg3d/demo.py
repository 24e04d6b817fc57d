"""The main job on synthetic data, start to end: phantoms, training, masks of unseen cases, Dice, a picture.

Training goes through MONAI's own bundle runner, by the command that a user would type.
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
        folder: phantoms go to ``study/``, the training to ``run/``, masks, scores and picture to ``unseen/``.
        plan: sizes and lengths. A folder that was made by another plan is refused.
        say: takes a line for the user before each step.

    Raises:
        MedsegError: the data is refused, training fails, or a case cannot be segmented.
    """
    _require_same_plan(folder, plan)
    reused = []
    datalist = folder / "study" / "dataset.json"
    if datalist.is_file():
        reused.append(f"data ({datalist.parent})")
    else:
        say(f"1/5  Making {plan.cases} synthetic CT cases to train on and {plan.test_cases} unseen ones")
        _make_study(datalist.parent, plan)
    say("2/5  Checking the data list")
    _check(datalist)
    run = folder / "run"
    if _trained(run, plan):
        reused.append(f"weights ({run / 'best.pt'})")
        say(f"3/5  Training was done before: {run / 'best.pt'}")
    else:
        command = training_command(datalist, run, plan)
        say("3/5  Training by\n     " + shlex.join(["python", *command[1:]]))
        _train(command)
    say("4/5  Segmenting the unseen cases")
    masks = folder / "unseen"
    _segment(datalist, masks, weights=run / "best.pt")
    say("5/5  Scoring the masks against the truth")
    summary = _evaluate(datalist, masks)
    picture = _draw(datalist, masks)
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
    )


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


def _segment(datalist: Path, masks: Path, *, weights: Path) -> None:
    from medseg3d.bundles import find_bundle
    from medseg3d.inference.run import run_bundle

    bundle = find_bundle(BUNDLE)
    run_bundle(bundle, datalist, masks, weights=weights, config_files=[bundle / "configs" / OVERLAY])


def _evaluate(datalist: Path, masks: Path) -> Summary:
    from medseg3d.datalist import read_datalist, testing_items
    from medseg3d.evaluation import evaluate

    return evaluate(testing_items(datalist), masks, labels=read_datalist(datalist).labels)


def _draw(datalist: Path, masks: Path, *, shown: int = 2) -> Path:
    """A picture of the first cases in RAS axes: image, truth and mask."""
    from medseg3d.datalist import read_datalist, testing_items
    from medseg3d.report.figures import CasePicture, montage

    pictures = []
    for item in testing_items(datalist)[:shown]:
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
