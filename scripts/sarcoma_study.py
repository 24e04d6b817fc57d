"""Soft-tissue sarcoma in PET/CT, from DICOM and RTSTRUCT to masks, scores and a report, split by patient.

Every patient is held out once: networks are trained on the other folds, with CT and PET and with CT alone, and the last
epoch (none is chosen on the held-out patients) segments the patient's DICOM series::

    python scripts/sarcoma_study.py $MEDSEG3D_DATA/ct_pet_mr_sarcoma --output sarcoma_study

The commands are printed as they run. A step that is done is not repeated, a training that was interrupted goes on.

Data: 12 patients of the IBSI validation set after the TCIA collection Soft-tissue-Sarcoma, CC BY 3.0 (Vallières et al.,
Phys Med Biol 60, 5471, 2015). The images are cut out around the tumours, so this measures outlining, not finding.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "ct_pet_tumor_segmentation"
MODALITIES = ("CT", "PET")
NAMING = {"labels": {"tumour": 1}, "names": {"GTV*": "tumour"}}
# What convert calls a case begins with the patient's pseudonym.
PATIENT = "^([^_]+)_"
MEDSEG3D = [sys.executable, "-m", "medseg3d"]


@dataclass(frozen=True)
class Plan:
    """How much to do; the same for every arm and fold."""

    folds: int = 4
    epochs: int = 12
    iterations_per_epoch: int = 50
    batch_size: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Arm:
    """One way to train: which overlays, and which channels of the images."""

    name: str
    title: str
    overlays: tuple[str, ...]
    channels: tuple[str, ...]

    @property
    def configs(self) -> list[Path]:
        return [BUNDLE / "configs" / name for name in self.overlays]


QUICK = Plan(folds=2, epochs=2, iterations_per_epoch=10, batch_size=1)
ARMS = (
    Arm("ct_pet", "CT + PET", ("low_resolution.yaml",), MODALITIES),
    Arm("ct", "CT alone", ("low_resolution.yaml", "ct_only.yaml"), MODALITIES[:1]),
)


@dataclass(frozen=True)
class Study:
    """Where everything is."""

    dicom: Path
    out: Path
    plan: Plan

    def datalist(self, arm: Arm) -> Path:
        return self.out / "data" / f"{arm.name}.json"

    def run(self, arm: Arm, fold: int) -> Path:
        return self.out / "runs" / arm.name / f"fold{fold}"

    def masks(self, arm: Arm) -> Path:
        return self.out / "masks" / arm.name

    def evaluation(self, arm: Arm) -> Path:
        return self.out / "evaluation" / arm.name


def main() -> None:
    study, started = parse_options(), time.monotonic()
    require_same_plan(study)
    say(f"1/7  Reading the headers of {study.dicom}")
    scan(study)
    say("2/7  Converting: PET onto the grid of its CT, contours to label maps; folds by patient")
    convert(study)
    for arm in ARMS:
        write_list_of(study, arm)
    say(f"3/7  Training: {study.plan.folds} folds × {len(ARMS)} arms, the same seed and length for all")
    for fold in range(study.plan.folds):
        for arm in ARMS:
            train(study, arm, fold)
    say("4/7  Segmenting each patient's DICOM with the network that has not seen the patient")
    link_held_out(study)
    for fold in range(study.plan.folds):
        for arm in ARMS:
            segment(study, arm, fold)
    say("5/7  Reading the DICOM masks back over the original series")
    check_dicom(study)
    say("6/7  Scoring, and comparing the arms patient by patient")
    for arm in ARMS:
        evaluate(study, arm)
    medseg3d("compare", *(study.evaluation(arm) for arm in ARMS), "--out", study.out / "comparison",
             "--names", ",".join(arm.title for arm in ARMS))  # fmt: skip
    say("7/7  Picture and summary")
    report(study)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes, busy = (time.monotonic() - started) / 60, (used.ru_utime + used.ru_stime) / 60
    print(f"Took {minutes:.1f} min, {busy:.1f} min of processor time. In {study.out}: summary.md, montage.png, "
          "comparison/report.html, evaluation/*/report.html, masks/")  # fmt: skip


def parse_options() -> Study:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dicom", type=Path, help="the folder ct_pet_mr_sarcoma")
    parser.add_argument("--output", type=Path, default=Path("sarcoma_study"), help="where everything goes")
    iterations = Plan.iterations_per_epoch
    parser.add_argument("--epochs", type=int, default=Plan.epochs, help=f"of {iterations} iterations; %(default)s")
    parser.add_argument(
        "--quick", action="store_true", help="minutes: two folds, twenty iterations; the scores mean nothing"
    )
    options = parser.parse_args()
    if not options.dicom.is_dir():
        parser.error(f"{options.dicom}: no such folder. It is ct_pet_mr_sarcoma below MEDSEG3D_DATA.")
    return Study(
        options.dicom.resolve(), options.output.resolve(), QUICK if options.quick else Plan(epochs=options.epochs)
    )


def require_same_plan(study: Study) -> None:
    path = study.out / "plan.json"
    wanted = json.dumps(asdict(study.plan), indent=2) + "\n"
    if path.is_file() and path.read_text() != wanted:
        sys.exit(f"error: {study.out} holds a study of another length ({path}). Choose another --output.")
    study.out.mkdir(parents=True, exist_ok=True)
    path.write_text(wanted)


# Steps ---------------------------------------------------------------------------------------------------------------


def scan(study: Study) -> None:
    found = subprocess.run(
        [*MEDSEG3D, "dicom", "scan", str(study.dicom), "--json"], check=True, stdout=subprocess.PIPE
    ).stdout
    (study.out / "scan.json").write_bytes(found)
    content = json.loads(found)
    kinds = [series["modality"] for series in content["series"]]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    print(f"{counts} series, {len(content['annotations'])} structure sets")


def convert(study: Study) -> None:
    data = study.out / "data"
    if (data / "folds.json").is_file():
        print(f"Done before: {data}")
        return
    naming = study.out / "names.yaml"
    naming.write_text(json.dumps(NAMING) + "\n")
    channels = ",".join(MODALITIES)
    medseg3d("dicom", "convert", study.dicom, data, "--channels", channels, "--labels", naming, "--force")
    medseg3d("datalist", "build", data, "-o", data / "dataset.json", "--labels", data / "labels.json", "--channels",
             channels, "--modality", "CT", "--patient-regex", PATIENT, "--overwrite")  # fmt: skip
    medseg3d("datalist", "check", data / "dataset.json")
    medseg3d("datalist", "split", data / "dataset.json", "-o", data / "folds.json", "--folds", study.plan.folds,
             "--seed", study.plan.seed, "--overwrite")  # fmt: skip


def write_list_of(study: Study, arm: Arm) -> None:
    """The data list of an arm: the same cases, labels and folds, the arm's channels."""
    from medseg3d.datalist import read_datalist, write_datalist

    whole = read_datalist(study.out / "data" / "folds.json")
    kept = [whole.channels.index(name) for name in arm.channels]
    training = tuple(replace(case, image=tuple(case.image[i] for i in kept)) for case in whole.training)
    write_datalist(replace(whole, channels=arm.channels, training=training), study.datalist(arm))


