"""``image_segmentation_2d`` from lists to reports: training, resume, inference, objects, evaluation, refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, run
from PIL import Image

from medseg3d.engines.checkpoint import load_checkpoint, save_atomically
from medseg3d.errors import UsageError
from medseg3d.images import read_mask

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "image_segmentation_2d"
LABELS = {"cell": 1, "vessel": 2}
SIZE = (41, 53)  # odd, and smaller than two windows


def configs(*names: str) -> list[str]:
    return [str(BUNDLE / "configs" / f"{name}.yaml") for name in names]


def drawn(seed: int, *, colour: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs, two of which touch, and a dark bar, on noise; and their label map."""
    generator = np.random.default_rng(seed)
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    mask = np.zeros(SIZE, np.uint8)
    top = int(generator.integers(2, 8))
    mask[top : top + 4] = 2
    for column in (12, 26):
        mask[(rows - 28) ** 2 + (columns - column) ** 2 <= 7.4**2] = 1
    pixels = 100 + 90.0 * (mask == 1) - 70.0 * (mask == 2) + generator.normal(0, 4, SIZE)
    image = np.clip(pixels, 0, 255).astype(np.uint8)
    return (np.stack([image, 255 - image, image], -1) if colour else image), mask


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images of as many patients in three folds, and one to segment: a list of label maps."""
    folder = tmp_path_factory.mktemp("images2d")
    entries = []
    for number in range(10):
        image, mask = drawn(number)
        Image.fromarray(image).save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"{number}_mask.png")
        entries.append(
            {"case": f"c{number}", "patient": f"p{number}", "image": f"{number}.png", "mask": f"{number}_mask.png"}
        )
    training = [entry | {"fold": number % 3} for number, entry in enumerate(entries[:9])]
    del entries[9]["mask"]  # or the evaluation would be of it instead of the held-out fold
    content = {"name": "drawn", "task": "segmentation_2d", "labels": LABELS, "training": training}
    (folder / "list.json").write_text(json.dumps(content | {"testing": entries[9:]}))
    return folder / "list.json"


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images with a mask a label; the second label is a ring that overlaps the first."""
    folder = tmp_path_factory.mktemp("overlapping")
    training = []
    for number in range(4):
        image, mask = drawn(number, colour=True)
        Image.fromarray(image).save(folder / f"{number}.png")
        near = np.abs(np.arange(SIZE[0])[:, None] - 28) < 5
        for name, layer in (("cell", mask == 1), ("band", near & np.ones(SIZE, bool))):
            Image.fromarray(np.where(layer, np.uint8(255), np.uint8(0))).save(folder / f"{number}_{name}.png")
        masks = [f"{number}_cell.png", f"{number}_band.png"]
        entry = {"case": f"c{number}", "patient": f"p{number}", "image": f"{number}.png", "mask": masks}
        training.append(entry | {"fold": number % 2})
    labels = {"cell": 1, "band": 2}
    content = {"name": "rings", "task": "segmentation_2d", "labels": labels, "multi_label": True, "training": training}
    (folder / "list.json").write_text(json.dumps(content))
    return folder / "list.json"


def small(datalist: Path, folder: Path) -> dict[str, Any]:
    """Overrides with which the bundle learns the drawn images in seconds."""
    return {
        "bundle_root": str(BUNDLE),
        "datalist": str(datalist),
        "labels": LABELS,
        "patch_size": [32, 48],
        "filters": [8, 8, 16, 16, 16],
        "output_dir": str(folder),
        "device": "cpu",
        "batch_size": 4,
        "max_epochs": 2,
        "iterations_per_epoch": 15,
        "val_interval": 2,
        "learning_rate": 0.01,
        "augment_prob": 0.1,
    }


def shared(overrides: dict[str, Any]) -> dict[str, Any]:
    """Of a training's overrides, those that inference has too."""
    names = ("bundle_root", "labels", "patch_size", "filters", "device", "channels", "multi_label", "image_size")
    return {name: overrides[name] for name in (*names, "architecture") if name in overrides}


def train(overrides: dict[str, Any]) -> None:
    run(run_id="training", config_file=configs("train"), logging_file=False, **overrides)


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(small(images, folder))
    return folder


