"""A network with regions, from the plan to one shipped bundle, with old ids, unlabelled voxels and missing channels."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from monai.bundle import run as run_monai_bundle
from typer.testing import CliRunner

from medseg3d.bundles import check_bundle
from medseg3d.cli import app
from medseg3d.crossval import read_study
from medseg3d.crossval.candidates import Candidate
from medseg3d.crossval.prediction import predict_folds
from medseg3d.crossval.ship import ship
from medseg3d.datalist import read_datalist, split, write_datalist
from medseg3d.inference.run import run_bundle
from medseg3d.labels import repainting

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "mri_tumor_segmentation"
LABELS = {"necrotic_core": 1, "oedema": 2, "enhancing": 4}
REGIONS = {"whole_tumour": [1, 2, 4], "tumour_core": [1, 4], "enhancing_tumour": [4]}
QUICK = {"spacing": [8, 8, 8], "batch_size": 1, "max_epochs": 1, "iterations_per_epoch": 1, "val_interval": 1}


def command(*words: object) -> str:
    found = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


@pytest.fixture(scope="module")
def planned(brats_datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with the plans 3d and 2d, of networks that are small enough to be trained at once."""
    folder = tmp_path_factory.mktemp("regions")
    write_datalist(split(read_datalist(brats_datalist), folds=2, seed=0, replace_existing=True), folder / "list.json")
    chosen = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
    command("plan", folder / "list.json", "--bundle", BUNDLE, "-o", folder / "study", "--workers", "1", *chosen)
    for file, id_ in (("plan.yaml", "network_def"), ("plan_2d.yaml", "network_def::network")):
        path = folder / "study" / file
        network = yaml.safe_load(path.read_text())["network_def"]
        stages = len(network.get("network", network)["filters"])
        path.write_text(path.read_text() + f"\n{id_}::filters: {[4] * stages}\ndevice: cpu\n")
    return folder / "study"


def train(study_folder: Path) -> None:
    """As ``medseg3d crossval`` trains, but in this process: to start one takes longer than to train so little."""
    study = read_study(study_folder)
    for one in study.runs():
        run_monai_bundle(
            run_id="training",
            config_file=[str(BUNDLE / "configs" / "train.yaml"), str(one.configuration.plan)],
            bundle_root=str(BUNDLE),
            datalist=str(study.datalist),
            fold=one.fold,
            output_dir=str(one.folder),
            resume=True,
            logging_file=False,
        )


def test_from_the_plan_to_one_bundle_that_segments(planned: Path, brats_datalist: Path, tmp_path: Path):
    plan = yaml.safe_load((planned / "plan.yaml").read_text())
    assert (plan["labels"], plan["regions"], plan["ignore_label"]) == (LABELS, REGIONS, 9)
    train(planned)
    said = command("crossval", planned, "--workers", "1", "--uncertainty")
    assert "bundle" in said
    content = json.loads((planned / "crossval" / "crossval.json").read_text())
    assert {c["name"].removesuffix(", mirrored") for c in content["candidates"]} == {"3d", "2d", "3d+2d"}
    assert list(content["calibration"]["ece"]) == list(REGIONS)
    assert {trial["label"] for trial in content["corrections"]} == set(REGIONS)
    assert set(content["dice"]) == {*LABELS, *REGIONS}
    assert check_bundle(planned / "bundle") == []

    words = ("segment", brats_datalist, tmp_path / "out", "--bundle", planned / "bundle", "--probability")
    command(*words, "--uncertainty", "--device", "cpu")
    case = json.loads(brats_datalist.read_text())["testing"][0]["case"]
    mask = nibabel.load(tmp_path / "out" / f"{case}.nii.gz")
    assert set(np.unique(mask.dataobj).tolist()) <= {0, 1, 2, 4}
    assert nibabel.load(tmp_path / "out" / f"{case}_probability.nii.gz").shape == (*mask.shape, len(REGIONS))
    maps = [np.asarray(nibabel.load(tmp_path / "out" / f"{case}_{name}.nii.gz").dataobj)
            for name in ("uncertainty", "mutual_information")]  # fmt: skip
    assert all(0 <= values.min() <= values.max() <= 1 for values in maps)
    sidecar = json.loads((tmp_path / "out" / f"{case}.json").read_text())
    assert (sidecar["labels"], list(sidecar["expected_dice"])) == (LABELS, list(REGIONS))
    assert len(sidecar["members_sha256"]) == len(content["shipped"]["weights"])
    assert "FLAIR: missing, the network was given zeros" in sidecar["findings"]

    ensemble_of_both_plans(planned, brats_datalist, tmp_path / "both", case)


def ensemble_of_both_plans(planned: Path, datalist: Path, out: Path, case: str) -> None:
    """3D and 2D averaged over mirror images, calibrated, and the largest tumour kept as a whole."""
    study = read_study(planned)
    shipped = ship(
        study,
        predict_folds(study, ignore_label=9),
        Candidate(("3d", "2d"), mirrored=True),
        corrections=[{
            "_target_": "medseg3d.inference.KeepLargestComponentd", "keys": "pred", "regions": "@regions",
            "applied_regions": "whole_tumour",
        }],
        temperature=2.0,
        evaluation=study.output / "evaluation",
        float16=False,
    )  # fmt: skip
    assert shipped.warnings == ()
    assert len(shipped.weights) == 4
    run_bundle(shipped.path, datalist, out, save_probability=True, device="cpu")
    probabilities = np.asarray(nibabel.load(out / f"{case}_probability.nii.gz").dataobj)
    found = np.asarray(nibabel.load(out / f"{case}.nii.gz").dataobj)
    painted = np.zeros_like(found)
    for place, name in enumerate(REGIONS):
        painted[probabilities[..., place] > 0.5] = repainting(REGIONS, name).paints
    # Files hold probabilities in steps: near ½ these may differ from what was painted.
    unsure = (np.abs(probabilities - 0.5) < 0.01).any(axis=-1)
    kept = (found > 0) | unsure
    np.testing.assert_array_equal(found[kept & ~unsure], painted[kept & ~unsure])
