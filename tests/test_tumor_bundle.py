"""mri_tumor_segmentation on what real studies are like: BraTS's older ids, partly annotated, with channels missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigParser, run
from monai.transforms import Compose

from medseg3d.bundles import check_bundle
from medseg3d.errors import ConfigError
from medseg3d.inference.run import run_bundle
from medseg3d.phantom import TUMOUR_REGIONS

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "mri_tumor_segmentation"
FILE_LABELS = {"necrotic_core": 1, "oedema": 2, "enhancing": 4}
IGNORED = 9


def overrides(datalist: Path, out: Path) -> dict[str, Any]:
    return {
        "bundle_root": str(BUNDLE), "datalist": str(datalist), "output_dir": str(out), "device": "cpu",
        "file_labels": FILE_LABELS, "ignore_label": IGNORED, "spacing": [8.0] * 3, "patch_size": [32] * 3,
        "network_def::filters": [4] * 5, "batch_size": 2, "max_epochs": 1, "iterations_per_epoch": 2, "val_interval": 1,
    }  # fmt: skip


def files(*names: str) -> list[str]:
    return [str(BUNDLE / "configs" / f"{name}.yaml") for name in names]


@pytest.mark.parametrize("ignored", [255, 300])
def test_ignored_voxels_keep_their_id_in_training(tmp_path: Path, ignored: int):
    voxels = np.zeros((4, 4, 4), np.int16)
    voxels[:2], voxels[3] = ignored, 2
    for name, content in (("image", voxels.astype(np.float32)), ("label", voxels)):
        nibabel.save(nibabel.Nifti1Image(content, np.eye(4)), tmp_path / f"{name}.nii.gz")
    parser = ConfigParser()
    parser.read_config(files("train"))
    parser["ignore_label"] = ignored
    prepare = Compose(parser.get_parsed_content("train#deterministic_transforms"))
    case = {"image": [str(tmp_path / "image.nii.gz")] * 4, "label": str(tmp_path / "label.nii.gz")}
    assert prepare(case)["label"].unique().tolist() == [0, 2, ignored]


@pytest.mark.parametrize("variant", ["regions", "labels_softmax"])
def test_it_trains_evaluates_and_segments(brats_datalist: Path, tmp_path: Path, variant: str):
    overlay = [variant] if variant != "regions" else []
    given = overrides(brats_datalist, tmp_path / "run")
    run(run_id="training", config_file=files("train", *overlay), logging_file=False, **given)
    (header, row) = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    scored = list(TUMOUR_REGIONS) if variant == "regions" else list(FILE_LABELS)
    assert [name for name in header.split(",") if name.startswith("val_mean_dice_")] == [
        f"val_mean_dice_{name}" for name in scored
    ]
    assert np.isfinite(float(dict(zip(header.split(","), row.split(","), strict=True))["train_loss"]))

    run(run_id="evaluating", config_file=files("train", *overlay, "evaluate"), logging_file=False, **given)
    evaluation = tmp_path / "run" / "evaluation"
    summary = json.loads((evaluation / "summary.json").read_text())
    assert (summary["cases"], set(summary["labels"])) == (1, {*FILE_LABELS, *TUMOUR_REGIONS})

    config_files = [*map(Path, files(*overlay)), tmp_path / "small.yaml"]
    (tmp_path / "small.yaml").write_text(
        f"spacing: [8.0, 8.0, 8.0]\npatch_size: [32, 32, 32]\nnetwork_def::filters: [4, 4, 4, 4, 4]\n"
        f"file_labels: {json.dumps(FILE_LABELS)}\n"
    )
    weights = tmp_path / "run" / "best.pt"
    run_bundle(
        BUNDLE, brats_datalist, tmp_path / "out", weights=weights, config_files=config_files, save_probability=True
    )
    case = json.loads(brats_datalist.read_text())["testing"][0]["case"]
    mask = nibabel.load(tmp_path / "out" / f"{case}.nii.gz")
    assert set(np.unique(mask.dataobj).tolist()) <= {0, 1, 2, 4}
    probability = nibabel.load(tmp_path / "out" / f"{case}_probability.nii.gz")
    assert probability.shape == (*mask.shape, 3 if variant == "regions" else 4)
    sidecar = json.loads((tmp_path / "out" / f"{case}.json").read_text())
    assert sidecar["labels"] == FILE_LABELS
    assert "FLAIR: missing, the network was given zeros" in sidecar["findings"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"missing_channels": False}, r"mri_tumor_001 lacks FLAIR; mri_tumor_002 lacks T1c.*--missing_channels true"),
        ({"file_labels": "@labels"}, r"the labels are .*Pass --file_labels \"\{.*'?enhancing'?: 4"),
        ({"ignore_label": None}, r"id 9 is labelled by nobody.*Pass --ignore_label 9"),
        ({"ignore_label": 3}, r"ignore_label is 3"),
        (
            {"regions": {"whole_tumour": [1, 2, 3], "tumour_core": [1], "enhancing_tumour": [3]}},
            r"the regions are .*Pass --regions \"\{'whole_tumour': \[1, 2, 3\], 'tumour_core': \[1, 3\]",
        ),
        ({"regions": {"whole_tumour": [1, 2, 3], "tumour_core": [1]}}, r"holds the ids \[2, 3\] that no later region"),
        ({"regions": {"whole_tumour": 3}}, "'whole_tumour' is 3, no list of label ids"),
        ({"network_def::out_channels": 4}, "there are 3 regions, but the network has 4 output channels"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_stops_before_training(
    brats_datalist: Path, tmp_path: Path, override: dict[str, Any], message: str
):
    given = overrides(brats_datalist, tmp_path / "run") | override
    with pytest.raises(RuntimeError) as caught:
        run(run_id="training", config_file=files("train"), logging_file=False, **given)
    assert isinstance(caught.value.__cause__, ConfigError)
    assert re.search(message, str(caught.value.__cause__), re.DOTALL)
    assert list(tmp_path.iterdir()) == []


def test_the_bundle_and_its_overlays_check():
    assert check_bundle(BUNDLE) == []
