"""Scores of masks: numbers worked by hand, files without NaN, and failures that stop nobody else."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg3d.errors import CaseError
from medseg3d.evaluation import evaluate, score_case

LABELS = {"liver": 1, "lesion": 2}
SHAPE = (10, 10, 8)
# 0.8 × 0.8 × 2.5 mm: a voxel is 0.0016 ml.
AFFINE = np.diag([0.8, -0.8, 2.5, 1.0])
VOXEL_ML = 0.0016


def blocks(liver: slice | None, lesion: slice | None = None) -> np.ndarray:
    """Liver and lesion as slabs along the first axis, 4×5 voxels thick."""
    label = np.zeros(SHAPE, np.uint8)
    for value, slab in ((1, liver), (2, lesion)):
        if slab is not None:
            label[slab, :4, :5] = value
    return label


@pytest.fixture
def study(tmp_path):
    """Writes (reference, prediction) pairs as cases c0, c1, …; a prediction of None is not written."""
    (tmp_path / "masks").mkdir()

    def write(*pairs, affine=AFFINE) -> list[dict]:
        items = []
        for i, (reference, prediction) in enumerate(pairs):
            save(reference, tmp_path / f"label{i}.nii.gz")
            if prediction is not None:
                save(prediction, tmp_path / "masks" / f"c{i}.nii.gz", affine)
            items.append({"case": f"c{i}", "patient": f"p{i}", "label": str(tmp_path / f"label{i}.nii.gz")})
        return items

    return write


def save(voxels, path: Path, affine=AFFINE) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def strict_json(path: Path) -> dict:
    def refuse(constant: str):
        raise AssertionError(f"{constant} in {path.name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_one_case_by_hand(study, tmp_path):
    # Liver: 6 slabs in the reference, 4 in the prediction, 3 in both. Lesion: equal.
    reference, prediction = blocks(slice(0, 6), slice(8, 9)), blocks(slice(3, 7), slice(8, 9))
    liver, lesion = score_case(study((reference, prediction))[0], tmp_path / "masks" / "c0.nii.gz", labels=LABELS)
    assert (liver.case, liver.patient, liver.label_id, liver.label) == ("c0", "p0", "1", "liver")
    assert liver.dice == pytest.approx(2 * 3 / (6 + 4))
    assert liver.reference_ml == pytest.approx(6 * 20 * VOXEL_ML)
    assert liver.volume_ml == pytest.approx(4 * 20 * VOXEL_ML)
    assert (lesion.dice, lesion.status) == (1.0, "scored")
    assert lesion.volume_ml == lesion.reference_ml == pytest.approx(20 * VOXEL_ML)


def test_the_means_and_the_files(study, tmp_path):
    items = study(
        (blocks(slice(0, 4)), blocks(slice(2, 6))),  # liver 0.5, lesion in neither
        (blocks(slice(0, 4), slice(8, 9)), blocks(slice(0, 4))),  # liver 1, lesion missed
        (blocks(None), blocks(None, slice(0, 1))),  # liver in neither, lesion spurious
    )
    summary = evaluate(items, tmp_path / "masks", labels=LABELS)
    assert summary.dice == {"liver": pytest.approx(0.75), "lesion": 0.0}
    assert summary.mean_dice == pytest.approx(0.375)
    assert summary.failed == {}

    table = rows(tmp_path / "masks")
    assert list(table[0]) == [
        "case", "patient", "label_id", "label", "status", "dice", "iou", "sensitivity", "precision", "specificity",
        "volume_ml", "reference_ml", "volume_difference_ml", "relative_volume_difference", "hd_mm", "hd95_mm",
        "hd95_weighted_mm", "assd_mm", "nsd", "nsd_tolerance_mm", "centre_distance_mm",
    ]  # fmt: skip
    statuses = {(row["case"], row["label"]): (row["status"], row["dice"]) for row in table}
    assert statuses == {
        ("c0", "liver"): ("scored", "0.5"),
        ("c0", "lesion"): ("both_empty", ""),
        ("c1", "liver"): ("scored", "1.0"),
        ("c1", "lesion"): ("missed", "0.0"),
        ("c2", "liver"): ("both_empty", ""),
        ("c2", "lesion"): ("spurious", "0.0"),
    }
    written = strict_json(tmp_path / "masks" / "summary.json")
    assert written["cases"] == 3
    assert written["mean_dice"] == pytest.approx(0.375)
    none = {"scored": 0, "missed": 0, "spurious": 0, "both_empty": 0}
    assert written["labels"]["liver"]["status"] == none | {"scored": 2, "both_empty": 1}
    assert written["labels"]["lesion"]["status"] == none | {"missed": 1, "spurious": 1, "both_empty": 1}
    assert (written["labels"]["liver"]["dice_mean"], written["headline"]["missed"]) == (0.75, 1)
    distances = written["labels"]["lesion"]["metrics"]["hd95_mm"]
    assert (distances["n"], distances["infinite"], distances["undefined"]) == (2, 2, 1)
    assert (distances["mean"], distances["median"], distances["status"]) == (None, None, "infinite")
    infinite = {row["case"]: row["hd95_mm"] for row in table if row["label"] == "lesion"}
    assert infinite == {"c0": "", "c1": "inf", "c2": "inf"}


def test_a_label_that_no_case_has_is_null_and_leaves_the_mean_alone(study, tmp_path):
    summary = evaluate(
        study((blocks(slice(0, 4)),) * 2), tmp_path / "masks", labels=LABELS, output_dir=tmp_path / "out"
    )
    assert math.isnan(summary.dice["lesion"])
    assert summary.mean_dice == 1.0
    written = strict_json(tmp_path / "out" / "summary.json")
    assert written["labels"]["lesion"]["dice_mean"] is None
    assert not (tmp_path / "masks" / "summary.json").exists()


def test_nothing_at_all_is_null_too(study, tmp_path):
    evaluate(study((blocks(None),) * 2), tmp_path / "masks", labels=LABELS)
    assert strict_json(tmp_path / "masks" / "summary.json")["mean_dice"] is None


def test_cases_that_fail_are_named_and_the_others_scored(study, tmp_path):
    good, half = blocks(slice(0, 4)), blocks(slice(0, 4)).astype(np.float32) / 2
    items = study((good, good), (good, None), (good, good), (good, half), (good, good))
    save(good, tmp_path / "masks" / "c2.nii.gz", AFFINE + 3.0 * np.eye(4, k=3))
    del items[4]["label"]
    with pytest.raises(CaseError) as raised:
        evaluate(items, tmp_path / "masks", labels=LABELS)
    message = str(raised.value)
    assert message.startswith("4 of 5 cases could not be scored:")
    assert "c1: " in message
    assert "c1.nii.gz: no such file" in message
    assert "c2: c2.nii.gz lies up to 3.00 mm away from its reference (label2.nii.gz;" in message
    assert "c3.nii.gz: label values are not integers" in message
    assert "c4: The data list names no reference label" in message
    assert [row["case"] for row in rows(tmp_path / "masks")] == ["c0", "c0"]
    written = strict_json(tmp_path / "masks" / "summary.json")
    assert written["mean_dice"] == 1.0
    assert set(written["failed"]) == {"c1", "c2", "c3", "c4"}


def test_masks_of_another_shape_are_refused(study, tmp_path):
    items = study((blocks(slice(0, 4)), blocks(slice(0, 4))[:, :, :-1]))
    with pytest.raises(CaseError, match=r"c0.nii.gz has 10×10×7 voxels, its reference \(label0.nii.gz\) 10×10×8"):
        evaluate(items, tmp_path / "masks", labels=LABELS)


def test_a_case_without_patient_is_its_own_patient(study, tmp_path):
    item = study((blocks(slice(0, 4)),) * 2)[0]
    del item["patient"]
    assert score_case(item, tmp_path / "masks" / "c0.nii.gz", labels=LABELS)[0].patient == "c0"


def test_labels_weigh_alike_however_many_cases_have_them(study, tmp_path):
    full, half, nothing = blocks(slice(0, 4)), blocks(slice(2, 6)), blocks(None)
    both = blocks(slice(0, 4), slice(8, 9))
    summary = evaluate(
        study((full, full), (full, half), (both, full), (nothing, nothing)), tmp_path / "masks", labels=LABELS
    )
    assert summary.dice == {"liver": pytest.approx((1 + 0.5 + 1) / 3), "lesion": 0.0}
    assert summary.mean_dice == pytest.approx((2.5 / 3 + 0.0) / 2)
