"""Reports of 2D masks: units of pictures, names of labels that overlap, comparisons, and the command for them."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from browser import CHROMIUM, Page
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.cli.compare import pair_table
from medseg3d.errors import UsageError
from medseg3d.evaluation import compare_runs, evaluate_masks2d
from medseg3d.images import ImageItem, ImageList, ImageRef, write_image_list
from medseg3d.report import write_evaluation_report
from medseg3d.report.colours import Structure, _contrast_to_white, on_white, palette_of
from medseg3d.report.evaluation_tables import occurring
from medseg3d.report.files import comparison_in_units
from medseg3d.report.panels import Budget, panel
from medseg3d.report.volumes import Grid, reduced
from medseg3d.report.words import METRICS, metric_text, units_of

SIZE = (40, 50)
VOLUME_WORDS = re.compile(
    r"\bml\b|\bmm\b|[Vv]olume|[Vv]oxel|surface|slices|millilit|Radiological|\bcoronal\b", re.ASCII
)
SAID_ANYWAY = re.compile(r"Normalised surface distance|DeepMind's surface-distance|symmetric surface distance")


def square(row: int, column: int, side: int = 12) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[row : row + side, column : column + side] = 255
    return mask


def save(path: Path, pixels: np.ndarray, *, spacing_mm: float | None = None) -> Path:
    """A PNG, or with a spacing a NIfTI of one slice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if spacing_mm is None:
        Image.fromarray(pixels).save(path)
        return path
    path = path.with_suffix(".nii")
    nibabel.save(nibabel.Nifti1Image(pixels.T[..., None], np.diag([spacing_mm, spacing_mm, 1, 1])), path)
    return path


def overlapping(folder: Path, *, shift: int = 1, spacing_mm: float | None = None, cases: int = 7) -> Path:
    """An evaluation of lungs and a heart that overlaps them, each found some columns too far; returns its folder."""
    items = []
    for n in range(cases):
        truth = {"lungs": square(8, 6, 20), "heart": square(14, 18, 16)}
        item: dict[str, Any] = {"case": f"c{n}", "patient": f"p{n}"}
        image = np.random.default_rng(n).integers(60, 120, SIZE).astype(np.uint8)
        item["image"] = str(save(folder / f"{n}.png", image, spacing_mm=spacing_mm))
        item["label"] = [str(save(folder / f"{n}_{name}.png", mask)) for name, mask in truth.items()]
        for name, mask in truth.items():
            save(folder / "out" / f"c{n}_{name}.png", np.roll(mask, shift + n % 3, axis=1))
        items.append(item)
    evaluate_masks2d(items, folder / "out", labels={"lungs": 1, "heart": 2}, multi_label=True)
    return folder / "out"


def payload(html: str, name: str) -> Any:
    (text,) = re.findall(rf'<script type="application/octet-stream" id="{name}">([^<]*)</script>', html)
    return json.loads(gzip.decompress(base64.b64decode(text)))


def words(html: str) -> str:
    """What a reader of the page sees without scripts, the command and where files lie left out."""
    body = html[: html.index("<script>/**\n* plotly.js")]
    for part in (r'<section id="provenance".*?</section>', r"<style>.*?</style>", r"<script.*?</script>", r"<[^>]+>"):
        body = re.sub(part, " ", body, flags=re.DOTALL)
    return SAID_ANYWAY.sub(" ", unescape(body))


@pytest.fixture(scope="module")
def in_pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return overlapping(tmp_path_factory.mktemp("A"))


@pytest.fixture(scope="module")
def html(in_pixels: Path) -> str:
    return (in_pixels / "report.html").read_text(encoding="utf-8")


# Labels that overlap -------------------------------------------------------------------------------------------------


def test_pictures_of_labels_that_overlap_have_their_names_and_colours(html):
    shown = payload(html, "case-volume-0")
    assert [label["name"] for label in shown["labels"]] == ["lungs", "heart"]
    assert [label["colour"] for label in shown["labels"]] == ["#e69f00", "#56b4e9"]
    assert shown["held"] == [[0], [1], [0, 1]]  # ids: lungs alone, heart alone, both
    assert (shown["plane_unit"], shown["surfaces"]) == ("px", [])
    voxels = np.frombuffer(base64.b64decode(shown["maps"][0]["voxels"]), np.uint8).reshape(shown["shape"], order="F")
    upright = voxels[::-1, ::-1, 0].T  # RAS+: columns run to the right, rows to the front
    assert upright[10, 10] == 1 and upright[20, 20] == 3 and upright[20, 30] == 2 and upright[0, 0] == 0


