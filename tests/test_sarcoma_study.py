"""The study's script: what it says without data, and what is made of masks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"ct_pet": "CT + PET", "ct": "CT alone"}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch):
    """The module beside the script."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import sarcoma_results

    return sarcoma_results


@pytest.mark.parametrize("data", [None, "/nowhere"], ids=["unset", "wrong"])
def test_without_the_data_one_line_says_what_to_do(data, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "MEDSEG3D_DATA"} | (
        {"MEDSEG3D_DATA": data} if data else {}
    )
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "sarcoma_study.sh")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    folder = f"{data or 'MEDSEG3D_DATA'}/ct_pet_mr_sarcoma"
    assert done.stderr == f"error: no folder {folder}. Set MEDSEG3D_DATA to the folder that holds ct_pet_mr_sarcoma/.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_another_length_is_not_mixed_in(tmp_path):
    (tmp_path / "plan.json").write_text("{}\n")
    command = [sys.executable, str(ROOT / "scripts" / "sarcoma_study.py"), str(tmp_path), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "holds a study of another length" in done.stderr


def write(path: Path, voxels: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Stored from left to right and front to back, as DICOM has it.
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-2.0, -2.0, 3.0, 1.0])), path)
    return str(path)


def cube(start: int, stop: int) -> np.ndarray:
    mask = np.zeros((20, 20, 12), np.uint8)
    mask[start:stop, 5:15, 3:9] = 1
    return mask


@pytest.fixture
def study(tmp_path) -> Path:
    """Six patients: the arm with PET is right in all but one, where it misses; the other is two voxels off in all."""
    from medseg3d.evaluation import compare_runs, evaluate

    items = []
    for number in range(6):
        case = f"P{number}_1_CT"
        image = [write(tmp_path / "data" / f"{case}_{i}.nii.gz", np.zeros((20, 20, 12), np.float32)) for i in (0, 1)]
        label = write(tmp_path / "data" / f"{case}.nii.gz", cube(5, 15))
        items.append({"case": case, "patient": f"P{number}", "image": image, "label": label})
        write(tmp_path / "masks" / "ct_pet" / f"{case}.nii.gz", cube(5, 15) if number else cube(0, 0))
        write(tmp_path / "masks" / "ct" / f"{case}.nii.gz", cube(7, 17))
    for arm, title in TITLES.items():
        out = tmp_path / "evaluation" / arm
        evaluate(items, tmp_path / "masks" / arm, labels={"tumour": 1}, output_dir=out, name=title)
    compare_runs([tmp_path / "evaluation" / arm for arm in TITLES], output_dir=tmp_path / "comparison", metric="dice")
    content = {"name": "s", "labels": {"tumour": 1}, "channels": ["CT", "PET"], "training": items}
    (tmp_path / "list.json").write_text(json.dumps(content))
    return tmp_path


def test_the_summary_says_what_the_masks_are(study, results):
    text = results.summarise(study, TITLES)
    rows = [line for line in text.splitlines() if line.startswith("| P")]
    assert rows[0] == "| P0 | 7 | 0.000 | 0.800 | 0 | 7 | inf | 4.0 |"
    assert rows[1] == "| P1 | 7 | 1.000 | 0.800 | 7 | 7 | 0.0 | 4.0 |"
    assert "1 of 6 tumours missed" in text
    # (5 · 1 + 0) / 6 - 0.8, and the median where a distance is infinite.
    assert "- CT + PET minus CT alone, Dice: mean +0.033" in text
    assert "better in 5, worse in 1 of 6" in text
    assert "HD95, mm: median -4.0" in text


def test_the_picture_shows_three_patients(study, results):
    path = study / "montage.png"
    masks = {arm: study / "masks" / arm for arm in TITLES}
    results.draw(study / "list.json", masks, TITLES, path, scores=study / "evaluation" / "ct_pet" / "cases.csv")
    from PIL import Image

    with Image.open(path) as picture:
        assert picture.size == (1200, 960)
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
