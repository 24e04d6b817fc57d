"""Reports of classifiers and detectors: what they show, and what stands there where there is nothing to show."""

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
from browser import CHROMIUM, Page
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medseg3d.errors import UsageError
from medseg3d.evaluation.classification import evaluate_classification
from medseg3d.evaluation.detection import evaluate_detection
from medseg3d.report.colours import palette_of
from medseg3d.report.detection import _within, count_chart, froc_chart
from medseg3d.report.images import curves_chart, image_table, scope

PALETTE = palette_of([{"name": "red", "ids": [1]}, {"name": "white", "ids": [2]}])


def coco(folder: Path, *, boxes: int, found: int, images: int = 3, patients: bool = False) -> tuple[Path, Path]:
    """Truth and answers: so many red cells an image of which the first ``found`` are found, and a class without any."""
    entries = [{"id": i, "file_name": f"{i}.png"} | ({"patient": f"p{i // 2}"} if patients else {})
               for i in range(images)]  # fmt: skip
    places = [(i, [12 * n, 5, 10, 10]) for i in range(images) for n in range(boxes)]
    truth = {
        "images": entries,
        "categories": [{"id": 1, "name": "red cell"}, {"id": 2, "name": "white cell"}],
        "annotations": [{"id": n, "image_id": i, "category_id": 1, "bbox": box} for n, (i, box) in enumerate(places)],
    }
    answers = [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.9} for i, box in places if box[0] < 12 * found]
    for name, content in (("truth", truth), ("found", answers)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    for i in range(images):
        Image.new("RGB", (64, 24), (200, 180, 180)).save(folder / f"{i}.png")
    return folder / "found.json", folder / "truth.json"


def detection(folder: Path, **options: Any) -> str:
    found, truth = coco(folder, **options)
    evaluate_detection(found, truth, folder / "out", images=folder, resamples=100)
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


def classification(folder: Path, truth: list[str], scores: dict[str, list[float]], **options: Any) -> str:
    cases = [f"{i:02d}" for i in range(len(truth))]
    pd.DataFrame({"case": cases, "label": truth}).to_csv(folder / "truth.csv", index=False)
    pd.DataFrame({"case": cases, **scores}).to_csv(folder / "scores.csv", index=False)
    files = folder / "scores.csv", folder / "truth.csv", folder / "out"
    evaluate_classification(*files, resamples=100, **options)
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


def charts_of(html: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/octet-stream" id="chart-data">([^<]*)</script>', html)
    charts = json.loads(gzip.decompress(base64.b64decode(text)))
    for chart in charts.values():
        go.Figure(chart)  # Plotly's own check of every name and value
    return charts


def words(html: str) -> str:
    start = html.index("<script>/**\n* plotly.js")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html[:start]))


# Nothing to show -----------------------------------------------------------------------------------------------------


def test_a_detector_that_finds_nothing_has_a_report(tmp_path):
    html = detection(tmp_path, boxes=2, found=0)
    charts = charts_of(html)
    assert [len(charts[name]["data"]) for name in ("pr", "froc")] == [0, 0]
    assert "No class has a curve here" in charts["pr"]["layout"]["annotations"][0]["text"].replace("<br>", " ")
    assert "these shares of the boxes are found: red cell 0.0 %." in words(html)
    assert "white cell: the reference has no box of it." in words(html)


def test_images_without_any_box_have_a_report(tmp_path):
    html = detection(tmp_path, boxes=0, found=0)
    assert "No mAP@0.5 can be computed from them." in words(html)
    assert "shares of the boxes are found" not in words(html)
    (diagonal, *points) = charts_of(html)["count-chart"]["data"]
    assert diagonal["x"] == [0, 1.0]
    assert [point["customdata"] for point in points] == [[3], [3]]  # of each class three images with none


@pytest.mark.parametrize("left_out", ["images", "categories"])
def test_a_reference_without_images_or_classes_is_refused(left_out, tmp_path):
    found, truth = coco(tmp_path, boxes=0, found=0)
    truth.write_text(json.dumps(json.loads(truth.read_text()) | {left_out: []}))
    found.write_text("[]")
    with pytest.raises(UsageError, match=f"0 {left_out}|3 images and 0 categories; at least one of each is needed"):
        evaluate_detection(found, truth, tmp_path / "out")


def test_images_of_one_class_alone_are_reported_without_curves(tmp_path):
    html = classification(tmp_path, ["ill"] * 8, {"score": [0.1 * i for i in range(8)]}, positive="ill")
    text = words(html)
    assert "At a threshold of 0.5, 37.5 % of the images with ill are called rightly." in text
    assert "ill: all images have it, or none; nothing can be said of it." in text
    charts = charts_of(html)
    assert [curve["name"] for curve in charts["roc"]["data"] if curve.get("showlegend", True)] == []
    assert charts["roc"]["layout"]["annotations"]


def test_one_image_is_spoken_of_in_the_singular(tmp_path):
    html = classification(tmp_path, ["a"], {"p_a": [0.9], "p_b": [0.1]})
    assert "1 image of 1 patient was evaluated." in words(html)


# What is shown -------------------------------------------------------------------------------------------------------


def test_patients_that_nobody_named_are_not_counted(tmp_path):
    assert "3 images were evaluated. It is not known which patients they are of" in words(
        detection(tmp_path, boxes=1, found=1)
    )
    named = {"cases": 3, "patients": 2, "inputs": [{"case": "a", "patient": "P1"}, {"case": "b", "patient": "b"}]}
    assert scope(named) == "3 images of 2 patients were evaluated."


