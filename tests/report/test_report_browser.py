"""The page in a browser, without a network: it draws everything, answers to clicks, and logs no error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Page
from report_folders import scored_row, write_case, write_comparison, write_evaluation

from medseg3d.report import write_comparison_report, write_evaluation_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the report cannot be opened in a browser")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases, one of them with a missed structure and a name that is HTML."""
    folder = tmp_path_factory.mktemp("run")
    label = np.zeros((20, 22, 12), np.uint8)
    label[4:10, 5:15, 3:9], label[12:16, 4:9, 4:8] = 1, 2
    image = np.random.default_rng(0).normal(100, 20, label.shape).astype(np.float32)
    rows, inputs = [], []
    for shift, case in enumerate(("one", "<b>two</b>", "three")):
        prediction = np.roll(label, shift, 0)
        if shift == 2:
            prediction[prediction == 2] = 0
        rows += [scored_row(case, name, i, label == i, prediction == i, 0.001) for name, i in (("a", 1), ("b & c", 2))]
        inputs.append(
            write_case(folder / "files" / str(shift), case, image, label, prediction, np.diag([1, 1, 2, 1.0]))
        )
    confusion = {"labels": ["background", "a", "b & c"], "matrix": [[90, 5, 5], [4, 80, 0], [3, 0, 70]]}
    dataset = {"miou": 0.8, "labels": {}, "confusion": confusion}
    return write_evaluation(folder, rows, {"a": [1], "b & c": [2]}, inputs=inputs, dataset=dataset)


@pytest.fixture(scope="module")
def page(run) -> Iterator[Page]:
    with Page(write_evaluation_report(run)) as opened:
        yield opened


def drawn(page: Page, chart: str) -> bool:
    return page.evaluate(f"document.querySelector('#{chart} .main-svg') !== null")


def bright(page: Page, canvas: int) -> float:
    """Mean brightness of a canvas, counted over the page."""
    return page.evaluate(
        f"(() => {{ const c = document.querySelectorAll('.plane-row canvas')[{canvas}];"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " let sum = 0; for (let i = 0; i < d.length; i += 4) sum += d[i]; return sum / (d.length / 4); })()"
    )


def test_an_evaluation_opens_offline_without_an_error(page):
    assert (page.errors, page.requests) == ([], [])
    assert page.evaluate("document.getElementById('script-problem').hidden")
    assert page.evaluate("document.querySelectorAll('.plane-row canvas').length") == 3 * 9
    assert drawn(page, "distribution-chart")
    assert drawn(page, "confusion-chart")
    assert page.evaluate("document.querySelectorAll('#agreement-charts .main-svg').length") > 1
    assert page.evaluate("document.querySelectorAll('main b').length") == 0  # the case "<b>two</b>" is text


def test_planes_show_the_image_and_move(page):
    assert 20 < bright(page, 0) < 200
    before = page.evaluate("document.querySelector('.plane-slider output').textContent")
    page.evaluate(
        "(() => { const s = document.querySelector('.plane-slider input'); s.value = 0;"
        " s.dispatchEvent(new Event('input')); })()"
    )
    after = page.evaluate("document.querySelector('.plane-slider output').textContent")
    assert before != after
    assert after.startswith("1/12")


def test_a_window_makes_a_plane_darker(page):
    before = bright(page, 0)
    page.evaluate(
        "(() => { const w = document.querySelectorAll('.tools fieldset input[type=range]')[1]; w.value = w.max;"
        " w.dispatchEvent(new Event('input')); })()"
    )
    page.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert bright(page, 0) < before - 20


def test_tables_sort_both_ways(page):
    cells = "[...document.querySelectorAll('#labels tbody tr')].map((row) => row.cells[2].textContent)"
    page.evaluate("document.querySelectorAll('#labels button.sort')[2].click()")
    assert page.evaluate(cells) == ["0", "1"]
    page.evaluate("document.querySelectorAll('#labels button.sort')[2].click()")
    assert page.evaluate(cells) == ["1", "0"]
    assert page.evaluate("[...document.querySelectorAll('#labels [aria-sort]')].map((th) => th.textContent)") == [
        "Missed"
    ]


def test_a_point_leads_to_its_row_and_all_its_numbers(page):
    page.evaluate("document.getElementById('distribution-chart').emit('plotly_click', { points: [{ customdata: 2 }] })")
    assert page.evaluate("document.querySelector('tr.found').dataset.key") == "three"
    detail = page.evaluate("document.querySelector('tr.detail').textContent")
    assert "missed" in detail
    assert "∞" in detail


def test_surfaces_are_drawn_when_they_come_into_sight(page):
    page.evaluate("document.querySelector('.surface').scrollIntoView()")
    page.wait_for("document.querySelector('.surface-plot').data?.length === 3")
    names = page.evaluate("document.querySelector('.surface-plot').data.map((mesh) => mesh.name)")
    assert names == ["a, reference", "b & c, reference", "a, prediction"]
    assert page.errors == []


def test_a_comparison_opens_offline_without_an_error(run, tmp_path):
    with Page(write_comparison_report(write_comparison(tmp_path / "out", {"A": run, "B": run}))) as page:
        assert (page.errors, page.requests) == ([], [])
        assert page.evaluate("document.querySelectorAll('.plane-row canvas').length") == 3 * 12
        assert all(drawn(page, chart) for chart in ("forest-chart", "rank-chart", "line-chart"))


def test_a_script_that_fails_is_said_on_the_page(run, tmp_path):
    damaged = tmp_path / "damaged.html"
    html = write_evaluation_report(run).read_text(encoding="utf-8")
    damaged.write_text(re.sub(r'(id="case-data">)[^<]*', r"\1AAAA", html), encoding="utf-8")
    with Page(damaged) as page:
        told = page.evaluate("document.getElementById('script-problem').textContent")
        assert told.startswith("Charts or pictures could not be drawn")
        assert page.errors
