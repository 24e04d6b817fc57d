"""summary.json and the tables beside it: numbers worked by hand, subgroups, lesions, calibration, processes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medseg3d.errors import UsageError
from medseg3d.evaluation import EvaluationCase, evaluate, files, make_scoring, read_attributes, run_evaluation, scoring
from medseg3d.evaluation.attributes import binned
from medseg3d.evaluation.files import read_cases
from medseg3d.evaluation.options import parse_regions, parse_tolerance
from medseg3d.statistics import mean_intervals

SHAPE = (16, 12, 10)
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])
LABELS = {"edema": 1, "core": 2}


def blocks(*parts: tuple[int, slice], depth: int = 4) -> np.ndarray:
    voxels = np.zeros(SHAPE, np.uint8)
    for value, along in parts:
        voxels[along, 2:8, 2 : 2 + depth] = value
    return voxels


@pytest.fixture
def study(tmp_path):
    def write(pairs, patients=None) -> list[EvaluationCase]:
        cases = []
        for i, sides in enumerate(pairs):
            paths = [tmp_path / f"{side}{i}.nii.gz" for side in ("ref", "pred")]
            for path, voxels in zip(paths, sides, strict=True):
                nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), path)
            cases.append(EvaluationCase(f"c{i}", patients[i] if patients else f"p{i}", *paths))
        return cases

    return write


def strict(path: Path) -> dict:
    def refuse(constant: str):
        raise AssertionError(f"{constant} in {path.name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def run(cases, folder, regions=None, **options) -> dict:
    keys = ("tolerance_mm", "lesions", "resample", "calibration")
    settings = {key: options.pop(key) for key in keys if key in options}
    run_evaluation(
        cases, scoring=make_scoring(LABELS, regions or {}, **settings), output_dir=folder, name="A", **options
    )
    return strict(folder / "summary.json")


def test_regions_hold_their_labels_and_do_not_count_in_the_headline(study, tmp_path):
    # Edema is cut into core and edema; the whole is found exactly, its parts are half wrong.
    reference, prediction = blocks((1, slice(0, 8)), (2, slice(4, 8))), blocks((1, slice(0, 8)), (2, slice(6, 8)))
    summary = run(study([(reference, prediction)] * 2), tmp_path / "out", {"whole": (1, 2)})
    dice = {name: label["dice_mean"] for name, label in summary["labels"].items()}
    assert dice == {"edema": pytest.approx(2 * 4 / 10), "core": pytest.approx(2 * 2 / 6), "whole": 1.0}
    assert summary["mean_dice"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert summary["regions"][2] == {"name": "whole", "ids": [1, 2]}
    # 24 voxels a slab, two cases: 4 slabs of edema right, 2 of core right, 2 of core taken for edema.
    confusion = summary["dataset"]["confusion"]
    assert confusion["labels"] == ["background", "edema", "core"]
    assert np.array(confusion["matrix"])[1:, 1:].tolist() == [[192, 0], [96, 96]]
    assert summary["dataset"]["miou"] == pytest.approx((4 / 6 + 2 / 4) / 2)
    with (tmp_path / "out" / "cases.csv").open(newline="") as file:
        assert [row["label_id"] for row in csv.DictReader(file)] == ["1", "2", "1+2"] * 2


def test_intervals_are_over_patients(study, tmp_path):
    halves = [blocks((1, slice(0, 8))), blocks((1, slice(4, 12)))]
    pairs = [(halves[0], halves[i % 3 == 0]) for i in range(10)]
    patients = list("aabbccddee")
    summary = run(study(pairs, patients), tmp_path / "out")
    assert (summary["cases"], summary["patients"], summary["patients_known"]) == (10, 5, True)
    dice = summary["labels"]["edema"]["metrics"]["dice"]
    assert (dice["n"], dice["patients"]) == (10, 5)
    assert summary["headline"]["warning"].startswith("Few patients (5): intervals are too narrow")
    values = [1.0 if i % 3 else 0.5 for i in range(10)]
    assert dice["mean"] == pytest.approx(np.mean(values))
    assert dice["interval_mean"] == pytest.approx(mean_intervals(values, patients)[0])
    # Core is in no case: its Dice is undefined, and the headline is edema's alone.
    assert summary["labels"]["core"]["metrics"]["dice"]["undefined"] == 10
    assert summary["headline"]["value"] == dice["mean"]
    assert summary["headline"]["interval"] == pytest.approx(dice["interval_mean"])


def test_volumes_agree_but_for_a_bias(study, tmp_path):
    pairs = [(blocks((1, slice(0, n))), blocks((1, slice(0, n + 1)))) for n in (4, 6, 8, 10)]
    agreement = run(study(pairs), tmp_path / "out")["labels"]["edema"]["volume_agreement"]
    assert agreement["bias_ml"] == pytest.approx(0.024)  # one slab of 6 × 4 voxels
    assert agreement["limits_ml"] == pytest.approx([0.024, 0.024])
    assert 0.8 < agreement["icc"] < 1.0
    assert "ICC(2,1)" in agreement["icc_form"]


def test_lesions_are_counted_over_all_cases(study, tmp_path):
    two = blocks((2, slice(0, 3)), (2, slice(6, 9)))
    one_and_a_false_one = blocks((2, slice(0, 3)), (2, slice(12, 14)))
    cases = study([(two, one_and_a_false_one), (two, two)])
    summary = run(cases, tmp_path / "out", lesions=["core"])
    assert summary["lesions"] == {
        "core": {
            "reference": 4,
            "predicted": 4,
            "detected": 3,
            "false_positives": 1,
            "sensitivity": 0.75,
            "precision": 0.75,
            "f1": 0.75,
            "false_positives_per_case": 0.5,
        }
    }
    with (tmp_path / "out" / "lesions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows if row["case"] == "c0"] == ["matched", "missed", "false_positive"]
    assert (rows[2]["x_mm"], rows[2]["y_mm"]) == ("12.5", "4.5")
    table = read_cases(tmp_path / "out")
    assert table[table.label == "core"]["lesions_detected"].tolist() == [1, 2]
    assert table[table.label == "edema"]["lesions_detected"].isna().all()
    run(cases, tmp_path / "out")
    assert not (tmp_path / "out" / "lesions.csv").exists()


def test_subgroups_by_attribute_and_by_size(study, tmp_path):
    pairs = [
        (blocks((1, slice(0, 3 + i))), blocks((1, slice(0, 3 + i) if i % 2 else slice(1, 3 + i)))) for i in range(9)
    ]
    cases = study(pairs)
    lines = [f"c{i},{'north' if i % 2 else 'south'},{20 + i}" for i in range(8)]
    (tmp_path / "cases.csv").write_text("\n".join(["case,site,age", *lines]) + "\n")
    attributes, problems = read_attributes(tmp_path / "cases.csv", cases)
    assert [(p.case, p.code, p.severity) for p in problems] == [("c8", "no-attributes", "note")]
    summary = run(cases, tmp_path / "out", attributes=attributes, problems=problems)
    groups = summary["subgroups"]
    assert {value: label["edema"]["dice"]["n"] for value, label in groups["site"].items()} == {
        "north": 4,
        "south": 4,
        "unknown": 1,
    }
    assert groups["site"]["north"]["edema"]["dice"]["mean"] == 1.0
    assert [label["edema"]["dice"]["n"] for label in groups["age"].values()] == [3, 2, 3, 1]
    sizes = groups["reference volume"]
    assert list(sizes) == ["smallest third", "middle third", "largest third"]
    assert sizes["smallest third"]["edema"]["reference_ml"]["max"] == pytest.approx(5 * 0.024)


def test_unknown_attributes_are_a_group_and_single_ages_are_none(study, tmp_path):
    cases = study([(blocks(), blocks())] * 8)
    ages, doses = ["61", "NA", "70", "nan", "55.5", "48", "", "n/a"], ["1", "2", "1", "2", "1", "2", "2", "inf"]
    lines = [f"c{i},{age},{dose},{'NA' if i else 'a'}" for i, (age, dose) in enumerate(zip(ages, doses, strict=True))]
    (tmp_path / "x.csv").write_text("\n".join(["case,age,dose,site", *lines]) + "\n")
    attributes, _ = read_attributes(tmp_path / "x.csv", cases)
    # Four ages, all different: halves at their median, 58.25. Doses repeat, and are groups as they are.
    assert [attributes["age"][f"c{i}"] for i in range(8)] == [
        "over 58.2", "unknown", "over 58.2", "unknown", "up to 58.2", "up to 58.2", "unknown", "unknown"
    ]  # fmt: skip
    assert list(dict.fromkeys(attributes["age"].values())) == ["up to 58.2", "over 58.2", "unknown"]
    assert set(attributes["dose"].values()) == {"1", "2", "inf"}
    assert attributes["site"] == {"c0": "a"} | {f"c{i}": "unknown" for i in range(1, 8)}


def test_one_gap_among_many_ages_stops_nothing(study, tmp_path):
    cases = study([(blocks(), blocks())] * 30)
    lines = [f"c{i},{'NA' if i == 7 else 40 + i}" for i in range(30)]
    (tmp_path / "x.csv").write_text("\n".join(["case,age", *lines]) + "\n")
    groups = read_attributes(tmp_path / "x.csv", cases)[0]["age"]
    assert {name: list(groups.values()).count(name) for name in dict.fromkeys(groups.values())} == {
        "up to 50.3": 10, "50.3 to 59.7": 9, "over 59.7": 10, "unknown": 1
    }  # fmt: skip


def test_attributes_that_make_no_groups_are_refused(study, tmp_path):
    cases = study([(blocks(), blocks())] * 3)
    path = tmp_path / "x.csv"
    for content, message in (
        ("site\nnorth\n", "neither a column 'case' nor 'patient'"),
        ("case,site\nc0,a\nc0,b\n", "names c0 more than once"),
        ("case,site\nz,a\n", "names none of the cases"),
    ):
        path.write_text(content)
        with pytest.raises(UsageError, match=message):
            read_attributes(path, cases)
    assert list(dict.fromkeys(binned({str(i): float(i) for i in range(9)}).values())) == [
        "up to 2.67", "2.67 to 5.33", "over 5.33"
    ]  # fmt: skip


def test_calibration_of_sure_and_of_even_probabilities(study, tmp_path):
    truth = blocks((1, slice(0, 8)))
    cases = study([(truth, truth)])
    probability = np.stack([truth == 0, truth == 1, np.zeros(SHAPE)], axis=-1).astype(np.float32)
    path = tmp_path / "pred0_probability.nii.gz"
    nibabel.save(nibabel.Nifti1Image(probability, AFFINE), path)
    sure = run(cases, tmp_path / "out", calibration=True)["calibration"]["edema"]
    assert (sure["ece"], sure["brier"]) == (0.0, 0.0)
    assert sum(b["n"] for b in sure["bins"]) == truth.size  # the box and 10 mm around it are the whole picture
    nibabel.save(nibabel.Nifti1Image(np.full_like(probability, 0.5), AFFINE), path)
    even = run(cases, tmp_path / "out", calibration=True)["calibration"]["edema"]
    assert even["brier"] == pytest.approx(0.25)
    assert even["ece"] == pytest.approx(abs(0.5 - np.mean(truth == 1)))


def test_scores_remain_where_probabilities_are_missing_or_wrong(study, tmp_path):
    truth = blocks((1, slice(0, 8)))
    cases = study([(truth, truth)] * 3)
    wrong = np.zeros((*SHAPE, 7), np.float32)
    nibabel.save(nibabel.Nifti1Image(wrong, AFFINE), tmp_path / "pred1_probability.nii.gz")
    (tmp_path / "pred2_probability.nii.gz").write_bytes(b"no gzip")
    summary = run(cases, tmp_path / "out", calibration=True)
    assert (summary["cases"], summary["mean_dice"], summary["failed"]) == (3, 1.0, {})
    assert summary["calibration"] is None
    assert [(p["case"], p["code"], p["severity"]) for p in summary["problems"]] == [
        ("c0", "no-probability", "note"),
        ("c1", "shape-mismatch", "error"),
        ("c2", "unreadable", "error"),
    ]
    assert all("The masks are scored without it." in p["message"] for p in summary["problems"])


def test_probabilities_on_another_grid_are_refused_or_resampled(study, tmp_path):
    truth = blocks((1, slice(2, 8)))
    case = study([(truth, truth)])[0]
    # The same picture from the other end: every voxel keeps its place in the patient.
    flipped = AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = SHAPE[0] - 1.0
    sure = np.stack([truth == 0, truth == 1, np.zeros(SHAPE)], axis=-1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(truth[::-1], flipped), case.prediction)
    path = tmp_path / "pred0_probability.nii.gz"
    nibabel.save(nibabel.Nifti1Image(sure[::-1], flipped), path)
    resampled = run([case], tmp_path / "out", calibration=True, resample=True)
    assert resampled["mean_dice"] == 1.0
    assert resampled["calibration"]["edema"]["brier"] == 0.0
    # Half a voxel aside: linear interpolation is even on both faces across, which are 2 × 6 × 4 voxels.
    moved = AFFINE + 0.5 * np.eye(4, k=3)
    nibabel.save(nibabel.Nifti1Image(truth, AFFINE), case.prediction)
    nibabel.save(nibabel.Nifti1Image(sure, moved), path)
    between = run([case], tmp_path / "out", calibration=True, resample=True)["calibration"]["edema"]
    assert between["brier"] == pytest.approx(0.25 * 2 * 24 / truth.size)
    refused = run([case], tmp_path / "out", calibration=True)
    assert (refused["mean_dice"], refused["calibration"]) == (1.0, None)
    assert [(p["code"], p["severity"]) for p in refused["problems"]] == [("grid-mismatch", "error")]
    assert "pred0_probability.nii.gz lies up to 0.50 mm away" in refused["problems"][0]["message"]


def test_tolerances_by_name(study, tmp_path):
    reference, prediction = blocks((1, slice(0, 4)), (2, slice(6, 9))), blocks((1, slice(0, 6)), (2, slice(6, 11)))
    summary = run(study([(reference, prediction)]), tmp_path / "out", tolerance_mm={"core": 1.0})
    assert summary["tolerance_mm"] == {"edema": 2.0, "core": 1.0}
    assert summary["labels"]["edema"]["metrics"]["nsd"]["mean"] == 1.0
    assert summary["labels"]["core"]["metrics"]["nsd"]["mean"] < 1.0
    assert parse_tolerance("edema=3, core=1") == {"edema": 3.0, "core": 1.0}
    with pytest.raises(UsageError, match="names 'cyst', which is no label"):
        parse_regions("all=edema+cyst", LABELS)


def test_processes_find_the_same(study, tmp_path, monkeypatch):
    cases = study([(blocks((1, slice(0, n))), blocks((1, slice(1, n + 1)))) for n in (3, 5, 7)])
    alone = run(cases, tmp_path / "one")
    monkeypatch.setattr(scoring, "SECONDS_WORTH_A_PROCESS", 1e-6)
    done: list[tuple[int, int]] = []
    together = run(cases, tmp_path / "two", workers=2, progress=lambda *counts: done.append(counts))
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert together["labels"] == alone["labels"]
    assert (tmp_path / "one" / "cases.csv").read_text() == (tmp_path / "two" / "cases.csv").read_text()
    assert together["provenance"]["data_sha256"] == alone["provenance"]["data_sha256"]


def test_one_case_is_enough(study, tmp_path):
    summary = run(study([(blocks((1, slice(0, 8))), blocks((1, slice(4, 12))))]), tmp_path / "out")
    assert summary["headline"]["interval"] is None
    assert summary["headline"]["warning"] == "Too few patients for intervals: 1, and 5 are needed."
    assert summary["labels"]["edema"]["metrics"]["dice"]["interval_mean"] is None
    assert summary["labels"]["edema"]["volume_agreement"]["limits_ml"] is None
    assert (tmp_path / "out" / "report.html").is_file()


def test_nothing_could_be_scored_is_still_a_folder(study, tmp_path):
    case = study([(blocks(), blocks())])[0]
    case.prediction.unlink()
    summary = run([case], tmp_path / "out")
    assert (summary["cases"], summary["mean_dice"], list(summary["failed"])) == (0, None, ["c0"])
    assert (tmp_path / "out" / "report.html").is_file()


def test_names_that_look_like_numbers_stay_text(study, tmp_path):
    item = study([(blocks((1, slice(0, 8))),) * 2])[0]
    named = {"case": "007", "patient": "NA", "label": str(item.reference)}
    item.prediction.rename(tmp_path / "007.nii.gz")
    evaluate([named], tmp_path, labels=LABELS, output_dir=tmp_path / "out")
    table = read_cases(tmp_path / "out")
    assert table[["case", "patient", "label_id"]].iloc[0].tolist() == ["007", "NA", "1"]
    assert np.isnan(table["dice"].iloc[1])


def test_the_data_hash_is_of_voxels_and_grid_not_of_headers(tmp_path):
    """MetaImage keeps its voxels in a file beside the header: the hash follows them, and no compression."""
    voxels = blocks((1, slice(0, 8)))
    nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), tmp_path / "ref.nii.gz")

    def found(path: Path, values: np.ndarray, spacing: float = 1.0) -> str:
        image = sitk.GetImageFromArray(values.T)
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # NIfTI's axes in ITK's frame
        image.SetSpacing((1.0, 1.0, spacing))
        sitk.WriteImage(image, str(path))
        case = EvaluationCase("c", "p", tmp_path / "ref.nii.gz", path)
        return scoring.score_files(case, make_scoring(LABELS, {}, resample=True)).sha256

    first = found(tmp_path / "a.mhd", voxels)
    assert first == found(tmp_path / "b.nrrd", voxels) == found(tmp_path / "c.nii.gz", voxels)
    assert first != found(tmp_path / "a.mhd", blocks((1, slice(0, 7))))
    assert first != found(tmp_path / "a.mhd", voxels, spacing=2.0)


def test_an_evaluation_that_stops_leaves_no_summary_of_an_earlier_one(study, tmp_path, monkeypatch):
    cases = study([(blocks((1, slice(0, 8))),) * 2])
    run(cases, tmp_path / "out")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run(cases, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cases.csv"]
