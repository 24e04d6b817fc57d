"""Pages: what they say, that names cannot break them, and what happens when files are gone."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from report_folders import scored_row, write_case, write_comparison, write_evaluation

from medseg3d.errors import UsageError
from medseg3d.report import charts, write_comparison_report, write_evaluation_report
from medseg3d.report.colours import palette_of
from medseg3d.report.comparison_tables import forest_chart, pair_table
from medseg3d.report.comparison_verdict import comparison_verdict
from medseg3d.report.evaluation_tables import case_table, label_table, lesion_table, subgroup_tables
from medseg3d.report.page import packed
from medseg3d.report.panels import read_grid
from medseg3d.report.selection import case_scores, pick_cases
from medseg3d.report.verdict import evaluation_verdict

REGIONS = {"liver": [1], "spleen": [2]}
AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])


def phantom(shift: int = 0) -> np.ndarray:
    label = np.zeros((24, 20, 10), np.uint8)
    label[4 + shift : 12 + shift, 5:12, 3:7] = 1
    label[14:18, 12:16, 4:6] = 2
    return label


def folder(path: Path, *, names=("a", "b", "c", "d", "e", "f", "g"), **more: Any) -> Path:
    """Cases with ever larger shifts; the last one lacks the spleen."""
    rows, inputs = [], []
    image = np.random.default_rng(0).normal(100, 20, (24, 20, 10)).astype(np.float32)
    for shift, name in enumerate(names):
        reference, prediction = phantom(), phantom(shift)
        if shift == len(names) - 1:
            prediction[prediction == 2] = 0
        rows += [scored_row(name, label, i, reference == i, prediction == i, 0.003) for label, (i,) in REGIONS.items()]
        inputs.append(write_case(path / "files" / str(shift), name, image, reference, prediction, AFFINE))
    return write_evaluation(path, rows, REGIONS, **{"inputs": inputs} | more)


def payload(html: str, name: str) -> Any:
    (text,) = re.findall(rf'<script type="application/octet-stream" id="{name}">([^<]*)</script>', html)
    return json.loads(gzip.decompress(base64.b64decode(text)))


def own(html: str) -> str:
    """The page without Plotly's code."""
    start = html.index("<script>/**\n* plotly.js")
    return html[:start] + html[html.index("</script>", start) :]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_evaluation_report(folder(tmp_path_factory.mktemp("evaluation"))).read_text(encoding="utf-8")


def test_the_page_asks_nothing_of_a_network(html):
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', own(html))
    assert "@import" not in own(html)
    assert len(html) < 6e6


def test_the_verdict_names_cases_patients_and_what_was_missed(html):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", own(html)))
    assert "7 cases of 7 patients were evaluated." in text
    assert "1 structure was missed entirely: spleen 1×." in text
    assert "For research use only." in text
    assert "medseg3d evaluate pred ref --out out" in text


def test_worst_median_and_best_cases_have_pictures(html):
    kinds = re.findall(r'<h3><span class="kind (\w+)">', html)
    assert kinds == ["worst", "worst", "worst", "median", "best", "best"]
    shown = payload(html, "case-volume-0")
    assert shown["case"] == "g"
    assert shown["shape"] == [24, 20, 10]
    assert [m["name"] for m in shown["maps"]] == ["reference", "prediction"]
    assert {(s["side"], s["name"]) for s in shown["surfaces"]} == {
        ("reference", "liver"), ("reference", "spleen"), ("prediction", "liver"),
    }  # fmt: skip


def test_pictures_are_turned_to_ras(html):
    """The files' x and y run to the left and back; voxels of the page run to the right and front."""
    shown = payload(html, "case-volume-5")
    affine = np.array(shown["affine"])
    assert np.diag(affine).tolist() == [1, 1, 3, 1]
    stored = np.frombuffer(base64.b64decode(shown["maps"][0]["voxels"]), np.uint8).reshape(shown["shape"], order="F")
    assert np.array_equal(stored, phantom()[::-1, ::-1])
    at = affine @ [*np.argwhere(stored == 2).mean(axis=0), 1]
    assert at == pytest.approx(AFFINE @ [*np.argwhere(phantom() == 2).mean(axis=0), 1])


