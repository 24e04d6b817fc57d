"""The script that counts red cells: what neighbouring images say of each other, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.errors import CaseError
from medseg3d.images import Box, ImageItem, ImageList, ImageRef, write_image_list

ROOT = Path(__file__).resolve().parents[1]
LABELS = {"Platelets": 1, "RBC": 2, "WBC": 3}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import count_red_cells

    return count_red_cells


def test_the_nearest_by_number_are_asked_and_their_median_is_said(script):
    training = {1: 10, 4: 20, 5: 30, 20: 0}
    # 3 is between 4 (one away) and 1 and 5 (two away, the lower number first): 20; the median of 20 and 10; all three.
    assert script.neighbours_error(training, {3: 16}, neighbours=1) == pytest.approx(4 / 16)
    assert script.neighbours_error(training, {3: 16}, neighbours=2) == pytest.approx(1 / 16)
    assert script.neighbours_error(training, {3: 16}, neighbours=3) == pytest.approx(4 / 16)
    # Means over images of the distance and of the marks, not of their ratios: 4 and 5 of 16 and 5.
    assert script.neighbours_error(training, {3: 16, 30: 5}, neighbours=1) == pytest.approx(9 / 21)


def test_a_file_without_a_number_has_no_neighbours(script):
    assert script.file_number("slide7_00012") == 12
    with pytest.raises(CaseError, match="smear: no number in its name"):
        script.file_number("smear")


def test_the_report_counts_red_cells_alone(script, tmp_path: Path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")

    def item(number: int, red: int, fold: int) -> ImageItem:
        boxes = (*(Box((0, 0, 2, 2), "RBC"),) * red, Box((4, 4, 6, 6), "WBC"))
        return ImageItem(f"Image_{number:03d}", f"p{number}", ImageRef(tmp_path / "a.png"), fold=fold, boxes=boxes)

    items = (item(1, 4, 1), item(2, 8, 1), item(3, 6, 0))
    images = ImageList(tmp_path / "cells.json", "cells", "detection", LABELS, training=items)
    write_image_list(images, tmp_path / "cells.json")
    text = script.neighbour_report(tmp_path / "cells.json")
    assert "marks of 1 held-out images" in text
    assert "0.333 (1), 0.000 (3)" in text  # 8 said of 6; then 6, the median of 4 and 8


@pytest.mark.real_data
def test_the_numbers_of_the_card(script, data_dir: Path, tmp_path: Path):
    words = ["datalist", "build", str(data_dir / "blood_cells"), "-o", str(tmp_path / "cells.json")]
    CliRunner().invoke(app, [*words, "--split-files", "train.txt,val.txt"], catch_exceptions=False)
    text = script.neighbour_report(tmp_path / "cells.json")
    assert text.endswith("0.287 (1), 0.246 (3), 0.245 (5), 0.246 (9), 0.259 (25)")
    card = (ROOT / "bundles" / "image_detection_2d" / "docs" / "README.md").read_text(encoding="utf-8")
    assert all(number in card for number in ("0.287", "0.246", "0.245", "0.259"))