def test_a_short_training_learns_and_writes_its_run(trained: Path):
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert float(rows[-1]["val_mean_dice"]) > 0.8
    assert float(rows[-1]["val_miou"]) > 0.7
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    record = json.loads((trained / "run.json").read_text())
    assert (record["seed"], record["cases"], record["config"]["patch_size"]) == (0, 6, [32, 48])
    assert list((trained / "tensorboard").iterdir())


def test_evaluating_scores_the_held_out_images(images: Path, trained: Path):
    overrides = small(images, trained)
    run(run_id="evaluating", config_file=configs("train", "evaluate"), logging_file=False, **overrides)
    summary = json.loads((trained / "evaluation" / "summary.json").read_text())
    assert (summary["cases"], summary["patients"]) == (3, 3)
    assert summary["mean_dice"] > 0.8
    assert summary["dataset"]["miou"] > 0.7
    assert [problem["code"] for problem in summary["problems"]] == ["no-spacing"]
    assert "<html" in (trained / "evaluation" / "report.html").read_text()[:200].lower()
    # Image, truth and prediction beside each other, 6 pixels apart; small ones enlarged, here four times.
    assert Image.open(trained / "evaluation" / "pictures" / "c0.png").size == (3 * 4 * SIZE[1] + 12, 4 * SIZE[0])
    # What the evaluation says is what the masks say.
    found, truth = (
        np.asarray(Image.open(path)) for path in (trained / "evaluation" / "c0.png", images.parent / "0_mask.png")
    )
    dice = 2 * ((found == 1) & (truth == 1)).sum() / ((found == 1).sum() + (truth == 1).sum())
    rows = csv.DictReader((trained / "evaluation" / "cases.csv").open())
    assert float(next(r for r in rows if (r["case"], r["label"]) == ("c0", "cell"))["dice"]) == pytest.approx(dice)


def test_segmenting_writes_label_maps_objects_and_maps(images: Path, trained: Path, tmp_path: Path):
    overrides = shared(small(images, trained)) | {"dataset_dir": str(images), "output_dir": str(tmp_path)}
    overrides |= {"weights": str(trained / "best.pt"), "instances": ["cell"], "min_area_px": 20}
    overrides |= {"evaluator::save_probability": True, "evaluator::save_uncertainty": True}
    run(config_file=configs("inference"), logging_file=False, **overrides)
    mask = Image.open(tmp_path / "c9.png")
    assert (mask.mode, mask.size) == ("P", SIZE[::-1])
    assert set(np.unique(mask)) <= {0, 1, 2}
    sidecar = json.loads((tmp_path / "c9.json").read_text())
    assert sidecar["counts"] == {"cell": 2}  # the two discs touch
    assert sidecar["area_px"] == {name: int((np.asarray(mask) == i).sum()) for name, i in LABELS.items()}
    assert (sidecar["spacing_mm"], sidecar["area_mm2"]) == (None, None)
    instances = np.asarray(Image.open(tmp_path / "c9_instances.png"))
    assert {s["id"] for s in sidecar["segments_info"]} == set(np.unique(instances)) - {0}
    colours = np.asarray(Image.open(tmp_path / "c9_panoptic.png")).astype(int)
    assert np.array_equal(colours @ [1, 256, 256**2], instances)
    rows = list(csv.DictReader((tmp_path / "instances.csv").open()))
    assert [row["label"] for row in rows].count("cell") == 2
    pages = Image.open(tmp_path / "c9_probability.tif")
    assert pages.n_frames == 3
    probabilities = []
    for page in range(3):
        pages.seek(page)
        probabilities.append(np.asarray(pages))
    assert np.allclose(np.sum(probabilities, axis=0), 1, atol=1e-3)
    uncertainty = np.asarray(Image.open(tmp_path / "c9_uncertainty.tif"))
    assert 0 <= uncertainty.min() <= uncertainty.max() <= 1


def test_the_command_segments_a_folder_and_reports_a_broken_file(images: Path, trained: Path, tmp_path: Path):
    from typer.testing import CliRunner

    from medseg3d.cli import app

    folder = tmp_path / "in"
    folder.mkdir()
    image, _ = drawn(3)
    Image.fromarray(image).save(folder / "good.png")
    Image.fromarray(image).save(folder / "broken.jpg")
    (folder / "broken.jpg").write_bytes((folder / "broken.jpg").read_bytes()[:700])
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(shared(small(images, trained)) | {"device": "cpu"}))
    arguments = ["segment", str(folder), str(tmp_path / "out"), "--bundle", str(BUNDLE), "--config-file", str(values)]
    result = CliRunner().invoke(app, [*arguments, "--weights", str(trained / "best.pt")])
    assert result.exit_code == 1
    assert "1 of 2 cases failed" in str(result.exception)
    assert "broken.jpg" in str(result.exception)
    assert (tmp_path / "out" / "good.png").is_file()
    assert not list((tmp_path / "out").glob("broken*"))
    again = CliRunner().invoke(app, [*arguments, "--weights", str(trained / "best.pt"), "--formats", "seg"])
    assert "written as png, not as seg" in str(again.exception)