def test_points_of_the_charts_are_the_rows_of_the_table(html):
    data = payload(html, "case-data")
    assert data["cases"] == list("abcdefg")
    assert data["values"]["dice"]["liver"][0] == 1
    assert data["values"]["hd95_mm"]["spleen"][-1] == "inf"
    assert data["status"]["spleen"] == "ssssssm"
    for case in data["cases"]:
        assert f'id="case-{case}"' in html


def test_names_cannot_break_the_page(tmp_path):
    evil = "<script>alert(1)</script>"
    text = write_evaluation_report(folder(tmp_path, names=("a", evil, '"><img onerror=x>'), name=evil)).read_text(
        "utf-8"
    )
    assert evil not in text
    assert "<img onerror" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert payload(text, "case-data")["cases"][1] == evil


def test_one_case_and_nothing_to_score(tmp_path):
    empty = np.zeros((4, 4, 4), bool)
    rows = [scored_row("only", "liver", 1, empty, empty, 0.001)]
    text = write_evaluation_report(write_evaluation(tmp_path, rows, {"liver": [1]})).read_text("utf-8")
    assert "No structure could be scored" in text
    assert "No pictures" in text


def test_files_that_are_gone_leave_a_sentence(tmp_path):
    made = folder(tmp_path)
    for path in (tmp_path / "files").rglob("*_image.nii.gz"):
        path.unlink()
    assert "The image is not shown: " in write_evaluation_report(made).read_text("utf-8")
    for path in (tmp_path / "files").rglob("*.nii.gz"):
        path.unlink()
    assert "No pictures: the files of the cases cannot be read any more" in write_evaluation_report(made).read_text(
        "utf-8"
    )


def test_a_case_whose_files_are_gone_is_named_beside_the_others(tmp_path):
    runs = {name: folder(tmp_path / name, name=name) for name in "AB"}
    (tmp_path / "A" / "files" / "6" / "1_reference.nii.gz").unlink()  # of the worst case, g
    text = write_evaluation_report(runs["A"]).read_text("utf-8")
    assert len(re.findall(r'<article class="viewer"', text)) == 5
    assert "Not shown, since the files cannot be read any more: g: " in text
    (tmp_path / "A" / "files" / "0" / "1_reference.nii.gz").unlink()
    compared = write_comparison_report(write_comparison(tmp_path / "out", runs)).read_text("utf-8")
    assert len(re.findall(r'<article class="viewer"', compared)) == 3
    assert "Not shown, since the files cannot be read any more: a: " in compared


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "summary.json").unlink(), r"summary\.json: no such file.*medseg3d evaluate"),
        (lambda f: (f / "summary.json").write_text("{"), "not JSON"),
        (lambda f: (f / "summary.json").write_text('{"schema": "other/2"}'), "schema is 'other/2'"),
        (lambda f: (f / "cases.csv").write_text("case,label\n"), "lacks dice, status"),
        (lambda f: (f / "cases.csv").write_text("case,label,status,dice\na,b,scored,high\n"), "not a number"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, message):
    made = write_evaluation(tmp_path, [scored_row("a", "b", 1, np.ones(3, bool), np.ones(3, bool), 1)], {"b": [1]})
    damage(made)
    with pytest.raises(UsageError, match=message):
        write_evaluation_report(made)
    assert not (made / "report.html").exists()


def test_a_thousand_cases_stay_small_and_keep_every_point(tmp_path):
    rng = np.random.default_rng(0)
    labels = {f"organ {i}": [i] for i in range(1, 9)}
    rows = [
        {"case": f"c{c}", "patient": f"p{c}", "label_id": str(i), "label": name, "status": "scored", "dice": d,
         "volume_ml": 10 * d, "reference_ml": 10.0, "volume_difference_ml": 10 * d - 10, "hd95_mm": 5 - 5 * d}
        for c in range(1000) for (name, (i,)), d in zip(labels.items(), rng.beta(9, 2, 8), strict=True)
    ]  # fmt: skip
    path = write_evaluation_report(write_evaluation(tmp_path, rows, labels))
    text = path.read_text("utf-8")
    assert path.stat().st_size < 8e6
    assert all(len(values) == 1000 for values in payload(text, "case-data")["values"]["dice"].values())
    assert text.count('<tr id="case-') == 1000


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        packed({"value": math.nan})


