"""The bundle image_detection_2d from list to report, on drawn cells; its engine, tiles, counts, files and refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser, ConfigWorkflow, run
from PIL import Image
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.engines import BoxPrecision, collate_images
from medseg3d.engines.checkpoint import load_checkpoint, save_atomically
from medseg3d.engines.detection import training_targets
from medseg3d.errors import CaseError, ConfigError, UsageError
from medseg3d.inference import TiledImage, WholeImage
from medseg3d.inference.box_tables import DetectedImage, coco_content
from medseg3d.inference.counting import Thresholds, choose_thresholds, read_thresholds, write_thresholds
from medseg3d.inference.tiles import Tile, _of_core, tiles_of
from medseg3d.metrics.detection import Boxes

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "image_detection_2d"
LABELS = {"round": 1, "square": 2}


def configs(*names: str) -> list[str]:
    return [str(BUNDLE / "configs" / f"{name}.yaml") for name in names]


def cell_image(
    rng: np.random.Generator, *, rows: int = 96, columns: int = 128
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Dark discs and bright squares on grey, one in each quarter or none, and their boxes."""
    pixels = np.full((rows, columns, 3), 120, dtype=np.uint8)
    pixels += rng.integers(0, 10, pixels.shape, dtype=np.uint8)
    y, x = np.mgrid[:rows, :columns] + 0.5
    boxes = []
    for quarter in range(4):
        kind = rng.choice(["round", "square", ""])
        if not kind:
            continue
        half = int(rng.integers(10, 18))
        top = (quarter // 2) * rows // 2 + int(rng.integers(0, rows // 2 - 2 * half))
        left = (quarter % 2) * columns // 2 + int(rng.integers(0, columns // 2 - 2 * half))
        inside = np.maximum(abs(y - top - half), abs(x - left - half)) < half
        if kind == "round":
            inside = np.hypot(y - top - half, x - left - half) < half
        pixels[inside] = (30, 10, 60) if kind == "round" else (230, 240, 180)
        boxes.append({"xyxy": [left, top, left + 2 * half, top + 2 * half], "label": str(kind)})
    return pixels, boxes


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 12 images, of which one has no box; fold 0 has 4."""
    folder = tmp_path_factory.mktemp("cells")
    rng = np.random.default_rng(3)
    entries = []
    for i in range(12):
        pixels, boxes = cell_image(rng)
        if i == 5:
            pixels[:], boxes = 120, []
        Image.fromarray(pixels).save(folder / f"cell{i:02d}.png")
        entries.append({"case": f"cell{i:02d}", "patient": f"p{i}", "image": f"cell{i:02d}.png", "boxes": boxes})
        entries[-1]["fold"] = 0 if i % 3 == 0 else 1
    path = folder / "cells.json"
    content = {"name": "cells", "task": "detection", "labels": LABELS, "training": entries, "testing": []}
    path.write_text(json.dumps(content))
    return path


def small(datalist: Path, folder: Path) -> dict[str, Any]:
    return {
        "bundle_root": str(BUNDLE),
        "datalist": str(datalist),
        "labels": LABELS,
        "image_size": [96, 128],
        "output_dir": str(folder),
        "device": "cpu",
        "batch_size": 4,
        "max_epochs": 2,
        "iterations_per_epoch": 2,
        "val_interval": 1,
        "network_def::fpn_channels": 32,
        "network_def::head_convs": 1,
    }


# The bundle --------------------------------------------------------------------------------------------------------


def test_training_evaluation_and_inference_say_the_same() -> None:
    train, inference = (yaml.safe_load(Path(path).read_text()) for path in configs("train", "inference"))
    shared = ["labels", "channels", "image_size", "normalisation", "architecture", "backbone", "levels", "network_def"]
    shared += ["network", "inferer"]
    assert {name: train[name] for name in shared} == {name: inference[name] for name in shared}
    steps = inference["preprocessing"]["transforms"]
    evaluate = yaml.safe_load(Path(configs("evaluate")[0]).read_text())["evaluate"]
    assert evaluate["transform"]["transforms"] == steps
    with_boxes = [*steps[:-1], steps[-1] | {"boxes_key": "boxes"}]
    assert train["train"]["deterministic_transforms"] == with_boxes
    assert train["validate"]["preprocessing"]["transforms"] == with_boxes


@pytest.mark.parametrize(
    ("files", "kind"), [(["train"], "train"), (["train", "evaluate"], "train"), (["inference"], "infer")], ids=str
)
def test_properties_of_the_workflow_are_there(files: list[str], kind: str, cells: Path, tmp_path: Path) -> None:
    overrides = {"bundle_root": str(BUNDLE), "output_dir": str(tmp_path), "device": "cpu", "labels": LABELS}
    overrides |= {"datalist": str(cells)} if kind == "train" else {"dataset_dir": str(cells), "weights": None}
    workflow = ConfigWorkflow(configs(*files), workflow_type=kind, logging_file=False, **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.fixture(scope="module")
def trained(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two short epochs, evaluated."""
    folder = tmp_path_factory.mktemp("run") / "out"
    run(run_id="training", config_file=configs("train"), logging_file=False, **small(cells, folder))
    both = configs("train", "evaluate")
    run(run_id="evaluating", config_file=both, logging_file=False, **small(cells, folder))
    return folder


def test_bundle_trains_and_evaluates(trained: Path) -> None:
    rows = pd.read_csv(trained / "metrics.csv")
    assert {"val_map50", "val_map50_round", "val_map50_square", "val_map"} <= set(rows.columns)
    assert json.loads((trained / "run.json").read_text())["cases"] == 8
    out = trained / "evaluation"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cases"] == 4
    assert set(summary["labels"]) == set(LABELS)
    assert (out / "report.html").is_file()
    assert json.loads((trained / "thresholds.json").read_text())["images"] == 8
    found = json.loads((out / "detections.json").read_text())
    assert found["info"]["bundle"] == "image_detection_2d"
    assert [image["file_name"] for image in found["images"]] == [f"cell{i:02d}.png" for i in (0, 3, 6, 9)]
    truth = json.loads((out / "references.json").read_text())
    assert [image["id"] for image in truth["images"]] == [image["id"] for image in found["images"]]
    counts = pd.read_csv(out / "counts.csv")
    assert list(counts.columns) == ["case", "patient", "n_round", "n_square"]
    table = pd.read_csv(out / "detections.csv")
    assert (table[["left", "top"]] >= 0).all().all()
    assert (table["right"] <= 128).all()
    assert (table["bottom"] <= 96).all()
    counted = table[table.counted == 1].groupby(["case", "label"]).size()
    for row in counts.itertuples():
        assert (row.n_round, row.n_square) == tuple(counted.get((row.case, name), 0) for name in LABELS)
    assert Image.open(out / "pictures" / "cell00.png").size[0] == 128


def test_a_resumed_training_ends_with_the_same_weights(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_and_keep(content: dict[str, Any], path: Path) -> None:
        save_atomically(content, path)
        if path.name == "last.pt" and content["epoch"] == 1:
            save_atomically(content, tmp_path / "cut" / "last.pt")

    monkeypatch.setattr("medseg3d.engines.training.save_atomically", save_and_keep)
    run(run_id="training", config_file=configs("train"), logging_file=False, **small(cells, tmp_path / "whole"))
    again = small(cells, tmp_path / "cut") | {"resume": True}
    run(run_id="training", config_file=configs("train"), logging_file=False, **again)
    whole, cut = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    assert whole["epoch"] == cut["epoch"] == 2
    assert all(torch.equal(whole["network"][key], cut["network"][key]) for key in whole["network"])


@pytest.mark.parametrize("architecture", ["retinanet", "faster_rcnn", "ssdlite"])
def test_other_architectures_train_by_one_value(architecture: str, cells: Path, tmp_path: Path) -> None:
    overrides = small(cells, tmp_path) | {"architecture": architecture, "max_epochs": 1, "iterations_per_epoch": 1}
    run(run_id="training", config_file=configs("train"), logging_file=False, **overrides)
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 1


def test_frozen_stages_do_not_move_and_the_head_does(cells: Path, tmp_path: Path) -> None:
    overrides = small(cells, tmp_path / "first") | {"max_epochs": 1, "learning_rate": 1e-9}
    run(run_id="training", config_file=configs("train"), logging_file=False, **overrides)
    before = load_checkpoint(tmp_path / "first" / "last.pt")["network"]
    overrides = small(cells, tmp_path / "second") | {"max_epochs": 1, "frozen_epochs": 1}
    overrides["initial_weights"] = str(tmp_path / "first" / "last.pt")
    run(run_id="training", config_file=configs("train"), logging_file=False, **overrides)
    after = load_checkpoint(tmp_path / "second" / "last.pt")["network"]
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"head"}  # the statistics of frozen normalisations stay too


def test_detect_takes_a_folder_and_reports_a_damaged_image(trained: Path, cells: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in (1, 2):
        (images / f"cell{i:02d}.png").write_bytes((cells.parent / f"cell{i:02d}.png").read_bytes())
    (images / "broken.png").write_bytes((cells.parent / "cell01.png").read_bytes()[:500])
    overlay = tmp_path / "small.json"
    keys = ("labels", "image_size", "network_def::fpn_channels", "network_def::head_convs")
    overlay.write_text(json.dumps({key: small(cells, tmp_path)[key] for key in keys}))
    command = ["detect", str(images), str(tmp_path / "out"), "--bundle", str(BUNDLE), "--device", "cpu"]
    command += ["--weights", str(trained / "best.pt"), "--config-file", str(overlay), "--pictures", "1"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, CaseError)
    assert re.search(r"1 of 3 images failed, the others are done:\n  broken: .*broken\.png", str(result.exception))
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [image["case"] for image in found["images"]] == ["cell01", "cell02"]
    assert found["info"]["thresholds"]["images"] == 8  # thresholds.json beside the weights was taken
    assert not (tmp_path / "out" / "references.json").exists()
    assert [path.name for path in (tmp_path / "out" / "pictures").iterdir()] == ["cell01.png"]

    (images / "broken.png").unlink()
    tiled = CliRunner().invoke(app, [*command, "--tile", "64x64"])
    assert tiled.exception is None
    assert len(pd.read_csv(tmp_path / "out" / "counts.csv")) == 2
    wrong = CliRunner().invoke(app, [*command, "--tile", "big"])
    assert wrong.exit_code == 2
    assert "such as 480x640" in wrong.output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"max_epoch": 3}, "Did you mean 'max_epochs'"),
        ({"labels": {"round": 1}}, "those of .* are {round: 1, square: 2}"),
        ({"fold": 9}, "no fold 9"),
        ({"task": "classification"}, "is a list for detection, this bundle is for classification"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_override_stops_before_training(
    override: dict[str, Any], message: str, cells: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError) as caught:
        run(
            run_id="training",
            config_file=configs("train"),
            logging_file=False,
            **(small(cells, tmp_path) | override),
        )
    assert isinstance(caught.value.__cause__, ConfigError)
    assert re.search(message, str(caught.value.__cause__))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_image_is_named_before_training(cells: Path, tmp_path: Path) -> None:
    content = json.loads(cells.read_text())
    for entry in content["training"]:
        entry["image"] = str(cells.parent / entry["image"])
    content["training"][2]["image"] = str(tmp_path / "gone.png")
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as caught:
        run(
            run_id="training",
            config_file=configs("train"),
            logging_file=False,
            **small(tmp_path / "list.json", tmp_path / "run"),
        )
    assert "1 of its 12 files do not exist" in str(caught.value.__cause__)
    assert "gone.png" in str(caught.value.__cause__)


def test_the_exported_detector_computes_the_same() -> None:
    parser = ConfigParser()
    parser.read_config(configs("inference"))
    network = parser.get_parsed_content("network_def").eval()
    images = [torch.randn(3, 256, 320)]
    with torch.no_grad():
        expected = network(images)[0]
        _, exported = torch.jit.script(network)(images)
    for key, value in expected.items():
        torch.testing.assert_close(exported[0][key], value, atol=1e-4, rtol=1e-4)


# Training and validation -------------------------------------------------------------------------------------------


def test_boxes_without_area_are_not_learnt_and_none_are_needed() -> None:
    boxes = np.array([[0, 0, 9, 9], [5, 5, 5, 8], [3, 3, 8, 4]], dtype=np.float32)
    targets = training_targets({"boxes": boxes, "box_labels": np.array([1, 2, 2])})
    assert targets["boxes"].tolist() == [[0, 0, 9, 9], [3, 3, 8, 4]]
    assert targets["labels"].tolist() == [1, 2]
    none = training_targets({"boxes": np.zeros((0, 4)), "box_labels": np.zeros(0)})
    assert (none["boxes"].shape, none["labels"].dtype) == ((0, 4), torch.int64)
    samples = [{"image": torch.zeros(3, 4, 4)}, {"image": torch.zeros(3, 8, 9)}]
    assert collate_images(samples) == samples


def test_average_precision_of_validation_agrees_with_torchmetrics() -> None:
    from torchmetrics.detection import MeanAveragePrecision

    rng = np.random.default_rng(0)
    metric, oracle = BoxPrecision(LABELS), MeanAveragePrecision()
    for _ in range(12):
        corners = rng.uniform(0, 80, (6, 2))
        truth = np.hstack([corners, corners + rng.uniform(8, 30, (6, 2))]).astype(np.float32)
        labels = rng.integers(1, 3, 6)
        found = {
            "boxes": torch.from_numpy(truth + rng.normal(0, 3, truth.shape).astype(np.float32)),
            "scores": torch.from_numpy(rng.uniform(0, 1, 6).astype(np.float32)),
            "labels": torch.from_numpy(np.where(rng.uniform(size=6) < 0.8, labels, 3 - labels)),
        }
        metric.update([{"boxes": truth, "box_labels": labels, "found": found}])
        oracle.update([found], [{"boxes": torch.from_numpy(truth), "labels": torch.from_numpy(labels)}])
    expected = oracle.compute()
    assert metric.compute() == pytest.approx(float(expected["map_50"]), abs=1e-6)
    assert np.mean([ap for _, ap in metric.precision.values()]) == pytest.approx(float(expected["map"]), abs=1e-6)


def test_average_precision_without_any_detection_or_class() -> None:
    metric = BoxPrecision(LABELS)
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    metric.update([{"boxes": np.array([[0, 0, 5, 5]]), "box_labels": np.array([1]), "found": nothing}])
    assert metric.compute() == 0.0
    assert np.isnan(metric.precision["square"][0])  # no image has one: it leaves the mean


# Tiles -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 120), st.integers(8, 120), st.floats(0, 0.9))
def test_tiles_cover_the_image_and_cores_divide_it(
    rows: int, columns: int, tile_rows: int, tile_columns: int, overlap: float
) -> None:
    tiles = list(tiles_of((rows, columns), (tile_rows, tile_columns), overlap=overlap))
    area = sum((t.core[2] - t.core[0]) * (t.core[3] - t.core[1]) for t in tiles)
    assert area == pytest.approx(rows * columns)
    for tile in tiles:
        left, top, right, bottom = tile.core
        assert 0 <= tile.left <= left <= right <= tile.right <= columns
        assert 0 <= tile.top <= top <= bottom <= tile.bottom <= rows
        assert (tile.right - tile.left, tile.bottom - tile.top) == (min(tile_columns, columns), min(tile_rows, rows))


class Bright(torch.nn.Module):
    """Finds connected bright pixels: a detector whose answers are known."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        from scipy.ndimage import find_objects, label

        results = []
        for image in images:
            places = find_objects(label(image[0].numpy() > 0.5)[0])
            boxes = [[x.start, y.start, x.stop, y.stop] for y, x in places]
            found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            labels = torch.ones(len(boxes), dtype=torch.int64)
            results.append({"boxes": found, "scores": torch.full((len(boxes),), 0.9), "labels": labels})
        return results


def test_an_object_at_the_border_of_two_tiles_is_left_to_neither() -> None:
    """Each places its centre half a pixel beyond the border, on the other's side."""
    left, right = list(tiles_of((60, 80), (60, 60), overlap=0.25))[:2]
    border = left.core[2]
    assert border == right.core[0]

    def seen(tile: Tile, centre: float) -> int:
        box = torch.tensor([[centre - 10 - tile.left, 20.0, centre + 10 - tile.left, 40.0]])
        found = {"boxes": box, "scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.int64)}
        return len(_of_core(found, tile, (1.0, 1.0))["boxes"])

    assert (seen(left, border + 0.5), seen(right, border - 0.5)) == (1, 1)
    assert (seen(left, border + 5), seen(right, border - 5)) == (0, 0)


@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_find_each_object_once_and_whole(scale: int) -> None:
    image = torch.zeros(1, 200 * scale, 260 * scale)
    rng = np.random.default_rng(1)
    truth = []
    for row in range(0, 180, 20):
        for column in range(0, 240, 20):
            y, x = (int(v) * scale for v in (row + rng.integers(2, 8), column + rng.integers(2, 8)))
            image[:, y : y + 10 * scale, x : x + 10 * scale] = 1
            truth.append((x, y, x + 10 * scale, y + 10 * scale))
    inferer = TiledImage([80 * scale, 100 * scale], [80, 100], overlap=0.25, batch_size=3)
    found = inferer(image, Bright())
    assert sorted(tuple(box) for box in found["boxes"].round().int().tolist()) == sorted(truth)
    if scale == 1:
        whole = WholeImage()(image, Bright())
        assert sorted(map(tuple, whole["boxes"].tolist())) == sorted(map(tuple, found["boxes"].tolist()))


def test_an_image_smaller_than_a_tile_is_one_tile() -> None:
    image = torch.zeros(1, 20, 30)
    image[:, 5:12, 6:18] = 1
    assert TiledImage([80, 80], [80, 80])(image, Bright())["boxes"].tolist() == [[6, 5, 18, 12]]
    with pytest.raises(UsageError, match="a share of 0 to less than 1"):
        TiledImage([80, 80], [80, 80], overlap=1.0)


# Counting ----------------------------------------------------------------------------------------------------------


def boxes(scores: list[float], classes: list[int]) -> Boxes:
    return Boxes(np.tile([0.0, 0, 9, 9], (len(scores), 1)), np.array(classes, dtype=np.int64), np.array(scores))


def test_thresholds_count_as_the_truth_does() -> None:
    found = [boxes([0.9, 0.8, 0.3, 0.2], [1, 1, 1, 2]), boxes([0.7, 0.25], [1, 2])]
    truth = [boxes([1, 1], [1, 1]), boxes([1, 1], [1, 2])]
    chosen = choose_thresholds(found, truth, {"a": 1, "b": 2, "c": 3})
    # Of class a three count from 0.3 to 0.7; of b one from 0.2 to 0.25; c is nowhere.
    assert chosen.scores == {"a": pytest.approx(0.5), "b": pytest.approx(0.225)}
    assert chosen.of("c") == 0.5
    assert chosen.images == 2


def test_difficult_boxes_are_not_to_be_counted() -> None:
    truth = Boxes(np.zeros((2, 4)), np.array([1, 1]), np.ones(2), np.array([True, False]))
    assert 0.4 < choose_thresholds([boxes([0.4, 0.6], [1, 1])], [truth], {"a": 1}).scores["a"] < 0.6


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.01, 0.99))
def test_rescaling_keeps_the_order_and_moves_the_threshold_to_a_half(scores: list[float], threshold: float) -> None:
    before = boxes(scores, [1] * len(scores))
    after = Thresholds({"a": threshold}).rescaled(before, {"a": 1}).scores
    assert ((after >= 0.5) == (np.array(scores) >= threshold)).all()
    assert ((after >= 0) & (after <= 1 + 1e-12)).all()
    order = np.argsort(scores, kind="stable")
    assert (np.diff(after[order]) >= -1e-12).all()