def test_masks_that_overlap_train_evaluate_and_segment(overlapping: Path, tmp_path: Path):
    overrides = small(overlapping, tmp_path / "run") | {"labels": {"cell": 1, "band": 2}, "multi_label": True}
    overrides |= {"channels": ["red", "green", "blue"], "loss": "bce_dice", "class_weights": [1.0, 1.0]}
    train(overrides)
    run(run_id="evaluating", config_file=configs("train", "evaluate"), logging_file=False, **overrides)
    folder = tmp_path / "run" / "evaluation"
    cell, band = (np.asarray(Image.open(folder / f"c0_{name}.png")) for name in ("cell", "band"))
    assert set(np.unique(cell)) <= {0, 255}
    assert ((cell > 0) & (band > 0)).any()
    truth = np.asarray(Image.open(overlapping.parent / "0_cell.png")) > 0
    dice = 2 * ((cell > 0) & truth).sum() / ((cell > 0).sum() + truth.sum())
    rows = csv.DictReader((folder / "cases.csv").open())
    scored = {(row["case"], row["label"]): float(row["dice"]) for row in rows}
    assert scored[("c0", "cell")] == pytest.approx(dice)
    metrics = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))[-1]
    assert scored[("c0", "cell")] + scored[("c2", "cell")] == pytest.approx(
        2 * float(metrics["val_mean_dice_cell"]), abs=0.02
    )


@pytest.mark.parametrize(
    "values",
    [
        {"architecture": "unet:resnet18", "channels": ["red", "green", "blue"], "normalize": "imagenet"},
        {"architecture": "lraspp_mobilenet_v3_large", "image_size": [64, 64], "patch_size": [64, 64]},
        {"loss": "focal", "freeze_encoder": True, "upsample": "bilinear"},
        {"loss": "jaccard", "normalize": "percentile", "ignore_index": 255, "class_weights": [1, 2, 3]},
    ],
    ids=lambda values: next(iter(values.values())),
)
def test_other_values_train_a_step(values: dict[str, Any], images: Path, tmp_path: Path):
    short = {"max_epochs": 1, "iterations_per_epoch": 1, "elastic": 0.02, "clahe": 2.0, "augment_prob": 1.0}
    train(small(images, tmp_path) | short | values)
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 1


def test_a_resumed_training_ends_with_the_same_weights(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def save_and_keep(content: dict[str, Any], path: Path) -> None:
        save_atomically(content, path)
        if path.name == "last.pt" and content["epoch"] == 1:
            save_atomically(content, tmp_path / "cut" / "last.pt")

    monkeypatch.setattr("medseg3d.engines.training.save_atomically", save_and_keep)
    short = {"iterations_per_epoch": 2, "val_interval": 1, "augment_prob": 0.8}
    train(small(images, tmp_path / "whole") | short)
    stopped = small(images, tmp_path / "cut") | short
    train(stopped | {"resume": True})
    whole, cut = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    assert whole["epoch"] == cut["epoch"] == 2
    assert all(torch.equal(whole["network"][key], cut["network"][key]) for key in whole["network"])
    with pytest.raises(RuntimeError) as caught:
        train(stopped | {"resume": True, "loss": "focal"})
    assert "loss was 'dice_ce', is 'focal'" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"max_epoch": 3}, "Did you mean 'max_epochs'"),
        ({"labels": {"cell": 1}}, "the labels are {cell: 1}, but those of"),
        ({"fold": 9}, "no fold 9"),
        ({"architecture": "unet:resnot"}, "unet:resnot cannot be made"),
        ({"loss": "bce"}, "bce does not go with a softmax"),
        ({"channels": ["red", "green"]}, "channels is 2"),
        ({"multi_label": True}, "multi_label"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_override_stops_before_training(override, message, images: Path, tmp_path: Path):
    with pytest.raises(RuntimeError) as caught:
        train(small(images, tmp_path / "run") | override)
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, UsageError):
        cause = cause.__cause__
    assert message in str(cause)
    assert not (tmp_path / "run").exists()


