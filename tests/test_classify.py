"""Classification of 2D images: losses, sampling, freezing, measures, calibration, views, maps, files, the bundle."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, run
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.data import EpochSampler
from medseg3d.engines.checkpoint import load_checkpoint, save_atomically
from medseg3d.engines.classification import ClassAuroc, MixupStep
from medseg3d.errors import CaseError, ConfigError, UsageError
from medseg3d.imbalance import class_weights, sampling_weights
from medseg3d.inference.calibration import Calibration, fit_temperature, log_loss, read_calibration, write_calibration
from medseg3d.inference.classifier import Classifier
from medseg3d.inference.gradcam import AttentionMaps, overlay
from medseg3d.inference.views import views_of
from medseg3d.losses import ClassificationLoss
from medseg3d.networks import ImageClassifier
from medseg3d.transforms2d.borders import MaskBorderd

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "image_classification_2d"
LABELS = {"plain": 0, "spot": 1}


def configs(*names: str) -> list[str]:
    return [str(BUNDLE / "configs" / f"{name}.yaml") for name in names]


def spotted(rng: np.random.Generator, *, spot: bool, size: int = 32) -> np.ndarray:
    """Noise, with a bright spot in the upper left quarter or without."""
    image = rng.normal(90, 12, (size, size))
    if spot:
        row, column = rng.integers(2, size // 2 - 8, 2)
        image[row : row + 7, column : column + 7] += 90
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 40 training images in two folds and 8 for testing, two a patient, half of them with a spot."""
    folder = tmp_path_factory.mktemp("spots")
    rng = np.random.default_rng(3)
    items = []
    for index in range(48):
        name = ("plain", "spot")[index % 2]
        Image.fromarray(spotted(rng, spot=name == "spot")).save(folder / f"i{index}.png")
        item = {"case": f"i{index}", "patient": f"p{index // 2}", "image": f"i{index}.png", "classes": [name]}
        items.append(item | ({"fold": (index // 2) % 2} if index < 40 else {}))
    content = {"name": "spots", "task": "classification", "labels": LABELS, "multi_label": False}
    (folder / "list.json").write_text(json.dumps(content | {"training": items[:40], "testing": items[40:]}))
    return folder / "list.json"


# Rare classes --------------------------------------------------------------------------------------------------------


def test_weighted_cross_entropy_is_torchs() -> None:
    torch.manual_seed(0)
    logits, target, weights = torch.randn(9, 4), torch.randint(0, 4, (9,)), [0.5, 1.0, 2.0, 3.0]
    expected = torch.nn.functional.cross_entropy(logits, target, weight=torch.tensor(weights))
    assert torch.allclose(ClassificationLoss(class_weights=weights)(logits, target), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_mixed_images_is_torchs(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(9, 4), torch.rand(9, 4).softmax(dim=1)
    expected = torch.nn.functional.cross_entropy(logits, target, label_smoothing=smoothing)
    assert torch.allclose(ClassificationLoss(label_smoothing=smoothing)(logits, target), expected)


def test_binary_losses_are_torchs() -> None:
    from torchvision.ops import sigmoid_focal_loss

    torch.manual_seed(0)
    logits, target, weights = torch.randn(9, 3), (torch.rand(9, 3) > 0.5).float(), [0.5, 1.0, 3.0]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, pos_weight=torch.tensor(weights))
    assert torch.allclose(ClassificationLoss(multi_label=True, class_weights=weights)(logits, target), expected)
    focal = sigmoid_focal_loss(logits, target, alpha=-1, gamma=2, reduction="mean")
    assert torch.allclose(ClassificationLoss("focal", multi_label=True)(logits, target), focal)


def test_focal_loss_is_monais() -> None:
    from monai.losses import FocalLoss

    torch.manual_seed(0)
    logits, target = torch.randn(9, 4), torch.randint(0, 4, (9,))
    monai = FocalLoss(use_softmax=True, to_onehot_y=True, gamma=2.0, reduction="none")(logits, target[:, None])
    assert torch.allclose(ClassificationLoss("focal")(logits, target), monai.sum(dim=1).mean(), atol=1e-6)


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(UsageError, match="known are cross_entropy and focal"):
        ClassificationLoss("hinge")  # type: ignore[arg-type]


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0] * 7 + [1] * 2 + [2]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights([{"label": label} for label in labels], 3) == pytest.approx(expected)


def test_weights_of_several_classes_are_negatives_over_positives() -> None:
    items = [{"label": np.array(row, np.float32)} for row in ([1, 0], [1, 1], [0, 0], [1, 0])]
    assert class_weights(items, 2) == pytest.approx([1 / 3, 3.0])
    with pytest.raises(UsageError, match="4 of the 4 training images are of class 0"):
        class_weights([{"label": np.array([1.0, i % 2])} for i in range(4)], 2)


def test_weighted_sampling_has_the_stated_frequencies() -> None:
    labels = [0] * 90 + [1] * 9 + [2]
    weights = sampling_weights([{"label": label} for label in labels], 3)
    draws = [index for index, _ in EpochSampler(100, 30_000, seed=1, weights=weights)]
    shares = Counter(labels[index] for index in draws)
    # A third each; 0.01 is more than three standard deviations of 30,000 draws.
    assert [shares[c] / 30_000 for c in range(3)] == pytest.approx([1 / 3] * 3, abs=0.01)


def test_images_without_a_class_are_sampled_too() -> None:
    rows = [[0, 0], [1, 0], [1, 1], [1, 0]]
    weights = sampling_weights([{"label": np.array(row)} for row in rows], 2)
    assert weights == pytest.approx([1 / 3, 1 / 6, 1 / 3, 1 / 6])


def test_weighted_draws_depend_on_seed_and_epoch_alone() -> None:
    def epoch(number: int, length: int = 10) -> list[tuple[int, int]]:
        sampler = EpochSampler(7, length, seed=3, weights=[1, 2, 3, 4, 5, 6, 7])
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(0, 20) == epoch(0) + epoch(1)


# Measures and mixed images -------------------------------------------------------------------------------------------


def scored(logits: torch.Tensor, labels: torch.Tensor, *, multi_label: bool = False) -> ClassAuroc:
    measure = ClassAuroc({f"c{i}": i for i in range(logits.shape[1])}, multi_label=multi_label)
    measure.update([{"pred": p, "label": y} for p, y in zip(logits, labels, strict=True)])
    return measure


def test_auroc_of_training_is_scikit_learns() -> None:
    torch.manual_seed(0)
    two, labels = torch.randn(50, 2), torch.randint(0, 2, (50,))
    assert scored(two, labels).compute() == pytest.approx(roc_auc_score(labels, two[:, 1] - two[:, 0]))
    four, labels = torch.randn(60, 4), torch.randint(0, 4, (60,))
    expected = roc_auc_score(labels, four.double().softmax(dim=1), multi_class="ovr")
    assert scored(four, labels).compute() == pytest.approx(expected)
    several = (torch.rand(60, 4) > 0.5).long()
    expected = roc_auc_score(several, four.sigmoid())
    assert scored(four, several, multi_label=True).compute() == pytest.approx(expected)


def test_a_class_that_no_image_has_leaves_the_mean() -> None:
    logits = torch.tensor([[2.0, 0, 0], [0.0, 1, 0], [1.0, 0, 0]])
    assert scored(logits, torch.tensor([0, 1, 0])).compute() == 1.0
    assert scored(logits, torch.tensor([0, 0, 0])).compute() == 0.5


def test_mixup_blends_images_and_labels_alike() -> None:
    torch.manual_seed(0)
    batch = {"image": torch.eye(4).reshape(4, 1, 2, 2), "label": torch.tensor([0, 1, 2, 3])}
    mixed = MixupStep(4, alpha=0.4).mixed(batch)
    # Each image is the unit vector of its class: blended alike, image and label stay equal.
    assert torch.allclose(mixed["image"].flatten(1), mixed["label"])
    assert torch.allclose(mixed["label"].sum(dim=1), torch.ones(4))
    with pytest.raises(UsageError, match="mixup is -1"):
        MixupStep(2, alpha=-1)


# Calibration ---------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 5.0), st.integers(0, 1000))
def test_a_planted_temperature_is_found(temperature: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 1.5, (4000, 3))
    chances = Calibration().probabilities(honest)
    drawn = np.array([rng.choice(3, p=row) for row in chances])
    found = fit_temperature(honest * temperature, np.eye(3)[drawn])
    assert found == pytest.approx(temperature, rel=0.12)


@given(st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=5), st.floats(0.1, 10))
def test_temperature_keeps_the_order_of_classes(rows: list[list[float]], temperature: float) -> None:
    logits = np.array(rows)
    p = Calibration(temperature).probabilities(logits)
    assert np.allclose(p.sum(axis=1), 1)
    assert all(p[i, row.argmax()] == p[i].max() for i, row in enumerate(logits))


def test_answers_that_are_all_right_have_no_best_temperature() -> None:
    assert fit_temperature(np.array([[3.0, 0], [0, 3.0]]), np.eye(2)) == 1.0


def test_decisions_by_thresholds() -> None:
    three = Calibration(thresholds={"a": 0.9})
    assert three.decide(np.array([[0.5, 0.3, 0.2]]), ["a", "b", "c"]) == ["a"]  # exclusive: the largest
    assert three.decide(np.array([[0.5, 0.6, 0.2]]), ["a", "b", "c"], multi_label=True) == ["b"]
    assert three.decide(np.array([[0.95, 0.6, 0.2]]), ["a", "b", "c"], multi_label=True) == ["a|b"]
    assert three.decide(np.array([[0.1, 0.1, 0.2]]), ["a", "b", "c"], multi_label=True) == [""]


def test_a_calibration_is_written_and_read(tmp_path: Path) -> None:
    given = Calibration(1.7, {"spot": 0.25}, "sensitivity 0.95", 40)
    write_calibration(tmp_path / "calibration.json", given)
    assert read_calibration(tmp_path / "calibration.json") == given
    assert read_calibration(tmp_path / "absent.json") == Calibration()
    (tmp_path / "calibration.json").write_text('{"schema": "other"}')
    with pytest.raises(CaseError, match="not a calibration of a classifier"):
        read_calibration(tmp_path / "calibration.json")


def test_log_loss_is_scikit_learns() -> None:
    from sklearn.metrics import log_loss as oracle

    p, truth = np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([[0, 1], [0, 1]])
    assert log_loss(p, truth) == pytest.approx(oracle(truth, p))


# Views and borders ---------------------------------------------------------------------------------------------------


def test_the_first_view_is_the_image_and_mirrors_are_mirrors() -> None:
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(views_of(1)[0](images), images)
    assert torch.equal(views_of(2, flips=True)[1](images), images.flip(-1))
    with pytest.raises(UsageError, match="there are 1 "):
        views_of(7)


def test_shifted_views_show_what_lies_beside() -> None:
    images = torch.zeros(1, 1, 50, 50)
    images[..., 25, 25] = 1
    right = views_of(3)[2](images)  # 0.04 of 50 pixels are 2
    assert right.flatten().argmax() == 25 * 50 + 27


def test_a_masked_border_holds_nothing() -> None:
    images = [torch.rand(1, 20, 24) for _ in range(2)]
    images[1][:, 5:15, 6:18] = images[0][:, 5:15, 6:18]
    first, second = (MaskBorderd("image", 0.25)({"image": image})["image"].as_tensor() for image in images)
    assert torch.equal(first, second)
    with pytest.raises(UsageError, match=r"border is 0.5; it is a share of the image from 0 to below 0.5"):
        MaskBorderd("image", 0.5)


# Where the network looked --------------------------------------------------------------------------------------------


class Planted(torch.nn.Module):
    """A network made by hand: the second class is how much of the image is bright, seen by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.relu = torch.nn.ReLU(inplace=True)
        self.head = torch.nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.stack([torch.full((1, 3, 3), 1 / 9), torch.full((1, 3, 3), -1 / 9)]))
            self.head.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.conv(image)).mean(dim=(2, 3)))


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 22), st.integers(2, 22))
def test_grad_cam_lights_where_the_pattern_is(row: int, column: int) -> None:
    image = torch.full((1, 1, 32, 32), -0.1)
    image[..., row : row + 8, column : column + 8] = 3
    network = Planted()
    heat = AttentionMaps(network, image)(image, 1)
    assert heat.shape == (32, 32)
    inside = np.zeros((32, 32), bool)
    inside[row : row + 8, column : column + 8] = True
    assert heat[inside].mean() > 10 * heat[~inside].mean()
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.relu._forward_hooks
    assert network.relu.inplace


@pytest.mark.parametrize(
    ("backbone", "options", "layer"),
    [
        ("torchvision/resnet18", {}, "model.layer4"),
        ("torchvision/densenet121", {}, "model.features.denseblock4"),  # what follows is overwritten in place
        ("monai/EfficientNetBN", {"model_name": "efficientnet-b0"}, "model._bn1"),  # what follows is used many times
    ],
)
def test_the_last_layer_that_can_be_looked_at(backbone: str, options: dict[str, Any], layer: str) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 1, 64, 64)
    maps = AttentionMaps(ImageClassifier(backbone, options=options).eval(), image)
    assert maps.layer == layer
    heat = maps(image, 1)
    assert heat.shape == (64, 64)
    assert 0 <= heat.min() <= heat.max() <= 1


def test_maps_with_channels_last_are_refused() -> None:
    class ChannelsLast(Planted):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.Identity()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            maps = self.norm(self.relu(self.conv(image)).permute(0, 2, 3, 1))
            return self.head(maps.mean(dim=(1, 2)))

    with pytest.raises(ConfigError, match="ChannelsLast keeps its maps with the channels last"):
        AttentionMaps(ChannelsLast(), torch.zeros(1, 1, 16, 16))


def test_a_network_without_a_map_is_told() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    with pytest.raises(ConfigError, match="keeps no map of more than one pixel"):
        AttentionMaps(flat, torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("backbone", ["torchvision/vit_b_16", "timm/vit_tiny_patch16_224"])
def test_attention_follows_the_tokens(backbone: str) -> None:
    torch.manual_seed(0)
    network = ImageClassifier(backbone, image_size=(64, 64)).eval()
    image = torch.zeros(1, 1, 64, 64)
    image[..., 16:32, 32:48] = 5  # one patch differs from all the others
    maps = AttentionMaps(network, image)
    heat = maps(image, 1)
    assert heat.shape == (64, 64)
    patches = heat[8::16, 8::16]
    odd = abs(patches - np.median(patches))
    assert odd.argmax() == 1 * 4 + 2
    with torch.no_grad():
        assert torch.allclose(maps.network(image), network(image), atol=1e-5)


def test_overlays_keep_cold_pixels() -> None:
    pixels = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    heat = np.zeros((8, 8), np.float32)
    heat[0, 0] = 1
    drawn = overlay(pixels, heat)
    assert np.array_equal(drawn[1:], np.repeat(pixels[1:, :, None], 3, axis=2))
    assert len(set(drawn[0, 0].tolist())) > 1


# The bundle ----------------------------------------------------------------------------------------------------------


def small(spots: Path, folder: Path) -> dict[str, Any]:
    """Overrides with which the bundle learns the spots in seconds."""
    return {
        "bundle_root": str(BUNDLE),
        "datalist": str(spots),
        "labels": LABELS,
        "output_dir": str(folder),
        "device": "cpu",
        "image_size": [32, 32],
        "batch_size": 10,
        "iterations_per_epoch": 6,
        "max_epochs": 6,
        "val_interval": 3,
        "learning_rate": 0.01,
        "scale_crop": 0.0,
        "network_def::options::block_inplanes": [4, 8, 8, 8],
    }


@pytest.fixture(scope="session")
def trained(spots: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the spots."""
    folder = tmp_path_factory.mktemp("classifier") / "run"
    run(run_id="training", config_file=configs("train"), logging_file=False, **small(spots, folder))
    return folder


@pytest.mark.parametrize(
    ("files", "kind"), [(["train"], "train"), (["train", "evaluate"], "train"), (["inference"], "infer")], ids=str
)
def test_properties_of_the_workflow_are_there(files: list[str], kind: str, spots: Path, tmp_path: Path) -> None:
    overrides = {"bundle_root": str(BUNDLE), "output_dir": str(tmp_path), "device": "cpu", "labels": LABELS}
    overrides |= {"datalist": str(spots)} if kind == "train" else {"dataset_dir": str(spots), "weights": None}
    workflow = ConfigWorkflow(configs(*files), workflow_type=kind, logging_file=False, **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_training_evaluation_and_inference_prepare_images_alike(spots: Path) -> None:
    path = str(spots.parent / "i1.png")
    images = []
    for files, id_ in (
        (["train"], "validate::preprocessing"),
        (["inference"], "preprocessing"),
        (["train", "evaluate"], "evaluate::dataset::transform"),
    ):
        parser = ConfigParser()
        parser.read_config(configs(*files))
        parser["border"] = 0.1
        images.append(torch.as_tensor(parser.get_parsed_content(id_)({"image": path})["image"]))
    assert images[0].shape == (1, 96, 96)
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


def test_the_bundle_learns_to_see_spots(trained: Path) -> None:
    table = pd.read_csv(trained / "metrics.csv")
    assert table["val_auroc"].dropna().max() > 0.9
    assert {"train_loss", "val_auroc", "val_log_loss"} <= set(table.columns)
    assert json.loads((trained / "run.json").read_text())["cases"] == 20


def test_calibrating_and_evaluating_end_in_a_report(spots: Path, trained: Path) -> None:
    overrides = small(spots, trained) | {"sensitivity": 0.9}
    run(run_id="calibrating", config_file=configs("train", "calibrate"), logging_file=False, **overrides)
    fitted = read_calibration(trained / "calibration.json")
    assert fitted.images == 20
    assert fitted.rule == "sensitivity 0.9 on validation images"
    assert set(fitted.thresholds) == {"spot"}

    overrides = small(spots, trained)
    run(run_id="evaluating", config_file=configs("train", "evaluate"), logging_file=False, **overrides)
    folder = trained / "evaluation"
    predictions = pd.read_csv(folder / "predictions.csv").set_index("case")
    truth = pd.read_csv(folder / "references.csv").set_index("case")["label"]
    assert sorted(predictions.index) == sorted(f"i{i}" for i in range(40, 48))  # the testing images, not the fold
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["headline"]["value"] == pytest.approx(roc_auc_score(truth == "spot", predictions["p_spot"]))
    f1 = f1_score(truth == "spot", predictions["predicted"] == "spot")
    assert summary["labels"]["spot"]["metrics"]["f1"]["value"] == pytest.approx(f1)
    assert "sensitivity 0.9" in summary["operating_point"]
    assert len(list((folder / "overlays").glob("*.png"))) == 8
    assert (folder / "report.html").is_file()


def test_the_command_classifies_a_folder(trained: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.stack([spotted(rng, spot=True, size=48)] * 3, axis=-1)).save(folder / "coloured.jpg")
    Image.fromarray(spotted(rng, spot=False)).save(folder / "grey.png")
    (folder / "cut.png").write_bytes((folder / "grey.png").read_bytes()[:300])
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(folder / "blank.png")
    (tmp_path / "small.yaml").write_text(
        "labels: {plain: 0, spot: 1}\nimage_size: [32, 32]\nnetwork_def::options::block_inplanes: [4, 8, 8, 8]\n"
    )
    arguments = ["classify", str(folder), str(tmp_path / "out"), "--bundle", str(BUNDLE), "--device", "cpu", "--tta"]
    arguments += ["--weights", str(trained / "best.pt"), "--config-file", str(tmp_path / "small.yaml")]
    result = CliRunner().invoke(app, [*arguments, "--overlays", "-1"])
    assert isinstance(result.exception, CaseError)
    assert "2 of 4 images failed, the others are done" in str(result.exception)
    assert "cut.png" in str(result.exception)
    assert "blank: All its pixels are equal" in str(result.exception)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert table.columns.tolist() == ["case", "p_plain", "p_spot", "predicted"]
    assert table["case"].tolist() == ["coloured", "grey"]
    assert np.allclose(table["p_plain"] + table["p_spot"], 1, atol=2e-6)
    assert Image.open(tmp_path / "out" / "overlays" / "coloured.png").size == (48, 48)
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert record["views"] == 6
    assert record["failed"].keys() == {"blank", "cut"}


def test_a_bundle_that_does_not_classify_is_refused(spots: Path, tmp_path: Path) -> None:
    bundle = str(BUNDLE.with_name("mri_hippocampus_segmentation"))
    result = CliRunner().invoke(app, ["classify", str(spots), str(tmp_path), "--bundle", bundle])
    assert isinstance(result.exception, UsageError)
    assert "it runs a Segmenter, this command wants a Classifier" in str(result.exception)


def test_several_classes_and_colours_train(spots: Path, tmp_path: Path) -> None:
    content = json.loads(spots.read_text()) | {"multi_label": True, "labels": {"spot": 0, "round": 1}}
    for index, item in enumerate([*content["training"], *content["testing"]]):
        item["image"] = str(spots.parent / item["image"])
        item["classes"] = [*(["spot"] if item["classes"] == ["spot"] else []), *(["round"] if index % 3 == 0 else [])]
    (tmp_path / "list.json").write_text(json.dumps(content))
    overrides = small(tmp_path / "list.json", tmp_path / "run") | {
        "labels": content["labels"],
        "multi_label": True,
        "channels": ["red", "green", "blue"],
        "loss": "focal",
        "class_weighting": "balanced",
        "sampling": "balanced",
        "max_epochs": 1,
        "iterations_per_epoch": 2,
    }
    run(run_id="training", config_file=configs("train"), logging_file=False, **overrides)
    columns = pd.read_csv(tmp_path / "run" / "metrics.csv").columns
    assert {"val_auroc_spot", "val_auroc_round"} <= set(columns)
    run(run_id="evaluating", config_file=configs("train", "evaluate"), logging_file=False, **overrides)
    summary = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())
    assert summary["kind"] == "multilabel"
    assert set(summary["labels"]) == {"spot", "round"}


def test_the_head_learns_first_and_a_checkpoint_can_be_the_start(spots: Path, trained: Path, tmp_path: Path) -> None:
    overrides = small(spots, tmp_path / "run") | {
        "initial_weights": str(trained / "best.pt"),
        "frozen_epochs": 1,
        "max_epochs": 1,
        "layer_decay": 0.7,
    }
    run(run_id="training", config_file=configs("train"), logging_file=False, **overrides)
    before, after = (load_checkpoint(path)["network"] for path in (trained / "best.pt", tmp_path / "run" / "last.pt"))
    moved = {key.split(".")[1] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"fc"}


def test_a_resumed_training_ends_with_the_same_weights(
    spots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blended images and drawn classes go on where they were."""

    def save_and_keep(content: dict[str, Any], path: Path) -> None:
        save_atomically(content, path)
        if path.name == "last.pt" and content["epoch"] == 1:
            save_atomically(content, tmp_path / "cut" / "last.pt")

    monkeypatch.setattr("medseg3d.engines.training.save_atomically", save_and_keep)
    short = {"max_epochs": 2, "iterations_per_epoch": 2, "val_interval": 1, "mixup": 0.4, "sampling": "balanced"}
    whole_run, cut_run = small(spots, tmp_path / "whole") | short, small(spots, tmp_path / "cut") | short
    run(run_id="training", config_file=configs("train"), logging_file=False, **whole_run)
    run(run_id="training", config_file=configs("train"), logging_file=False, **cut_run, resume=True)
    whole, cut = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    assert whole["epoch"] == cut["epoch"] == 2
    assert all(torch.equal(whole["network"][key], cut["network"][key]) for key in whole["network"])


def test_tracking_follows_a_resumed_run(spots: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy", reason="MLflow's local store needs sqlalchemy and alembic")
    pytest.importorskip("alembic", reason="MLflow's local store needs sqlalchemy and alembic")
    overrides = small(spots, tmp_path / "run") | {"max_epochs": 1, "iterations_per_epoch": 2}
    tracking = {"tracking": "mlflow", "experiment_name": "hospital"}
    run(run_id="training", config_file=configs("train"), logging_file=False, **overrides)
    overrides |= {"max_epochs": 2, "resume": True}
    run(run_id="training", config_file=configs("train"), logging_file=False, **overrides, **tracking)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'run' / 'mlruns.db'}")
    (tracked,) = client.search_runs(client.get_experiment_by_name("hospital").experiment_id)
    assert [m.step for m in client.get_metric_history(tracked.info.run_id, "val_auroc")] == [2]


def test_export_to_torchscript_computes_the_same(tmp_path: Path) -> None:
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
        use_trace=True,
        input_shape=[1, 1, 96, 96],
    )
    image = torch.randn(1, 1, 96, 96)
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(str(tmp_path / "model.ts"))(image), network(image), atol=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"max_epoch": 3}, "Did you mean 'max_epochs'"),
        ({"labels": {"plain": 0, "dot": 1}}, "labels are"),
        ({"fold": 9}, "no fold 9"),
        ({"multi_label": True}, "multi_label is true (any number of classes an image), but in"),
        ({"network_def::out_channels": 1}, "label 'spot' has id 1, but the network's output channels are 0 to 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_override_stops_before_training(
    override: dict[str, Any], message: str, spots: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError) as caught:
        run(
            run_id="training",
            config_file=configs("train"),
            logging_file=False,
            **(small(spots, tmp_path / "run") | override),
        )
    assert isinstance(caught.value.__cause__, ConfigError)
    assert message in str(caught.value.__cause__)
    assert not (tmp_path / "run").exists()


def test_a_truncated_image_is_named_before_training(spots: Path, tmp_path: Path) -> None:
    content = json.loads(spots.read_text())
    for item in [*content["training"], *content["testing"]]:
        item["image"] = str(spots.parent / item["image"])
    whole = tmp_path / "whole.jpg"
    Image.open(content["training"][2]["image"]).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    content["training"][2]["image"] = str(tmp_path / "cut.jpg")
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as caught:
        run(
            run_id="training",
            config_file=configs("train"),
            logging_file=False,
            **small(tmp_path / "list.json", tmp_path / "run") | {"fold": 0},
        )
    causes = [caught.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert any(isinstance(cause, CaseError) and "cut.jpg" in str(cause) for cause in causes)
    assert not (tmp_path / "run").exists()


def test_a_classifier_wants_ids_from_zero_and_known_classes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": None, "network": Planted(), "output_dir": tmp_path}
    with pytest.raises(ConfigError, match="classes have the ids 0, 1"):
        Classifier(labels={"a": 1, "b": 2}, **options)
    with pytest.raises(UsageError, match="overlay_class is 'c'; the classes are a, b"):
        Classifier(labels={"a": 0, "b": 1}, overlay_class="c", **options)
