"""What people hand over: folders, lists and runs that match, and the seven ways in which they do not."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.errors import UsageError
from medseg3d.evaluation import find_labels, make_scoring, match_images, pair, patients_of, with_patients
from medseg3d.evaluation.scoring import score_files

SHAPE = (12, 10, 8)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
LABELS = "organ=1,tumour=2"


def organ(shift: int = 0) -> np.ndarray:
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[2 + shift : 8 + shift, 2:8, 2:6] = 1
    voxels[3 + shift : 5 + shift, 3:5, 3:5] = 2
    return voxels


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and references of the cases a to d, each of which matches."""
    for name in "abcd":
        save(tmp_path / "pred" / f"{name}.nii.gz", organ(1))
        save(tmp_path / "ref" / f"{name}.nii.gz", organ())
    return tmp_path / "pred", tmp_path / "ref"


def test_seven_bad_inputs_are_named_in_one_table_and_the_rest_is_evaluated(folders, tmp_path):
    predictions, references = folders
    for name in ("shape", "affine", "missing", "label", "float", "unreadable"):
        save(references / f"{name}.nii.gz", organ())
    save(predictions / "shape.nii.gz", organ()[:, :, :-1])
    shifted = AFFINE.copy()
    shifted[0, 3] = 5.0
    save(predictions / "affine.nii.gz", organ(), shifted)
    save(predictions / "extra.nii.gz", organ())
    save(predictions / "label.nii.gz", np.where(organ() == 2, 7, organ()).astype(np.uint8))
    save(predictions / "float.nii.gz", organ().astype(np.float32) * 0.5)
    (predictions / "unreadable.nii.gz").write_bytes(save(predictions / "x.nii.gz", organ()).read_bytes()[:60])
    (predictions / "x.nii.gz").unlink()

    result = run(predictions, references, "--labels", LABELS, "--out", tmp_path / "out")

    assert result.exit_code == 1
    codes = {
        "shape": "shape-mismatch",
        "affine": "grid-mismatch",
        "missing": "missing-prediction",
        "extra": "extra-prediction",
        "label": "label-unknown",
        "float": "label-not-integer",
        "unreadable": "unreadable",
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {p["case"]: p["code"] for p in summary["problems"]} == codes
    assert {p["severity"] for p in summary["problems"]} == {"error"}
    for case, code in codes.items():
        assert any(case in line and code in line for line in result.stdout.splitlines())
    messages = {p["case"]: p["message"] for p in summary["problems"]}
    assert "12×10×7 voxels, its reference (shape.nii.gz) 12×10×8" in messages["shape"]
    assert "5.00 mm away" in messages["affine"]
    assert "7 (8 voxels); named are organ = 1, tumour = 2" in messages["label"]
    assert "values are not integers" in messages["float"]
    # The others are there, in every file.
    assert (summary["cases"], summary["patients"]) == (4, 4)
    assert set(summary["failed"]) == set(codes) - {"extra"}
    with (tmp_path / "out" / "cases.csv").open(newline="") as file:
        assert {row["case"] for row in csv.DictReader(file)} == set("abcd")
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


def test_all_well_is_exit_status_0(folders, tmp_path):
    result = run(*folders, "--labels", LABELS, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "4 cases (patients unknown: each case taken as one) scored. Report:" in result.stdout
    assert "Too few patients for intervals: 4, and 5 are needed." in result.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["patients_known"] is False
    assert "It is not known which patients they are of: each case is taken for one." in (
        tmp_path / "out" / "report.html"
    ).read_text("utf-8")
    (tmp_path / "p.csv").write_text("case,patient\na,P\nb,P\nc,P\nd,P\n")
    known = run(*folders, "--labels", LABELS, "--out", tmp_path / "out", "--patients", tmp_path / "p.csv")
    assert "4 cases of 1 patient scored." in known.stdout
    assert "Problems" not in result.stdout


@pytest.mark.parametrize("moved", [False, True], ids=["other orientation", "other place"])
def test_a_prediction_on_another_grid_is_resampled_when_asked(tmp_path, moved):
    flipped = AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = SHAPE[0] - 1.0
    if moved:
        flipped[0, 3] += 1.0  # one voxel to the right: the reference's grid, one voxel off
    save(tmp_path / "pred" / "a.nii.gz", organ()[::-1], flipped)
    save(tmp_path / "ref" / "a.nii.gz", organ(1) if moved else organ())
    arguments = (tmp_path / "pred", tmp_path / "ref", "--labels", LABELS, "--out", tmp_path / "out")
    assert run(*arguments).exit_code == 1
    result = run(*arguments, "--resample")
    assert result.exit_code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(p["code"], p["severity"]) for p in summary["problems"]] == [("resampled", "note")]
    assert summary["mean_dice"] == 1.0


def test_other_labels_may_be_background_and_whole_floats_are_labels(tmp_path):
    save(tmp_path / "pred" / "a.nii.gz", np.where(organ() == 2, 7, organ()).astype(np.float32))
    save(tmp_path / "ref" / "a.nii.gz", organ())
    result = run(
        tmp_path / "pred", tmp_path / "ref", "--labels", LABELS, "-o", tmp_path / "out", "--other-labels", "background"
    )
    assert result.exit_code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {p["code"] for p in summary["problems"]} == {"label-ignored", "label-as-float"}
    assert summary["labels"]["tumour"]["status"]["missed"] == 1


def test_two_files_and_other_formats(tmp_path):
    save(tmp_path / "mine.nii.gz", organ())
    image = sitk.GetImageFromArray(organ().T)
    image.SetSpacing((1.0, 1.0, 2.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # NIfTI's axes in ITK's frame
    sitk.WriteImage(image, str(tmp_path / "truth.nrrd"))
    result = run(tmp_path / "mine.nii.gz", tmp_path / "truth.nrrd", "--labels", LABELS, "-o", tmp_path / "out")
    assert result.exit_code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["mean_dice"], summary["inputs"][0]["case"]) == (1.0, "truth")


# Pairing -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(folders, tmp_path) -> Path:
    """A data list over the references: a and b in fold 0, c in fold 1, and d for testing."""
    training = [
        {"case": name, "patient": patient, "image": f"img/{name}.nii.gz", "label": f"ref/{name}.nii.gz", "fold": fold}
        for name, patient, fold in (("a", "P1", 0), ("b", "P2", 0), ("c", "P3", 1))
    ]
    testing = [{"case": "d", "patient": "P4", "image": "img/d.nii.gz", "label": "ref/d.nii.gz"}]
    content = {"name": "study", "modality": "CT", "labels": {"organ": 1, "tumour": 2}, "regions": {"whole": [1, 2]}}
    content |= {"channels": ["ct"], "training": training, "testing": testing}
    path = tmp_path / "study.json"
    path.write_text(json.dumps(content))
    return path


def keep(predictions: Path, names: str) -> None:
    for path in predictions.iterdir():
        if path.name[0] not in names:
            path.unlink()


@pytest.mark.parametrize(
    ("masks", "fold", "cases", "part", "extra"),
    [
        ("d", None, "d", "testing", ""),
        ("abcd", None, "d", "testing", "abc"),
        ("ab", None, "ab", "fold 0", ""),
        ("abc", None, "abc", "training", ""),
        ("ab", 1, "c", "fold 1", "ab"),
        ("abc", -1, "abc", "training", ""),
    ],
)
def test_the_part_of_a_data_list_that_predictions_are_of(folders, listed, masks, fold, cases, part, extra):
    keep(folders[0], masks)
    pairing = pair(folders[0], listed, fold=fold)
    assert "".join(case.case for case in pairing.cases) == cases
    assert pairing.part == part
    assert "".join(problem.case for problem in pairing.problems) == extra


def test_a_data_list_gives_patients_images_labels_and_regions(folders, listed, tmp_path):
    keep(folders[0], "ab")
    pairing = pair(folders[0], listed)
    assert [case.patient for case in pairing.cases] == ["P1", "P2"]
    assert pairing.cases[0].images == (tmp_path / "img" / "a.nii.gz",)
    assert find_labels(pairing, listed) == ({"organ": 1, "tumour": 2}, {"whole": (1, 2)})


def test_a_run_folder_stands_for_its_evaluation_and_maps_are_no_masks(folders, listed, tmp_path):
    evaluation = tmp_path / "fold0" / "evaluation"
    for name in ("a", "b", "a_probability"):
        save(evaluation / f"{name}.nii.gz", organ())
    (tmp_path / "fold0" / "run.json").write_text(json.dumps({"seed": 3, "config": {"fold": 0, "max_epochs": 5}}))
    (tmp_path / "fold0" / "best.pt").write_bytes(b"weights")
    result = run(tmp_path / "fold0", listed, "-o", tmp_path / "out")
    assert result.exit_code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["name"], summary["cases"], summary["run"]) == ("fold0", 2, str(tmp_path / "fold0"))
    assert [region["name"] for region in summary["regions"]] == ["organ", "tumour", "whole"]
    provenance = summary["provenance"]
    assert provenance["config"] == {"fold": 0, "max_epochs": 5}
    assert provenance["training"]["seed"] == 3
    assert provenance["split"]["part"] == "fold 0"
    assert len(provenance["weights_sha256"]) == len(provenance["data_sha256"]) == 64
    assert provenance["packages"]["scipy"]


def test_labels_of_sidecars_and_of_nobody(folders):
    predictions, references = folders
    with pytest.raises(UsageError, match=r"What the labels mean is not known.*--labels liver=1"):
        find_labels(pair(predictions, references), references)
    (predictions / "a.json").write_text(json.dumps({"labels": {"organ": 1, "tumour": 2}}))
    assert find_labels(pair(predictions, references), references)[0] == {"organ": 1, "tumour": 2}


def test_images_and_patients_are_found_by_name(folders, tmp_path):
    cases = pair(*folders).cases
    for name in ("a_0000", "a_0001", "b"):
        save(tmp_path / "img" / f"{name}.nii.gz", organ())
    matched = match_images(cases, tmp_path / "img")
    assert [len(case.images) for case in matched] == [2, 1, 0, 0]
    (tmp_path / "patients.csv").write_text("case,patient\na,P\nb,P\nc,Q\nd,Q\n")
    found = patients_of(str(tmp_path / "patients.csv"), cases)
    assert [case.patient for case in with_patients(cases, found)] == ["P", "P", "Q", "Q"]
    assert patients_of("^(.)", cases)["c"] == "c"
    with pytest.raises(UsageError, match="names no patient for 3 cases"):
        patients_of("^(a)", cases)
    with pytest.raises(UsageError, match="regular expression"):
        patients_of("(", cases)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pred", "nowhere"), "nowhere: no such file or folder"),
        (("pred", "ref", "--fold", "0", "--labels", LABELS), "--fold 0 needs a data list"),
        (("empty", "ref", "--labels", LABELS), "no volume"),
        (("pred", "ref", "--labels", LABELS, "--regions", "whole=1+9"), "Region 'whole' names the ids"),
        (("pred", "ref", "--labels", "x=1,y=1,z=2"), "x and y share the id 1"),
        (("pred", "ref", "--labels", LABELS, "--lesions", "cyst"), "there is no label or region 'cyst'"),
        (("pred", "ref", "--labels", LABELS, "--tolerance", "much"), "--tolerance 'much' cannot be read"),
        (("pred", "ref", "--labels", LABELS, "--run", "pred"), "pred is no run folder"),
        (("pred", "ref", "--labels", LABELS, "--tolerance", "-1"), "each must be a distance of 0 mm or more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_usage_says_what_to_do(folders, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    paths = [tmp_path / name for name in arguments[:2]]
    result = run(*paths, *arguments[2:], "-o", tmp_path / "out")
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_case_are_refused(folders):
    save(folders[0] / "a.nii", organ())
    with pytest.raises(UsageError, match=r"a.nii and a.nii.gz in .* are both case a"):
        pair(*folders)


def test_a_case_is_never_scored_without_its_reference(folders):
    case = pair(*folders).cases[0]
    case.reference.unlink()
    result = score_files(case, make_scoring({"organ": 1, "tumour": 2}, {}))
    assert (result.scores, result.failed.code) == ((), "no-reference")


@pytest.mark.real_data
def test_hippocampi_shifted_by_a_voxel(data_dir, tmp_path):
    """Real references, one stored as float, against themselves moved by 1 mm: distances of 1 mm, volumes unchanged."""
    references = data_dir / "mri_hippocampus"
    names = [f"hippocampus_{number}" for number in ("001", "003", "004", "006", "007", "011")]
    for name in names:
        image = nibabel.load(references / "labelsTr" / f"{name}.nii.gz")
        save(
            tmp_path / "pred" / f"{name}.nii.gz",
            np.roll(np.rint(image.dataobj), 1, axis=1).astype(np.uint8),
            image.affine,
        )
    result = run(tmp_path / "pred", references / "dataset.json", "-o", tmp_path / "out")
    assert result.exit_code == 1  # the other 202 cases have no prediction
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["cases"], len(summary["failed"])) == (6, 202)
    assert {p["case"] for p in summary["problems"] if p["code"] == "label-as-float"} == {"hippocampus_003"}
    for label in ("anterior", "posterior"):
        metrics = summary["labels"][label]["metrics"]
        assert metrics["hd_mm"]["max"] == metrics["centre_distance_mm"]["median"] == pytest.approx(1.0)
        assert metrics["volume_difference_ml"]["max"] == 0.0
        assert 0.7 < metrics["dice"]["min"] < metrics["dice"]["max"] < 0.95