def test_masks_that_overlap_are_refused_for_a_softmax(overlapping: Path, tmp_path: Path):
    with pytest.raises(RuntimeError) as caught:
        train(small(overlapping, tmp_path / "run") | {"labels": {"cell": 1, "band": 2}})
    assert "multi_label is false (label maps), but in" in str(caught.value.__cause__)
    assert "Pass --multi_label true" in str(caught.value.__cause__)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("files", "kind"), [(["train"], "train"), (["train", "evaluate"], "train"), (["inference"], "infer")], ids=str
)
def test_properties_of_the_workflow_are_there(files: list[str], kind: str, images: Path, tmp_path: Path):
    overrides = shared(small(images, tmp_path)) | {"output_dir": str(tmp_path)}
    overrides |= {"datalist": str(images)} if kind == "train" else {"dataset_dir": str(images), "weights": None}
    workflow = ConfigWorkflow(configs(*files), workflow_type=kind, logging_file=False, **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_training_inference_and_evaluation_say_the_same(images: Path):
    contents = {name: yaml.safe_load(Path(configs(name)[0]).read_text()) for name in ("train", "inference", "evaluate")}
    names = ["task", "labels", "multi_label", "ignore_index", "channels", "image_size", "patch_size", "normalize"]
    names += ["architecture", "filters", "upsample", "network_def", "network", "inferer"]
    assert {n: contents["train"][n] for n in names} == {n: contents["inference"][n] for n in names}
    evaluate = contents["evaluate"]["evaluate"]
    assert evaluate["dataset"]["transform"] == contents["inference"]["preprocessing"]
    assert evaluate["postprocessing"] == contents["inference"]["postprocessing"]
    item = {"image": str(images.parent / "0.png"), "label": str(images.parent / "0_mask.png")}
    prepared = []
    for file, id_ in (("train", "validate::preprocessing"), ("inference", "preprocessing")):
        parser = ConfigParser()
        parser.read_config(configs(file))
        parser["labels"], parser["image_size"] = LABELS, [64, 64]
        prepared.append(torch.as_tensor(parser.get_parsed_content(id_)(dict(item))["image"]).as_subclass(torch.Tensor))
    assert torch.equal(*prepared)


def test_export_to_torchscript_computes_the_same(tmp_path: Path):
    parser = ConfigParser()
    parser.read_config(configs("inference"))
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        config_file=configs("inference")[0],
    )
    image = torch.randn(1, 1, 50, 37)  # scripted, not traced: of any size
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(str(tmp_path / "model.ts"))(image), network(image), atol=1e-4)


def test_slices_of_volumes_and_back(mri_datalist: Path, tmp_path: Path):
    import importlib.util

    path = Path(__file__).resolve().parents[1] / "scripts" / "slices_of_volumes.py"
    spec = importlib.util.spec_from_file_location("slices_of_volumes", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    listed = script.list_slices(mri_datalist, tmp_path / "slices.json")
    for item in listed.training:
        mask = read_mask(item.masks[0]).pixels
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / f"{item.case}.png")
    stacked = script.stack(tmp_path / "slices.json", tmp_path, tmp_path / "volumes")
    cases = json.loads(mri_datalist.read_text())["training"]
    assert sorted(path.name for path in stacked) == sorted(f"{case['case']}.nii.gz" for case in cases)
    for case in cases:
        volume, again = (
            nibabel.load(path)
            for path in (mri_datalist.parent / case["label"], tmp_path / "volumes" / f"{case['case']}.nii.gz")
        )
        assert np.array_equal(np.asanyarray(again.dataobj), np.asanyarray(volume.dataobj))
        assert np.array_equal(again.affine, volume.affine)
        assert {item.patient for item in listed.training if item.case.startswith(case["case"])} == {case["patient"]}
    # The phantoms are stored in several orientations; their slices all lie alike.
    assert len({nibabel.aff2axcodes(nibabel.load(mri_datalist.parent / case["image"]).affine) for case in cases}) > 1
    assert {nibabel.aff2axcodes(nibabel.load(item.image.path).affine) for item in listed.training} == {("L", "P", "S")}