# Parts ---------------------------------------------------------------------------------------------------------------


def rows_of(*entries: tuple[str, str, str, float, float]) -> pd.DataFrame:
    columns = ["case", "label", "status", "dice", "reference_ml"]
    return pd.DataFrame(entries, columns=columns).assign(patient="p", label_id="1")


def test_a_missed_structure_is_shown_even_if_the_mean_hides_it():
    entries = [(f"c{i}", label, "scored", 0.5 + 0.04 * i, 5.0) for i in range(10) for label in "abc"]
    entries += [("quiet", "a", "missed", 0.0, 80.0), *[("quiet", x, "scored", 0.99, 5.0) for x in "bc"]]
    table = rows_of(*entries)
    picks = pick_cases(table)
    assert [p.case for p in picks if p.kind == "worst"] == ["c0", "c1", "quiet"]
    assert picks[2].reason == "mean Dice 0.660, 1 structure missed (80.0 ml)"
    assert len({p.case for p in picks}) == len(picks) == 6


@pytest.mark.parametrize(
    ("cases", "kinds"),
    [(1, ["only"]), (2, ["worst", "best"]), (3, ["worst", "median", "best"]), (4, ["worst"] * 2 + ["median", "best"])],
)
def test_few_cases_are_not_all_the_worst(cases, kinds):
    table = rows_of(*((f"c{i}", "a", "scored", 0.5 + 0.1 * i, 5.0) for i in range(cases)))
    picks = pick_cases(table)
    assert [p.kind for p in picks] == kinds
    assert (picks[0].case, picks[-1].case) == ("c0", f"c{cases - 1}")


def test_regions_do_not_count_twice():
    table = rows_of(("a", "core", "missed", 0.0, 4.0), ("a", "whole", "missed", 0.0, 9.0))
    table["label_id"] = ["1", "1+2"]
    row = case_scores(table).loc["a"]
    assert (row["missed"], row["missed_ml"]) == (1, 4.0)


def test_the_verdict_says_what_failed():
    summary = {
        "name": "A", "cases": 8, "patients": 7, "failed": {"x": "no file"}, "regions": [],
        "headline": {"metric": "dice", "value": 0.5, "interval": None, "level": 0.9},
        "labels": {"l": {"status": {"missed": 0, "spurious": 2}, "dice_mean": 0.5}},
    }  # fmt: skip
    verdict = evaluation_verdict(summary)
    assert verdict.sentences[0] == "8 of 9 cases could be evaluated, of 7 patients."
    assert verdict.figure_note == "no interval"
    assert verdict.warnings == (
        "2 structures were predicted where the reference has none: l 2×.",
        "1 case was not evaluated (x); the reasons are under Problems.",
    )


def test_infinite_medians_and_quartiles_say_so():
    hd95 = {"median": None, "status": "infinite", "q1": 3.0, "q3": None, "infinite": 5}
    summary = {"labels": {"l": {"status": {}, "dice_mean": 0.2, "metrics": {"hd95_mm": hd95}}}}
    cells = label_table(summary, palette_of([])).rows[0].cells
    (cell,) = [c for c in cells if c.text == "∞"]
    assert cell.note == "IQR 3.0 to ∞\n5× ∞"


def test_what_stands_below_a_value_is_named():
    """The same HD95 has quartiles and an interval, which are not the same; on paper there is nothing to point at."""
    dice = {"mean": 0.8, "interval_mean": [0.7, 0.9], "patients": 14, "median": 0.82, "q1": 0.8, "q3": 0.85}
    metrics = {"dice": dice, "nsd": dice | {"patients": 15}, "hd95_mm": {"median": 1.4, "q1": 1.0, "q3": 1.9}}
    agreement = {"bias_ml": 0.5, "limits_ml": [-1.0, 2.0], "icc": 0.9, "icc_interval": [0.8, 0.95]}
    label = {"status": {}, "metrics": metrics, "volume_agreement": agreement}
    summary = {"labels": {"l": label}, "tolerance_mm": {"l": 2.0}, "subgroups": {"site": {"north": {"l": metrics}}}}
    notes = [c.note for c in label_table(summary, palette_of([])).rows[0].cells[5:]]
    assert notes == [
        "CI 0.700 to 0.900*", "IQR 0.800 to 0.850", "CI 0.700 to 0.900\nat 2 mm", "IQR 1.0 to 1.9",
        "LoA −1.00 to 2.00", "CI 0.800 to 0.950",
    ]  # fmt: skip
    ((_, table),) = subgroup_tables(summary, palette_of([]))
    assert [c.note for c in table.rows[0].cells[3:]] == [
        "CI 0.700 to 0.900*", "IQR 0.800 to 0.850", "CI 0.700 to 0.900", "IQR 1.0 to 1.9"
    ]  # fmt: skip


