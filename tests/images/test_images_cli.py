"""``medseg3d datalist`` on 2D images: exit status, files, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medseg3d.cli.datalist import app
from medseg3d.errors import DataListError, UsageError
from medseg3d.images import read_image_list


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if isinstance(result.exception, DataListError | UsageError):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve images of two classes and six patients."""
    rows = ["image,label,patient"]
    for n in range(12):
        path = tmp_path / "d" / "ab"[n % 2] / f"i{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (8, 9), np.uint8)).save(path)
        rows.append(f"{path.parent.name}/{path.name},{'ab'[n % 2]},P{n // 2}")
    (tmp_path / "d" / "m.csv").write_text("\n".join(rows))
    return tmp_path / "d"


def test_build_check_split(folder, tmp_path):
    out, folds = tmp_path / "lists" / "a.json", tmp_path / "folds.json"
    result = run("build", folder, "-o", out)
    assert "Wrote " in result.stdout
    assert "classification; 12 training images of 6 patients; 0 for testing; labels a = 0, b = 1." in result.stdout
    assert result.stdout.splitlines()[-1] == f"Next: medseg3d datalist split {out} -o folds.json"
    result = run("check", out)
    assert "Rows × columns: min 8 × 9, median 8 × 9, max 8 × 9; 0 of 12 images in colour." in result.stdout
    assert f"No errors in 12 images. Next: medseg3d datalist split {out} -o folds.json" in result.stdout
    result = run("split", out, "-o", folds, "--folds", 3)
    assert "3 folds of 12 images, seed 0." in result.stdout
    assert f"--datalist {folds} --fold 0" in result.stdout.splitlines()[-1]
    rows = [line.strip("│").split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    assert {row[0].strip(): [int(number) for number in row[1:]] for row in rows} == {
        "images": [4, 4, 4], "patients": [2, 2, 2], "images with a": [2, 2, 2], "images with b": [2, 2, 2],
    }  # fmt: skip


def test_a_split_by_shares_in_one_go_or_later(folder, tmp_path):
    run("build", folder, "-o", tmp_path / "a.json", "--split", "50/25/25")
    run("build", folder, "-o", tmp_path / "b.json")
    run("split", tmp_path / "b.json", "-o", tmp_path / "c.json", "--shares", "50/25/25")
    at_once, later = read_image_list(tmp_path / "a.json"), read_image_list(tmp_path / "c.json")
    assert (at_once.training, at_once.testing) == (later.training, later.testing)
    with pytest.raises(DataListError, match=r"a.json is split already, into the folds 0, 1"):
        run("split", tmp_path / "a.json", "-o", tmp_path / "d.json")
    run("split", tmp_path / "a.json", "-o", tmp_path / "d.json", "--folds", 2, "--replace")
    assert read_image_list(tmp_path / "d.json").folds == (0, 1)


def test_nothing_is_written_where_there_are_errors(folder, tmp_path):
    broken = folder / "a" / "i2.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    out, report = tmp_path / "a.json", tmp_path / "report.json"
    result = run("build", folder, "-o", out, "--json", report, status=1)
    assert "m.csv, row 4: " in result.stdout
    assert "1 error: nothing is written." in result.stdout
    assert not out.exists()
    values = json.loads(report.read_text())
    assert (values["ok"], values["findings"][0]["code"]) == (False, "unreadable")


def test_check_ends_with_1_and_split_refuses_what_is_damaged(folder, tmp_path):
    out = tmp_path / "a.json"
    run("build", folder, "-o", out)
    (folder / "b" / "i3.png").unlink()
    result = run("check", out, "--json", "-", status=1)
    assert json.loads(result.stdout)["counts"] == {"error": 1, "warning": 0, "note": 0}
    with pytest.raises(DataListError, match=r"a.json has 1 errors: i3.png: .*i3.png: no such file"):
        run("split", out, "-o", tmp_path / "b.json")


def test_options_that_mean_nothing_together(folder, tmp_path):
    out = tmp_path / "a.json"
    for options, message in [
        (["--split", "70/30", "--folds", 3], "Give one of --split, --folds and --split-files"),
        (["--task", "regression"], "--task 'regression' is none of classification, detection, segmentation_2d"),
        (["--folds", 1], "a split needs at least 2"),
        (["--patient-regex", "("], "is no regular expression"),
    ]:
        with pytest.raises(UsageError, match=message):
            run("build", folder, "-o", out, *options)
    with pytest.raises(DataListError, match="no layout of 2D images that is known for detection"):
        run("build", folder, "-o", out, "--task", "detection")
    out.write_text("{}")
    with pytest.raises(UsageError, match=r"a.json exists already"):
        run("build", folder, "-o", out)


def test_volumes_are_not_taken_for_slices(tmp_path):
    """But their slices may be asked for."""
    import nibabel

    for part in ("images", "labels"):
        (tmp_path / "d" / part).mkdir(parents=True)
        for n in range(2):
            voxels = np.random.default_rng(n).normal(100, 10, (5, 6, 7)).astype(np.float32)
            values = voxels if part == "images" else (voxels > 100).astype(np.uint8)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "d" / part / f"v{n}.nii.gz")
    run("build", tmp_path / "d", "-o", tmp_path / "volumes.json", "--modality", "MRI")
    assert len(json.loads((tmp_path / "volumes.json").read_text())["training"]) == 2
    run("build", tmp_path / "d", "-o", tmp_path / "slices.json", "--task", "segmentation_2d", "--folds", 2)
    slices = read_image_list(tmp_path / "slices.json")
    assert len(slices.training) == 14
    assert {i.patient: i.fold for i in slices.training} in ({"v0": 0, "v1": 1}, {"v0": 1, "v1": 0})
    with pytest.raises(UsageError, match="--shares divides 2D images"):
        run("split", tmp_path / "volumes.json", "-o", tmp_path / "x.json", "--shares", "70/30")