def test_a_palette_shows_what_no_label_has_alone():
    overlap = palette_of([{"name": "a", "ids": [1, 3]}, {"name": "b", "ids": [2, 3]}])
    assert overlap.structures == (Structure("a", "#e69f00", (1, 3)), Structure("b", "#56b4e9", (2, 3)))
    tumour = palette_of([{"name": "core", "ids": [1]}, {"name": "rim", "ids": [2]}, {"name": "all", "ids": [1, 2]}])
    assert [structure.name for structure in tumour.structures] == ["core", "rim"]
    assert tumour.by_name["all"] not in {structure.colour for structure in tumour.structures}


@given(st.integers(0, 0xFFFFFF))
def test_thin_lines_are_dark_enough_for_a_white_page(colour):
    shown = on_white(f"#{colour:06x}")
    parts = [int(shown[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    assert _contrast_to_white(parts) > 2.95  # 3, but for the rounding to 8 bits
    if _contrast_to_white([int(f"{colour:06x}"[i : i + 2], 16) / 255 for i in (0, 2, 4)]) >= 3:
        assert shown == f"#{colour:06x}"


def test_combinations_that_no_pixel_has_are_not_in_the_confusion():
    labels = ["background", "a alone", "b alone", "a + b"]
    matrix = [[9, 0, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    shown = occurring({"labels": labels, "matrix": matrix}, ["a", "b"])
    assert shown == {"labels": ["background", "a alone", "a + b"], "matrix": [[9, 0, 0], [0, 4, 0], [0, 1, 0]]}
    empty = {"labels": ["background", "a"], "matrix": [[9, 0], [0, 0]]}
    assert occurring(empty, ["a"]) == empty  # a label that nobody has is still one of the study's
    assert occurring(None, []) is None


@pytest.fixture(scope="module")
def page(in_pixels: Path) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no chromium: the report cannot be opened in a browser")
    with Page(in_pixels / "report.html") as opened:
        yield opened


def colours_of(page: Page, canvas: int) -> set[str]:
    return set(page.evaluate(
        f"(() => {{ const c = document.querySelectorAll('.plane-row canvas')[{canvas}];"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, found = new Set();"
        " for (let i = 0; i < d.length; i += 4) found.add([d[i], d[i + 1], d[i + 2]].join());"
        " return [...found]; })()"
    ))  # fmt: skip


def test_every_label_has_its_outline_and_can_be_hidden(page):
    assert page.errors == []
    legend = "[...document.querySelector('.legend').querySelectorAll('label')].map((l) => l.textContent.trim())"
    assert page.evaluate(legend) == ["lungs", "heart"]
    lungs, heart = "230,159,0", "86,180,233"
    assert {lungs, heart} <= colours_of(page, 1)
    page.evaluate("document.querySelector('.legend input').click()")
    page.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert colours_of(page, 1) & {lungs, heart} == {heart}
    page.evaluate("document.querySelector('.legend input').click()")


def test_a_picture_has_one_plane_and_no_steering(page):
    assert page.evaluate("document.querySelector('.viewer').querySelectorAll('.plane-row').length") == 1
    assert page.evaluate("document.querySelectorAll('.plane-slider, .plane-row canvas[tabindex]').length") == 0


# Units ---------------------------------------------------------------------------------------------------------------


def test_a_report_in_pixels_has_no_word_of_volumes(html):
    assert not set(VOLUME_WORDS.findall(words(html)))
    assert "Area (px)" in html and "HD95 (px)" in html and "\nat 2 px" in html


def test_no_metric_of_a_picture_speaks_of_volumes():
    units = units_of({"plane_unit": "px"})
    for metric in METRICS:
        text = units.of(metric)
        assert not VOLUME_WORDS.findall(SAID_ANYWAY.sub("", f"{text.heading} {text.meaning}")), metric.key
    assert metric_text("hd95_weighted_mm", units).heading == "HD95 by length (px)"
    assert metric_text("spot_volume_ml", units).heading == "Spot volume (px)"  # of somebody else's table


def test_a_comparison_of_pictures_is_in_their_units(in_pixels, tmp_path):
    other = overlapping(tmp_path / "B", shift=3)
    done = compare_runs([in_pixels, other], output_dir=tmp_path / "out", names=["A", "B"], resamples=100)
    assert done.content["plane_unit"] == "px"
    page = done.report.read_text(encoding="utf-8")
    assert not set(VOLUME_WORDS.findall(words(page)))
    assert "Absolute area difference (px)" in page
    assert payload(page, "case-volume-0")["plane_unit"] == "px"
    shown = payload(page, "comparison-data")["cases"]
    assert {"HD95 (px)", "Absolute area difference (px)"} <= {metric["heading"] for metric in shown["metrics"]}


def test_sizes_of_a_comparison_are_scaled_and_nothing_else():
    pair = {"metric": "absolute_volume_difference_ml", "difference": -0.002, "interval": [-0.004, 0.001], "n": 7,
            "mean_a": 0.01, "mean_b": 0.012, "median_difference": None, "median_interval": None}  # fmt: skip
    case = {"metric": "absolute_volume_difference_ml", "values": {"A": 0.003, "B": None}}
    content = {"pairs": [pair, pair | {"metric": "hd95_mm"}], "cases_table": [case]}
    shown = comparison_in_units(content, units_of({"plane_unit": "px"}))
    first, second = shown["pairs"]
    assert (first["difference"], first["interval"], first["n"]) == (-2.0, [-4.0, 1.0], 7)
    assert second["difference"] == -0.002
    assert shown["cases_table"][0]["values"] == {"A": 3.0, "B": None}
    assert comparison_in_units(content, units_of({})) is content


def test_the_command_compares_in_pixels(in_pixels, tmp_path):
    other = overlapping(tmp_path / "B", shift=3)
    arguments = ["compare", str(in_pixels), str(other), "-o", str(tmp_path / "out"), "--names", "A,B"]
    result = CliRunner().invoke(app, [*arguments, "--metric", "hd95_mm", "--resamples", "100"])
    assert result.exit_code == 0, result.output
    assert "HD95 (px): a minus b" in result.stdout
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    console = Console(width=150, record=True)
    console.print(pair_table(content | {"metric": "absolute_volume_difference_ml"}))
    assert "Absolute area difference (px): a minus b" in console.export_text()


def test_millimetres_and_pixels_are_not_compared(in_pixels, tmp_path):
    other = overlapping(tmp_path / "B", spacing_mm=0.5)
    with pytest.raises(UsageError, match="A was evaluated on 2D images in pixels, B on 2D images in mm: evaluate both"):
        compare_runs([in_pixels, other], output_dir=tmp_path / "out", names=["A", "B"])
    larger = overlapping(tmp_path / "C", spacing_mm=1.0)
    with pytest.raises(UsageError, match=r"lungs of c0 has 100.0 and 400.0 mm² \(14 rows differ\)"):
        compare_runs([other, larger], output_dir=tmp_path / "out", names=["B", "C"])


def test_one_image_without_spacing_brings_all_to_pixels(tmp_path):
    items = []
    for case, spacing in (("a", 0.5), ("b", None), ("c", 2.0)):
        image = save(tmp_path / f"{case}.png", square(0, 0), spacing_mm=spacing)
        items.append({"case": case, "image": str(image), "label": str(save(tmp_path / f"{case}_t.png", square(5, 5)))})
        save(tmp_path / "out" / f"{case}.png", square(5, 8))  # three columns further
    summary = evaluate_masks2d(items, tmp_path / "out", labels={"square": 255})
    (problem,) = summary.problems
    assert problem.message.startswith("1 of 3 images do not say their spacing (b): distances and areas of all are in")
    assert summary.content["plane_unit"] == "px"
    assert {score.scores.hd95_mm for score in summary.scores} == {3.0}
    assert {round(score.reference_ml, 6) for score in summary.scores} == {0.144}


# Pictures in colour, and of large images -----------------------------------------------------------------------------


def coloured(folder: Path) -> Path:
    """An evaluation of one picture, green above and red below."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:20], pixels[20:] = (10, 200, 30), (250, 20, 40)
    mask = np.minimum(square(25, 20), 1)
    item = {"case": "a", "image": str(save(folder / "a.png", pixels)), "label": str(save(folder / "t.png", mask))}
    save(folder / "out" / "a.png", mask)
    evaluate_masks2d([item], folder / "out", labels={"spot": 1})
    return folder / "out"


def test_pictures_keep_their_colours(tmp_path):
    shown = payload((coloured(tmp_path) / "report.html").read_text(encoding="utf-8"), "case-volume-0")["image"]
    assert shown["colours"] is True
    (window,) = shown["windows"]
    assert (window["low"], window["high"], shown["levels"][200]) == (0, 255, 200)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["url"].split(",")[1]))))
    rows, columns = SIZE
    tiles = [sheet[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns]
             for r in range(sheet.shape[0] // rows) for c in range(shown["columns"])][:3]  # fmt: skip
    # Turned to RAS+, so that the first rows of a sheet are the last of the picture.
    assert [tile[0, 0] for tile in tiles] == [250, 20, 40]
    assert [tile[-1, -1] for tile in tiles] == [10, 200, 30]
    assert not (tmp_path / "out" / "slices" / "images").exists()  # pictures stay where they are


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the report cannot be opened in a browser")
def test_a_browser_shows_the_colours(tmp_path):
    with Page(coloured(tmp_path) / "report.html") as page:
        assert page.errors == []
        seen = page.evaluate(
            "(() => { const c = document.querySelector('.plane-row canvas'), x = c.getContext('2d');"
            " return [0.25, 0.75].map((y) => [...x.getImageData(c.width / 2, c.height * y, 1, 1).data]); })()"
        )
    assert [pixel[:3] for pixel in seen] == [[10, 200, 30], [250, 20, 40]]


def test_an_image_of_another_size_is_left_out_of_the_pictures(tmp_path):
    made = coloured(tmp_path)
    save(tmp_path / "a.png", np.zeros((7, 9), np.uint8))
    page = write_evaluation_report(made).read_text(encoding="utf-8")
    assert "The image is not shown: a.png has 7×9 pixels, the reference 40×50." in page


def test_colours_of_a_large_picture_are_joined_each_alone():
    colours = np.zeros((60, 40, 1, 3), np.uint8)
    colours[..., 0], colours[..., 2] = 200, 50
    grid = Grid(colours, {"reference": np.ones((60, 40, 1), np.uint8)}, np.eye(4))
    small = reduced(grid, max_voxels=700)
    assert small.image is not None
    assert small.image.shape == (*small.shape, 3)
    assert np.unique(small.image.reshape(-1, 3), axis=0).tolist() == [[200, 0, 50]]


@pytest.mark.parametrize(("spacing", "unit"), [(1.0, "px"), (0.25, "mm")])
def test_a_large_picture_keeps_its_plane(spacing, unit):
    mask = np.zeros((300, 200, 1), np.uint8)
    mask[30:200, 40:150] = 1
    grid = Grid(mask.astype(np.float32), {"reference": mask}, np.diag([spacing, spacing, 1.0, 1.0]))
    small = reduced(grid, max_voxels=2_000)
    assert small.shape[2] == 1
    assert 1_000 < np.prod(small.shape) <= 2_000
    joined = np.prod(small.spacing_mm[:2]) / spacing**2
    assert small.maps["reference"].sum() * joined == pytest.approx(mask.sum(), rel=0.1)
    notes = panel("a", grid, palette_of([{"name": "l", "ids": [1]}]), budget=Budget(voxels=2_000),
                  units=units_of({"plane_unit": unit})).notes  # fmt: skip
    assert re.fullmatch(rf"Shown with pixels of [\d.]+×[\d.]+ {unit} to keep this .* the full image\.", notes[0])


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Six images in two folds, one for testing, and masks of fold 1 as a bundle writes them."""
    items = []
    for n in range(7):
        image = ImageRef(save(tmp_path / f"{n}.png", square(0, 0)))
        masks = (ImageRef(save(tmp_path / f"{n}_mask.png", np.minimum(square(5, 5), 1))),)
        items.append(ImageItem(f"c{n}", f"p{n}", image, fold=None if n == 6 else n % 2, masks=masks))
        if n % 2:
            save(tmp_path / "masks" / f"c{n}.png", np.minimum(square(5, 5 + n % 3), 1))
    images = ImageList(tmp_path / "slides.json", "slides", "segmentation_2d", {"cell": 1}, False,
                       tuple(items[:6]), tuple(items[6:]))  # fmt: skip
    write_image_list(images, tmp_path / "slides.json")
    return tmp_path


def run(folder: Path, *options: str) -> Any:
    arguments = ["evaluate", str(folder / "masks"), str(folder / "slides.json"), "-o", str(folder / "scores")]
    return CliRunner().invoke(app, [*arguments, *options])


def test_evaluate_scores_masks_of_a_list_of_images(listed):
    result = run(listed)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "Evaluating fold 1 of" in text and "3 images." in text
    assert "HD95 (px), median" in text
    assert "3 cases of 3 patients scored." in text
    summary = json.loads((listed / "scores" / "summary.json").read_text())
    assert (summary["cases"], summary["plane_unit"]) == (3, "px")
    save(listed / "masks" / "c6.png", np.minimum(square(5, 5), 1))
    assert "Evaluating testing of" in run(listed).stdout


def test_evaluate_names_images_without_a_mask_and_scores_the_others(listed):
    result = run(listed, "--fold", "-1")
    assert result.exit_code == 1
    text = " ".join(result.stdout.split())
    assert "c0.png: no such file" in text
    assert "3 cases of 3 patients scored, 3 not" in text
    assert "3 of 6 cases could be evaluated" in (listed / "scores" / "report.html").read_text(encoding="utf-8")


def test_evaluate_refuses_what_a_list_of_images_has_no_use_for(listed):
    message = str(run(listed, "--lesions", "cell", "--labels", "cell=1").exception)
    assert "leave out --labels, --lesions, which is for volumes or in the list" in message
    content = json.loads((listed / "slides.json").read_text())
    content |= {"task": "detection", "training": [{"case": "x", "image": "0.png", "boxes": []}], "testing": []}
    (listed / "slides.json").write_text(json.dumps(content))
    assert "score its answers with medseg3d evaluate-detection" in str(run(listed).exception)