def test_patients_that_nobody_named_are_not_counted():
    summary = {"cases": 9, "patients": 9, "patients_known": False, "labels": {}, "mean_dice": 0.5}
    verdict = evaluation_verdict(summary | {"headline": {"value": 0.5, "warning": "Few patients (9): …"}})
    unknown = "It is not known which patients they are of: each case is taken for one."
    assert verdict.sentences[0] == f"9 cases were evaluated. {unknown}"
    assert verdict.warnings[-1] == "Few patients (9): …"
    assert evaluation_verdict(summary | {"cases": 1}).sentences[0] == "1 case was evaluated."
    compared = comparison_verdict(content(pair("l", 0.1, significant=True)) | {"patients_known": False, "cases": 9})
    assert compared.sentences[0] == f"A and B were compared on the same 9 cases. {unknown}"
    assert compared.warnings[0].startswith("Few patients (8)")


def test_the_matching_of_lesions_is_told(tmp_path):
    settings = {"lesion_overlap_iou": 0.1, "lesion_connectivity": 26}
    lesions = dict.fromkeys(("reference", "predicted", "detected", "false_positives"), 1)
    rows = [scored_row("a", "l", 1, np.ones(3, bool), np.ones(3, bool), 1)]
    made = write_evaluation(tmp_path, rows, {"l": [1]}, lesions={"l": lesions}, provenance={"settings": settings})
    assert "(26 neighbours) of the reference and prediction, matched one to one by overlap, from an IoU of 0.1." in (
        write_evaluation_report(made).read_text("utf-8")
    )


def test_many_labels_come_worst_first_and_closed():
    summary = {"labels": {f"l{i}": {"status": {}, "dice_mean": 1 - i / 104, "metrics": {}} for i in range(104)}}
    table = label_table(summary, palette_of([]))
    assert table.rows[0].data == "l103"
    assert (table.shown, table.searchable) == (15, True)


def test_missed_lesions_come_first_the_largest_on_top():
    lesions = pd.DataFrame({
        "case": list("aabb"), "label": "lesion", "kind": ["matched", "missed", "missed", "false_positive"],
        "reference_ml": [9.0, 1.0, 5.0, math.nan], "predicted_ml": [8.0, math.nan, math.nan, 2.0],
        "dice": [0.9, math.nan, math.nan, math.nan], "x_mm": 1.0, "y_mm": 2.0, "z_mm": -3.25,
    })  # fmt: skip
    table = lesion_table(lesions, palette_of([]), ["b"])
    assert table is not None
    assert [r.cells[2].text for r in table.rows] == ["missed", "missed", "false positive", "matched"]
    assert [r.cells[3].text for r in table.rows][:2] == ["5.00", "1.00"]
    assert table.rows[0].cells[-1].text == "1.0, 2.0, −3.2"
    assert table.rows[0].cells[-1].href == "#pictures-b"
    assert table.rows[1].cells[-1].href == ""


def test_cases_say_missed_instead_of_a_zero():
    table = rows_of(("a", "x", "missed", 0.0, 4.0), ("a", "y", "scored", 0.8, 4.0))
    cells = case_table(table, palette_of([]), ["x", "y"], []).rows[0].cells
    assert [c.text for c in cells[-2:]] == ["missed", "0.800"]
    assert cells[-2].sort == 0