def train(study: Study, arm: Arm, fold: int) -> None:
    plan, files = study.plan, [BUNDLE / "configs" / "train.yaml", *arm.configs]
    if is_trained(study, arm, fold):
        print(f"Done before: {study.run(arm, fold)}")
        return
    overrides = {
        "bundle_root": BUNDLE,
        "datalist": study.datalist(arm),
        "fold": fold,
        "output_dir": study.run(arm, fold),
        "seed": plan.seed,
        "max_epochs": plan.epochs,
        "iterations_per_epoch": plan.iterations_per_epoch,
        "batch_size": plan.batch_size,
        "val_interval": plan.epochs,
        "resume": "true",
    }
    typed = [part for name, value in overrides.items() for part in (f"--{name}", value)]
    run(
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        json.dumps(list(map(str, files))),
        *typed,
    )


def is_trained(study: Study, arm: Arm, fold: int) -> bool:
    """Whether the last epoch was written; a training that was killed before goes on from ``last.pt``."""
    from medseg3d.engines.checkpoint import load_checkpoint

    last = study.run(arm, fold) / "last.pt"
    return last.is_file() and load_checkpoint(last)["epoch"] >= study.plan.epochs


def held_out(study: Study, fold: int) -> Path:
    return study.out / "held_out" / f"fold{fold}"