def test_thresholds_are_read_back_or_refused(tmp_path: Path) -> None:
    chosen = Thresholds({"a": 0.3}, "by hand", 7)
    write_thresholds(tmp_path / "t.json", chosen)
    assert read_thresholds(tmp_path / "t.json") == chosen
    assert read_thresholds(tmp_path / "none.json") == read_thresholds(None) == Thresholds()
    for text in ("{", "[]", '{"scores": {"a": 2}, "rule": "", "images": 1}', '{"scores": 3, "rule": "", "images": 1}'):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(CaseError, match=r"t\.json: no thresholds that can be read"):
            read_thresholds(tmp_path / "t.json")


# Files -------------------------------------------------------------------------------------------------------------


def test_coco_content_has_widths_and_names_below_the_common_folder(tmp_path: Path) -> None:
    found = Boxes(np.array([[1.0, 2, 4, 8.004]]), np.array([2]), np.array([0.75]))
    nothing = boxes([], [])
    images = [
        DetectedImage("a", "p1", str(tmp_path / "one" / "a.png"), (10, 20), found),
        DetectedImage("b", "", f"{tmp_path / 'two' / 'b.tif'}#page=3", (30, 40), nothing),
    ]
    content = coco_content(images, LABELS, scored=True)
    assert [image["file_name"] for image in content["images"]] == ["one/a.png", "two/b.tif#page=3"]
    assert content["images"][0] == {
        "id": 1, "file_name": "one/a.png", "height": 10, "width": 20, "case": "a", "patient": "p1",
    }  # fmt: skip
    assert content["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 6], "area": 18, "iscrowd": 0, "score": 0.75}
    ]
    assert "score" not in coco_content(images, LABELS, scored=False)["annotations"][0]