def test_charts_are_what_plotly_accepts():
    training = pd.DataFrame({"epoch": [1.0, 2.0], "train_loss": [0.9, 0.5], "mean_dice": [math.nan, 0.7]})
    calibration = {
        "l": {"bins": [{"n": 3, "confidence": 0.2, "frequency": 0.1}, {"n": 0, "confidence": None, "frequency": None}]}
    }
    made = [
        *charts.training_charts(training).values(),
        charts.calibration_chart(calibration, palette_of([])),
        charts.confusion_chart(["background", "a"], [[90, 10], [0, 0]], unit="voxels"),
    ]
    figures = [go.Figure(chart) for chart in made]
    assert [len(figure.data) for figure in figures] == [1, 1, 2, 1]
    assert list(figures[1].data[0].y) == [0.7]
    assert list(figures[2].data[1].x) == [0.2]
    assert figures[2].data[1].hovertemplate.endswith("%{customdata:,} voxels")
    images = go.Figure(charts.calibration_chart(calibration, palette_of([]), unit="images"))
    assert images.data[1].hovertemplate.endswith("%{customdata:,} images")
    assert list(figures[3].data[0].text[0]) == ["90.0%", "10.0%"]


# Comparison ----------------------------------------------------------------------------------------------------------


def test_a_comparison_shows_where_methods_differ_most(tmp_path):
    folder(tmp_path / "A")
    names = list("abcdefg")
    rows = [
        scored_row(n, label, i, phantom() == i, phantom() == i, 0.003) for n in names for label, (i,) in REGIONS.items()
    ]
    inputs = json.loads((tmp_path / "A" / "summary.json").read_text())["inputs"]
    exact = [entry | {"prediction": entry["reference"]} for entry in inputs]
    write_evaluation(tmp_path / "B", rows, REGIONS, inputs=exact, name="B")
    text = write_comparison_report(
        write_comparison(tmp_path / "out", {"A": tmp_path / "A", "B": tmp_path / "B"})
    ).read_text("utf-8")
    shown = payload(text, "case-volume-0")
    assert shown["case"] == "g"
    assert [m["name"] for m in shown["maps"]] == ["reference", "A", "B"]
    forest = go.Figure(payload(text, "comparison-data")["fixed"]["forest-chart"])
    assert list(forest.data[0].y) == ["liver", "spleen"]
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', own(text))


def test_a_method_called_reference_does_not_hide_the_reference(tmp_path):
    entry = write_case(tmp_path, "a", None, phantom(), phantom(3), AFFINE)
    grid, _ = read_grid(entry["reference"], {"reference": entry["prediction"], "B": entry["reference"]}, None)
    assert list(grid.maps) == ["reference", "reference (prediction)", "B"]
    assert np.array_equal(grid.maps["reference"], phantom())
    assert np.array_equal(grid.maps["reference (prediction)"], phantom(3))


def pair(label: str, difference: float | None, *, significant: bool, metric: str = "dice") -> dict[str, Any]:
    return {"a": "A", "b": "B", "label": label, "metric": metric, "difference": difference, "p_holm": 0.004,
            "significant": significant}  # fmt: skip


def content(*pairs: dict[str, Any], metric: str = "dice") -> dict[str, Any]:
    ranking = {metric: {"mean_rank": {"A": 1.2, "B": 1.8}, "rank_share": {"A": [0.97, 0.03], "B": [0.03, 0.97]}}}
    return {"methods": ["A", "B"], "cases": 9, "patients": 8, "metric": metric, "pairs": pairs, "ranking": ranking}


def test_a_comparison_names_no_winner_without_a_significant_difference():
    verdict = comparison_verdict(content(pair("l", 0.1, significant=False)))
    assert verdict.figure == "No clear winner"
    assert "no difference in Dice is significant in 1 structure." in verdict.sentences[1]


def test_a_comparison_says_who_is_better_where():
    verdict = comparison_verdict(content(pair("l", 0.1, significant=True), pair("m", -0.05, significant=True)))
    assert (verdict.figure, verdict.figure_name) == ("No clear winner", "A and B are each better somewhere, by Dice")
    assert verdict.sentences[1] == (
        "A has the higher Dice than B in 1 of 2 structures (l by 0.100, p = 0.004); "
        "B has the higher Dice than A in 1 of 2 structures (m by 0.050, p = 0.004)."
    )


