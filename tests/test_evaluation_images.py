"""Classification and detection from files: joins, problems, numbers by hand, files, commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from PIL import Image
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.errors import CaseError, MedsegError, UsageError
from medseg3d.evaluation.box_files import read_boxes
from medseg3d.evaluation.classification import OperatingPoint, evaluate_classification
from medseg3d.evaluation.detection import evaluate_detection
from medseg3d.evaluation.image_tables import read_answers
from medseg3d.images import ImageRef
from medseg3d.report.pictures2d import picture

CATEGORIES = [{"id": 1, "name": "RBC"}, {"id": 2, "name": "WBC"}]


def table(path, text: str):
    path.write_text(text)
    return path


@pytest.fixture
def binary(tmp_path):
    """Forty patients with two images each; the score separates well, not perfectly."""
    random = np.random.default_rng(0)
    truth = np.repeat(random.random(40) < 0.5, 2)
    frame = pd.DataFrame({"case": [f"{i:03d}" for i in range(80)], "patient": np.repeat(np.arange(40), 2)})
    frame["label"] = np.where(truth, "ill", "well")
    frame["site"] = np.where(np.arange(80) % 4 < 2, "north", "south")
    frame["score"] = np.clip(random.normal(0.4 + 0.3 * truth, 0.2), 0, 1)
    frame[["case", "label", "patient", "site"]].to_csv(tmp_path / "truth.csv", index=False)
    frame[["case", "score"]].to_csv(tmp_path / "scores.csv", index=False)
    return tmp_path, frame


def coco(path, annotations, *, scored=False, images=2):
    entries = [
        {"id": i, "image_id": a[0], "category_id": a[1], "bbox": a[2]} | ({"score": a[3]} if scored else {})
        for i, a in enumerate(annotations)
    ]
    content = entries if scored else {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(images)],
        "categories": CATEGORIES,
        "annotations": entries,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def test_a_binary_classifier_gets_the_numbers_of_scikit_learn(binary):
    folder, frame = binary
    summary = evaluate_classification(
        folder / "scores.csv", folder / "truth.csv", folder / "out", positive="ill", subgroups=["site"], resamples=200
    )
    truth = frame["label"] == "ill"
    metrics = summary["labels"]["ill"]["metrics"]
    expected = sklearn.metrics.roc_auc_score(truth, frame["score"])
    assert summary["kind"] == "binary"
    assert summary["headline"]["value"] == pytest.approx(expected)
    low, high = summary["headline"]["interval"]
    assert low < expected < high
    assert metrics["f1"]["value"] == pytest.approx(sklearn.metrics.f1_score(truth, frame["score"] >= 0.5))
    assert (summary["cases"], summary["patients"]) == (80, 40)
    for site, rows in frame.groupby("site"):
        part = sklearn.metrics.roc_auc_score(rows["label"] == "ill", rows["score"])
        assert summary["subgroups"]["site"][site]["auroc"]["value"] == pytest.approx(part)
    written = json.loads((folder / "out" / "summary.json").read_text())
    assert written["labels"]["ill"]["decisions"] == summary["labels"]["ill"]["decisions"]
    cases = pd.read_csv(folder / "out" / "cases.csv", dtype={"case": str})
    assert list(cases.columns) == ["case", "patient", "truth", "predicted", "correct", "p_ill"]
    assert cases["correct"].mean() == pytest.approx(metrics["accuracy"]["value"])


def test_several_classes_get_a_confusion_matrix_and_macro_scores(tmp_path):
    table(tmp_path / "p.csv", "case,p_cat,p_dog,p_bird\n1,.8,.1,.1\n2,.6,.3,.1\n3,.1,.2,.7\n4,.2,.7,.1\n")
    table(tmp_path / "t.csv", "case,label\n1,cat\n2,dog\n3,bird\n4,dog\n")
    summary = evaluate_classification(tmp_path / "p.csv", tmp_path / "t.csv", tmp_path / "out", resamples=100)
    assert summary["kind"] == "multiclass"
    confusion = summary["overall"]["confusion"]
    assert confusion["labels"] == ["bird", "cat", "dog"]
    assert confusion["matrix"] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    overall = {name: number["value"] for name, number in summary["overall"]["metrics"].items()}
    truth, called = ["cat", "dog", "bird", "dog"], ["cat", "cat", "bird", "dog"]
    assert overall["accuracy"] == 0.75
    assert overall["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, called))
    assert overall["f1_macro"] == pytest.approx(sklearn.metrics.f1_score(truth, called, average="macro"))


def test_images_may_have_several_classes_or_none(tmp_path):
    table(tmp_path / "p.csv", "case,mass,effusion\n1,.9,.8\n2,.7,.2\n3,.1,.1\n")
    table(tmp_path / "t.csv", "case,label\n1,mass|effusion\n2,mass\n3,\n")
    summary = evaluate_classification(tmp_path / "p.csv", tmp_path / "t.csv", tmp_path / "out", resamples=100)
    assert summary["kind"] == "multilabel"
    assert summary["overall"] is None
    assert {name: label["positives"] for name, label in summary["labels"].items()} == {"effusion": 1, "mass": 2}
    assert pd.read_csv(tmp_path / "out" / "cases.csv")["predicted"].tolist()[0] == "effusion|mass"


def test_the_threshold_is_chosen_on_other_images(binary):
    folder, _ = binary
    (folder / "val.csv").write_text("case,score\na,0.9\nb,0.31\nc,0.1\n")
    (folder / "valtruth.csv").write_text("case,label\na,ill\nb,ill\nc,well\n")
    point = OperatingPoint(sensitivity=1.0, tuning=(folder / "val.csv", folder / "valtruth.csv"))
    files = (folder / "scores.csv", folder / "truth.csv", folder / "out")
    summary = evaluate_classification(*files, positive="ill", operating_point=point, resamples=100)
    assert summary["labels"]["ill"]["threshold"] == 0.31
    assert summary["operating_point"] == "a sensitivity of 1, chosen on other images"
    itself = evaluate_classification(
        *files, positive="ill", operating_point=OperatingPoint(sensitivity=0.9), resamples=100
    )
    assert "on these very images, which flatters" in itself["operating_point"]


def test_options_of_the_operating_point_are_never_ignored(binary, tmp_path):
    folder, _ = binary
    files = [str(folder / "scores.csv"), str(folder / "truth.csv")]
    words = ["evaluate-classification", *files, "--positive", "ill", "-o", str(tmp_path / "out"), "--resamples", "100"]
    for options in (["--threshold", "0.9", "--sensitivity", "0.95"], ["--sensitivity", "0"],
                    ["--threshold", "0.5", "--tuning", *files]):  # fmt: skip
        done = CliRunner().invoke(app, [*words, *options])
        assert isinstance(done.exception, UsageError), options
    done = CliRunner().invoke(app, [*words, "--tuning", *files])
    assert done.exit_code == 0, done.output
    assert "the largest sum of sensitivity and specificity, chosen on other images" in " ".join(done.output.split())


def test_rows_that_cannot_be_scored_are_named_and_the_rest_is(tmp_path):
    table(tmp_path / "p.csv", "case,p_a,p_b\n1,.9,.1\n2,,.5\n3,.2,.8\n3,.3,.7\n5,.5,.5\n6,.4,.6\n7,.1,.9\n")
    table(tmp_path / "t.csv", "case,label\n1,a\n2,b\n3,b\n4,a\n6,zebra\n7,b\n")
    answers = read_answers(tmp_path / "p.csv", tmp_path / "t.csv")
    assert answers.cases == ("1", "7")
    assert {(p.case, p.code) for p in answers.problems} == {
        ("2", "score-not-a-number"),
        ("3", "duplicate-case"),
        ("4", "missing-prediction"),
        ("5", "extra-prediction"),
        ("6", "class-unknown"),
    }
    assert answers.exclusive


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        ("name,score\n1,.5\n", "case,label\n1,a\n", "no column 'case', 'image'"),
        ("case,score\n1,.5\n", "case,diagnosis\n1,a\n", "no column 'label'"),
        ("case,score\nx/1.png,.5\n", "case,label\n1,1\n", "'x/1.png'"),
        ("case,score\n1,.5\n2,.6\n", "case,label\n1,a\n2,b\n", "which of a, b is it for"),
        ("case,p_c\n1,.5\n", "case,label\n1,a\n", None),
        ("case,cat\n1,.5\n", "case,label\n1,a\n", "no column is headed by a class"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, scores, truth, message):
    files = table(tmp_path / "p.csv", scores), table(tmp_path / "t.csv", truth)
    if message is None:  # a predicted class that no image has: every image is a negative of it
        assert read_answers(*files).truth.tolist() == [[False]]
        return
    with pytest.raises(UsageError, match=message):
        read_answers(*files)


def test_a_misspelt_positive_class_is_refused(binary):
    folder, _ = binary
    with pytest.raises(UsageError, match="'il' is nowhere in the reference"):
        read_answers(folder / "scores.csv", folder / "truth.csv", positive="il")


def test_detections_by_hand(tmp_path):
    truth = coco(tmp_path / "t.json", [(0, 1, [0, 0, 10, 10]), (0, 1, [20, 0, 10, 10]), (1, 2, [5, 5, 20, 20])])
    found = coco(
        tmp_path / "p.json",
        [
            (0, 1, [0, 0, 10, 10], 0.9),
            (0, 1, [50, 50, 10, 10], 0.8),
            (1, 2, [5, 5, 20, 18], 0.7),
            (1, 2, [0, 0, 9, 9], 0.1),
        ],
        scored=True,
    )
    summary = evaluate_detection(found, truth, tmp_path / "out", resamples=100)
    red, white = summary["labels"]["RBC"], summary["labels"]["WBC"]
    assert red["metrics"]["sensitivity"]["value"] == 0.5
    assert red["metrics"]["precision"]["value"] == 0.5
    assert red["metrics"]["count_bias"]["value"] == 0.0
    assert white["metrics"]["ap50"]["value"] == pytest.approx(1.0)
    # One of two boxes is found at full precision: recalls up to 0.5 are 51 of the 101.
    assert red["metrics"]["ap50"]["value"] == pytest.approx(51 / 101)
    assert summary["headline"]["value"] == pytest.approx((1 + 51 / 101) / 2)
    assert red["froc"]["at"][0] == 0.5
    rows = pd.read_csv(tmp_path / "out" / "cases.csv")
    row = rows[(rows.case == "0.png") & (rows.label == "RBC")].iloc[0]
    assert (row.reference, row.predicted, row.true_positives, row.false_negatives) == (2, 2, 1, 1)


def test_boxes_that_cannot_be_used_are_named(tmp_path):
    truth = coco(tmp_path / "t.json", [(0, 1, [0, 0, 10, 10]), (1, 1, [0, 0, 0, 10])])
    found = coco(
        tmp_path / "p.json",
        [(9, 1, [0, 0, 1, 1], 0.5), (0, 7, [0, 0, 1, 1], 0.5), (0, 1, [0, 0, None, 1], 0.5), (0, 1, [0, 0, 9, 9], 0.4)],
        scored=True,
    )
    boxes = read_boxes(found, truth)
    assert [p.code for p in boxes.problems] == ["box-without-area", "extra-prediction", "class-unknown", "box-invalid"]
    assert [len(b) for b in boxes.predicted] == [1, 0]


def test_entries_of_any_type_are_named_not_a_traceback(tmp_path):
    truth = coco(tmp_path / "t.json", [(0, 1, [0, 0, 10, 10])])
    wrong = [(0, 1, None, 0.5), ([1], 1, [0, 0, 1, 1], 0.5), (0, [1], [0, 0, 1, 1], 0.5), (0, 1, [0, 0, 1, 1], "high")]
    boxes = read_boxes(coco(tmp_path / "p.json", wrong, scored=True), truth)
    assert [p.code for p in boxes.problems] == ["box-invalid", "extra-prediction", "class-unknown", "box-invalid"]
    assert len(boxes.predicted[0]) == 0


@pytest.mark.parametrize(
    ("categories", "error"),
    [
        ([{"id": 1, "name": "cell"}, {"id": 2, "name": "cell"}], "share a name"),
        ([{"id": 1, "name": "cell"}, {"id": 1, "name": "spot"}], "each used once"),
        ([{"id": "1", "name": "cell"}], "whole numbers"),
    ],
)
def test_ambiguous_categories_are_refused(tmp_path, categories, error):
    truth = tmp_path / "t.json"
    truth.write_text(json.dumps({"images": [{"id": 0}], "categories": categories, "annotations": []}))
    with pytest.raises(MedsegError, match=error):
        read_boxes(coco(tmp_path / "p.json", [], scored=True), truth)


def test_files_that_are_not_coco_are_refused(tmp_path):
    truth = coco(tmp_path / "t.json", [(0, 1, [0, 0, 10, 10])])
    with pytest.raises(UsageError, match="images, categories and annotations"):
        read_boxes(truth, table(tmp_path / "x.json", "[]"))
    with pytest.raises(CaseError, match="not JSON"):
        read_boxes(table(tmp_path / "y.json", "{"), truth)
    with pytest.raises(CaseError, match="no 'score'"):
        read_boxes(coco(tmp_path / "z.json", [(0, 1, [0, 0, 1, 1])]), truth)


def test_the_commands_write_a_report_and_tell_problems_by_their_exit_status(binary, tmp_path):
    folder, _ = binary
    words = ["evaluate-classification", str(folder / "scores.csv"), str(folder / "truth.csv"), "--positive", "ill"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "a"), "--resamples", "100"])
    assert done.exit_code == 0, done.output
    assert "AUROC" in done.output
    assert (tmp_path / "a" / "report.html").is_file()
    truth = coco(tmp_path / "t.json", [(0, 1, [0, 0, 10, 10]), (1, 1, [0, 0, 0, 10])])
    found = coco(tmp_path / "p.json", [(0, 1, [0, 0, 9, 9], 0.6)], scored=True)
    words = ["evaluate-detection", str(found), str(truth), "-o", str(tmp_path / "b"), "--resamples", "100"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "box-without-area" in done.output
    assert (tmp_path / "b" / "report.html").is_file()


def test_pictures_are_of_any_format_that_is_read(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((20, 30), 1000 * page, np.uint16)) for page in (1, 2)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    shown = picture(Path(f"{tmp_path / 'scan.tif'}#page=1"), "b", "")
    assert (shown.width, shown.height) == (30, 20)
    assert shown.source.startswith("data:image/jpeg;base64,")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    with pytest.raises(CaseError, match=r"cut.jpg: the image cannot be decoded"):
        picture(tmp_path / "cut.jpg", "c", "")
    assert ImageRef.parse(f"{tmp_path / 'scan.tif'}#page=1").found == f"{tmp_path / 'scan.tif'}#page=1"
    assert ImageRef.parse(tmp_path / "gone.tif").found is None
