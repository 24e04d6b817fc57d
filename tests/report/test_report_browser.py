"""The page in a browser, without a network: it draws everything and logs no error."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from report_folders import scored_row, write_case, write_comparison, write_evaluation

from medseg3d.report import write_comparison_report, write_evaluation_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the report cannot be opened in a browser")

# Software rendering, so that it works without a display; and names of hosts lead nowhere.
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
    "--virtual-time-budget=8000", "--window-size=1200,900",
)  # fmt: skip


def opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The page after its scripts have run, and what it logged."""
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


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


def test_an_evaluation_opens_offline_without_an_error(run, tmp_path):
    dom, logged = opened(write_evaluation_report(run), tmp_path)
    # Messages of level INFO are the browser's hints on speed.
    assert [line for line in logged if "INFO:CONSOLE" not in line or "Error" in line] == []
    assert re.search(r'id="script-problem" hidden', dom)
    assert dom.count("<canvas tabindex") == 3 * 9
    assert dom.count('class="chip"') == 2
    for chart in ("distribution-chart", "confusion-chart"):
        assert re.search(rf'id="{chart}"[^>]*>\s*<div class="plot-container', dom), chart
    assert dom.count('aria-label="Bland–Altman plot of') == 2
    assert dom.count('class="sort"') > 10
    assert "<b>two</b>" not in dom


def test_a_comparison_opens_offline_without_an_error(run, tmp_path):
    page = write_comparison_report(write_comparison(tmp_path / "out", {"A": run, "B": run}))
    dom, logged = opened(page, tmp_path / "profile")
    assert [line for line in logged if "INFO:CONSOLE" not in line or "Error" in line] == []
    assert re.search(r'id="script-problem" hidden', dom)
    assert dom.count("<canvas tabindex") == 3 * 12
    for chart in ("forest-chart", "rank-chart", "line-chart"):
        assert re.search(rf'id="{chart}"[^>]*>\s*<div class="plot-container', dom), chart


def test_a_script_that_fails_is_said_on_the_page(run, tmp_path):
    page = tmp_path / "damaged.html"
    html = write_evaluation_report(run).read_text(encoding="utf-8")
    page.write_text(re.sub(r'(id="case-data">)[^<]*', r"\1AAAA", html), encoding="utf-8")
    dom, logged = opened(page, tmp_path / "profile")
    assert "Charts or pictures could not be drawn" in dom
    assert logged