def test_colours_of_boxes_are_named_beside_the_pictures(tmp_path):
    html = detection(tmp_path, boxes=2, found=1, patients=True)
    (legend,) = re.findall(r'<p class="image-legend">(.*?)</p>', html, re.DOTALL)
    assert re.findall(r"background:(#\w+)\"></span>([^<]+)", legend) == [
        ("#e69f00", "red cell"), ("#56b4e9", "white cell")
    ]  # fmt: skip
    assert len(re.findall(r'<rect class="missed"', html)) == 3


def test_what_a_classifier_looked_at_stands_beside_the_image(tmp_path):
    truth, scores = ["ill", "well", "ill", "well"], [0.9, 0.8, 0.2, 0.1]
    for folder in (tmp_path / "images", tmp_path / "overlays"):
        folder.mkdir()
        for i in range(4):
            Image.new("L", (30, 20)).save(folder / f"{i:02d}.png")
    folders = {"images": tmp_path / "images", "overlays": tmp_path / "overlays"}
    html = classification(tmp_path, truth, {"score": scores}, positive="ill", **folders)
    pairs = re.findall(r'<figure class="image-case pair">(.*?)</figure>', html, re.DOTALL)
    assert [pair.count("<svg") for pair in pairs] == [2, 2]
    assert [pair.count("<figcaption") for pair in pairs] == [1, 1]
    assert "farthest from the truth; on the right what spoke for the answer." in words(html)


def test_the_confusion_of_a_classifier_counts_images(tmp_path):
    scores = {"p_a": [0.9, 0.4, 0.2], "p_b": [0.1, 0.6, 0.8]}
    chart = charts_of(classification(tmp_path, ["a", "a", "b"], scores))["confusion-chart"]
    assert "images)" in chart["data"][0]["hovertemplate"]
    assert "voxels" not in json.dumps(chart)


def test_rows_of_images_say_what_is_right_and_have_as_many_digits_as_their_column():
    cases = pd.DataFrame({"case": ["a", "b"], "correct": ["True", "False"], "p_x": [1.0, 0.25], "boxes": [3.0, 12.0]})
    rows = [[cell.text for cell in row.cells] for row in image_table(cases).rows]
    assert rows == [["a", "yes", "1.000", "3"], ["b", "no", "0.250", "12"]]
    assert image_table(cases).rows[1].cells[1].tone == "bad"


def test_curves_differ_in_grey_as_well():
    chart = curves_chart({name: {"x": [0, 1], "y": [0, 1]} for name in ("red", "white")}, PALETTE, "x", "y")
    assert [line["line"]["dash"] for line in chart["data"]] == ["solid", "dash"]


def test_images_with_the_same_counts_are_one_larger_point():
    cases = pd.DataFrame({"case": list("abcd"), "label": "red", "reference": [2, 2, 2, 12], "predicted": [3, 3, 3, 1]})
    _, points = count_chart(cases, PALETTE)["data"]
    assert (points["x"], points["y"], points["customdata"]) == ([2.0, 12.0], [3.0, 1.0], [3, 1])
    assert points["text"] == ["a, b, c", "d"]
    assert points["marker"]["size"][0] > points["marker"]["size"][1]


# FROC ----------------------------------------------------------------------------------------------------------------


def test_the_froc_runs_over_the_false_positives_of_luna16():
    chart = froc_chart({"red": {"x": [0.0, 0.5, 30.0], "y": [0.4, 0.6, 0.9]}, "white": {"x": [], "y": []}}, PALETTE)
    axis = chart["layout"]["xaxis"]
    assert axis["ticktext"] == ["1/8", "1/4", "1/2", "1", "2", "4", "8", "16", "32"]
    assert (axis["range"][0], axis["range"][1]) == pytest.approx((math.log10(1 / 16), math.log10(32)))
    (curve,) = chart["data"]
    assert list(zip(curve["x"], curve["y"], strict=True)) == [(1 / 16, 0.4), (0.5, 0.6), (30.0, 0.9), (32.0, 0.9)]


def test_a_detector_without_false_positives_has_a_line():
    (curve,) = froc_chart({"red": {"x": [0.0, 0.0], "y": [0.5, 1.0]}}, PALETTE)["data"]
    assert (curve["x"], curve["y"]) == ([1 / 16, 8.0], [1.0, 1.0])


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0, 1)), min_size=1, max_size=20))
def test_a_curve_on_the_axis_is_the_curve(points):
    xs, ys = sorted(x for x, _ in points), sorted(y for _, y in points)
    shown = _within(xs, ys, 1 / 16, 128)
    assert shown["x"] == sorted(shown["x"])
    assert all(1 / 16 <= x <= 128 for x in shown["x"])
    assert set(shown["y"]) <= set(ys)
    reached = [y for x, y in zip(xs, ys, strict=True) if x <= 128]
    assert shown["y"][-1:] == reached[-1:]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the report cannot be opened in a browser")
def test_reports_open_offline_and_draw_every_chart(tmp_path):
    detection(tmp_path, boxes=2, found=1)
    random = np.random.default_rng(0)
    (tmp_path / "c").mkdir()
    scores = {f"p_{name}": random.random(30).tolist() for name in "abc"}
    classification(tmp_path / "c", list("abc") * 10, scores)
    for path, charts in ((tmp_path / "out", ("pr", "froc", "count-chart")),
                         (tmp_path / "c" / "out", ("roc", "pr", "calibration-chart", "confusion-chart"))):  # fmt: skip
        with Page(path / "report.html") as page:
            assert (page.errors, page.requests) == ([], [])
            for chart in charts:
                assert page.evaluate(f"document.querySelector('#{chart} .main-svg') !== null"), chart
