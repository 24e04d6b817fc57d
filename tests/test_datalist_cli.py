"""``medseg3d datalist``: exit status, files, and the line that says what is next."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from medseg3d.cli.datalist import app
from medseg3d.datalist import read_datalist
from medseg3d.errors import DataListError, UsageError


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if isinstance(result.exception, DataListError | UsageError):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def study(tmp_path) -> Path:
    """Six cases of three patients; each patient's first has a lesion (2)."""
    folder = tmp_path / "study"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for n in range(6):
        voxels = np.random.default_rng(n).normal(100, 10, (5, 6, 7)).astype(np.float32)
        label = np.zeros((5, 6, 7), np.uint8)
        label[0], label[1] = 1, 2 * (n % 2 == 0)
        for part, values in (("images", voxels), ("labels", label)):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / part / f"P{n // 2}_{n % 2}.nii.gz")
    return folder


@pytest.fixture
def listed(study) -> Path:
    path = study.parent / "lists" / "study.json"
    run("build", study, "-o", path, "--modality", "CT", "--labels", "liver=1,lesion=2", "--patient-regex", "^P[0-9]+")
    return path


def test_build(study, listed):
    result = run("build", study, "-o", listed, "--overwrite")
    assert "warning: The labels have no names: label_1, label_2 were found" in result.stdout
    assert "6 training cases of 6 patients; 0 for testing; labels label_1 = 1, label_2 = 2." in result.stdout
    assert result.stdout.splitlines()[-1] == f"Next: medseg3d datalist check {listed}"
    assert json.loads(listed.read_text())["training"][0]["image"] == "../study/images/P0_0.nii.gz"


def test_an_output_that_exists_is_kept(study, listed):
    before = listed.read_bytes()
    for command in (("build", study), ("split", listed)):
        with pytest.raises(UsageError, match=r"study.json exists already: choose another name, or pass --overwrite"):
            run(*command, "-o", listed)
    assert listed.read_bytes() == before


def test_check_of_good_data(listed):
    result = run("check", listed)
    assert "Checking cases: 6/6" in result.stdout  # lines, since this is no terminal
    assert result.stdout.splitlines()[-1] == (
        f"No errors in 6 cases. Next: medseg3d datalist split {listed} -o datalist.json"
    )


def test_check_of_bad_data_ends_with_1(study, listed, tmp_path):
    (study / "images" / "P1_0.nii.gz").unlink()
    report = tmp_path / "report.json"
    result = run("check", listed, "--json", report, status=1)
    assert "1 error: correct the data or the list, check again." in result.stdout
    assert json.loads(report.read_text())["findings"][0]["code"] == "missing"


def test_json_to_the_terminal_is_json_alone(listed):
    result = run("check", listed, "--json", "-")
    assert json.loads(result.stdout)["ok"] is True
    assert "No errors in 6 cases." in result.stderr


def test_many_findings_of_a_kind_are_summed_up(study, listed):
    for file in (study / "labels").iterdir():
        voxels = np.asanyarray(nibabel.load(file).dataobj).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), file)
    result = run("check", listed)
    assert result.stdout.count("stores its whole numbers as float32") == 5
    assert "1 more" in result.stdout
    assert "--json FILE writes all of them" in result.stdout


def test_split(listed, tmp_path):
    out = tmp_path / "folds.json"
    result = run("split", listed, "-o", out, "--folds", 3)
    datalist = read_datalist(out)
    assert {case.patient: case.fold for case in datalist.training}.keys() == {"P0", "P1", "P2"}
    assert datalist.folds == (0, 1, 2)
    rows = [line.strip("│").split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    assert {row[0].strip(): [int(number) for number in row[1:]] for row in rows} == {
        "cases": [2, 2, 2],
        "patients": [1, 1, 1],
        "cases with liver": [2, 2, 2],
        "cases with lesion": [1, 1, 1],
    }
    assert result.stdout.splitlines()[-1].endswith(f"--datalist {out} --fold 0")
    with pytest.raises(DataListError, match="is split already, into the folds 0, 1, 2"):
        run("split", out, "-o", tmp_path / "again.json")
    run("split", out, "-o", tmp_path / "again.json", "--folds", 2, "--replace")
    assert read_datalist(tmp_path / "again.json").folds == (0, 1)


def test_split_refuses_before_and_after_reading(study, listed, tmp_path):
    out = tmp_path / "folds.json"
    with pytest.raises(DataListError, match="3 patients cannot be split into 5 folds"):
        run("split", listed, "-o", out)
    (study / "images" / "P1_0.nii.gz").write_bytes((study / "images" / "P0_0.nii.gz").read_bytes())
    with pytest.raises(DataListError, match=r"P0_0 \(patient P0\) and P1_0 \(patient P1\) have the same image"):
        run("split", listed, "-o", out, "--folds", 3)
    (study / "labels" / "P1_0.nii.gz").write_text("broken")
    with pytest.raises(DataListError, match=r"1 cases cannot be read \(P1_0\): `medseg3d datalist check"):
        run("split", listed, "-o", out, "--folds", 3)
    assert not out.exists()


@pytest.mark.parametrize("command", ["build", "check", "split"])
def test_help_has_examples(command):
    assert f"medseg3d datalist {command}" in run(command, "--help").stdout


@pytest.mark.real_data
def test_hippocampus_from_folder_to_folds(data_dir, tmp_path):
    run("build", data_dir / "mri_hippocampus", "-o", tmp_path / "list.json")
    run("check", tmp_path / "list.json", status=0)
    run("split", tmp_path / "list.json", "-o", tmp_path / "folds.json")
    datalist = read_datalist(tmp_path / "folds.json")
    assert sorted(sum(case.fold == fold for case in datalist.training) for fold in range(5)) == [41, 41, 42, 42, 42]