def link_held_out(study: Study) -> None:
    """A folder a fold, of links to the DICOM series of the patients that it holds out."""
    from medseg3d.datalist import validation_items
    from medseg3d.inference import find_cases

    cases = {case["case"]: case["image"] for case in find_cases(study.dicom, modality=MODALITIES)}
    for fold in range(study.plan.folds):
        held_out(study, fold).mkdir(parents=True, exist_ok=True)
        for item in validation_items(study.datalist(ARMS[0]), fold=fold):
            for stack in cases[item["case"]].stacks:
                link = held_out(study, fold) / f"{item['case']}_{stack.series.modality}"
                link.unlink(missing_ok=True)
                link.symlink_to(stack.frames[0].source.file.path.parent)


def segment(study: Study, arm: Arm, fold: int) -> None:
    from medseg3d.datalist import validation_items
    from medseg3d.engines import require_unseen

    weights = study.run(arm, fold) / "last.pt"
    require_unseen(weights, validation_items(study.datalist(arm), fold=fold))
    overlays = [part for path in arm.configs for part in ("--config-file", path)]
    medseg3d("segment", held_out(study, fold), study.masks(arm), "--bundle", BUNDLE, "--weights", weights, *overlays,
             "--formats", "nifti,seg,rtstruct", "--keep")  # fmt: skip


def check_dicom(study: Study) -> None:
    from sarcoma_results import read_back

    rows = [row for arm in ARMS for row in read_back(study.dicom, study.masks(arm), arm.title)]
    (study.out / "dicom_check.json").write_text(json.dumps(rows, indent=2) + "\n")
    wrong = [row for row in rows if not row["equal"] or row["foreign_references"] or row["dciodvfy_errors"]]
    validated = sum(row["dciodvfy_errors"] is not None for row in rows)
    print(f"{len(rows) - len(wrong)} of {len(rows)} objects equal the NIfTI mask voxel for voxel on the grid of the "
          f"original CT, and refer to its images only; {validated} were judged by dciodvfy.")  # fmt: skip
    for row in wrong:
        print(f"  {row}")
    if wrong:
        sys.exit("error: DICOM masks that do not lie on their series, see above.")


def evaluate(study: Study, arm: Arm) -> None:
    medseg3d("evaluate", study.masks(arm), study.datalist(arm), "--out", study.evaluation(arm), "--fold", "-1",
             "--name", arm.title)  # fmt: skip


def report(study: Study) -> None:
    from sarcoma_results import draw, summarise

    titles = {arm.name: arm.title for arm in ARMS}
    masks = {arm.name: study.masks(arm) for arm in ARMS}
    scores = study.evaluation(ARMS[0]) / "cases.csv"
    draw(study.datalist(ARMS[0]), masks, titles, study.out / "montage.png", scores=scores)
    text = summarise(study.out, titles)
    (study.out / "summary.md").write_text(text, encoding="utf-8")
    print(text)


# Running -------------------------------------------------------------------------------------------------------------


def say(line: str) -> None:
    print(f"\n{line}", flush=True)


def medseg3d(*arguments: Any) -> None:
    run(*MEDSEG3D, *arguments)


def run(*command: Any) -> None:
    """Show and run a command; a failure of it ends the study, its own message stands above."""
    words = [str(word) for word in command]
    print("+ " + shlex.join(["python", *words[1:]]), flush=True)
    # MONAI warns at every run that configurations are code; this one is the project's own.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore::UserWarning"}
    if subprocess.run(words, check=False, env=environment).returncode:
        sys.exit(f"error: {' '.join(words[1:5])} … failed; its own message stands above.")


if __name__ == "__main__":
    main()