def test_distances_are_better_when_lower():
    verdict = comparison_verdict(content(pair("l", -3.0, significant=True, metric="hd95_mm"), metric="hd95_mm"))
    assert verdict.sentences[1] == "A has the lower (better) HD95 than B in 1 of 1 structure (l by 3.0 mm, p = 0.004)."
    assert (verdict.figure, verdict.figure_name) == ("A", "ranks first by HD95")


def test_infinite_distances_are_told_by_their_medians():
    missed = pair("l", None, significant=True, metric="hd95_mm") | {
        "n": 12, "infinite_b": 4, "infinite_a": 0, "median_difference": -2.5, "median_difference_infinite": None,
        "median_interval": [None, -1.0], "median_interval_infinite": ["-inf", None],
    }  # fmt: skip
    verdict = comparison_verdict(content(missed, metric="hd95_mm"))
    assert verdict.figure == "A"
    assert verdict.sentences[1] == (
        "A has the lower (better) HD95 than B in 1 of 1 structure (l by 2.5 mm in the median, p = 0.004)."
    )
    assert verdict.warnings[1:] == (
        "HD95 is infinite for B, since only one side has the structure: l 4×. "
        "That counts as the worst; medians are given instead of means.",
    )
    (row,) = pair_table([missed], "hd95_mm", palette_of([]), table_id="t").rows
    assert [c.text for c in row.cells[6:8]] == ["–", "−2.5"]
    assert [c.note for c in row.cells[6:8]] == ["", "CI −∞ to −1.0\nB 4× ∞"]
    figure = go.Figure(forest_chart([missed], "hd95_mm"))
    assert list(figure.data[0].x) == [-2.5]
    assert list(figure.data[0].error_x.array) == [1.5]
    low = figure.layout.xaxis.range[0]
    assert figure.data[0].x[0] - figure.data[0].error_x.arrayminus[0] < low  # the line leaves the frame: it has no end


def test_the_first_by_rank_is_no_winner_unless_it_beats_every_other():
    def of(a: str, b: str, difference: float, significant: bool) -> dict[str, Any]:
        return pair("l", difference, significant=significant) | {"a": a, "b": b}

    pairs = [of("3d", "s1", -0.01, False), of("3d", "2d", 0.2, True), of("s1", "2d", 0.21, True)]
    given = content(*pairs) | {"methods": ["3d", "s1", "2d"]}
    given["ranking"] = {"dice": {"mean_rank": {"3d": 1.6, "s1": 1.4, "2d": 3.0}, "rank_share": {"s1": [0.7, 0.3, 0]}}}
    verdict = comparison_verdict(given)
    assert (verdict.figure, verdict.figure_note) == ("No clear winner", "")
    assert verdict.figure_name == "no difference in Dice between s1 and 3d is significant"
    given["pairs"] = (of("3d", "s1", -0.1, True), *pairs[1:])
    assert comparison_verdict(given).figure == "s1"


def test_methods_that_are_equal_share_the_first_place():
    given = content(pair("l", 0.0, significant=False))
    given["ranking"] = {"dice": {"mean_rank": {"A": 1.5, "B": 1.5}, "rank_share": {"A": [1, 0], "B": [1, 0]}}}
    verdict = comparison_verdict(given)
    assert verdict.sentences[-1] == "A and B share the best mean rank, 1.50."
    assert "100" not in " ".join(verdict.sentences)


def test_zero_is_in_every_forest_plot_and_no_row_sticks_to_the_frame():
    rows = [pair("l", 0.1, significant=True) | {"interval": [0.08, 0.12]}, pair("m", 0.2, significant=True)]
    layout = go.Figure(forest_chart(rows, "dice")).layout
    assert layout.xaxis.range[0] < 0 < 0.2 < layout.xaxis.range[1]
    assert layout.yaxis.range == (1.6, -0.6)
    assert layout.xaxis.title.text == "Dice<br>A − B"


def test_structures_that_only_one_method_has_are_named():
    given = content(pair("l", 0.1, significant=True)) | {"left_out_labels": {"A": ["cyst"], "B": []}}
    assert comparison_verdict(given).warnings[1:] == ("Only in A, and left out: 1 structure (cyst).",)
