"""Packed bundles: what is in them, that they run elsewhere, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import run as run_monai
from monai.bundle import verify_metadata
from typer.testing import CliRunner

from medseg3d.bundles import check_bundle, find_bundle, pack_bundle
from medseg3d.bundles.export import MeanOfMembers, _require_tensor_network
from medseg3d.bundles.flatten import flatten
from medseg3d.bundles.weights import build_network
from medseg3d.cli import app
from medseg3d.errors import CheckpointError, ConfigError, OutputError, UsageError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:parsing config_file"),
]

SOURCE = find_bundle("mri_hippocampus_segmentation")
FILTERS = [4, 8, 8, 8]
PATCH = [16, 16, 16]
WORDS = ["python", "-m", "monai.bundle", "run", "training", "--config_file"]
WORDS += ["['configs/train.yaml','/home/ann o/plan.yaml']", "--datalist", "/home/ann o/list.json"]
COMMAND = shlex.join(WORDS)  # as run.json holds it
SUMMARY = {
    "schema": "medseg3d.evaluation/1",
    "cases": 42,
    "patients": 40,
    "headline": {
        "metric": "dice", "over": "labels", "value": 0.8691, "interval": [0.8602, 0.8774], "level": 0.95,
        "method": "bootstrap over patients",
    },
    "labels": {
        "anterior": {
            "status": {"missed": 0},
            "metrics": {
                "dice": {"mean": 0.8751, "interval_mean": [0.8650, 0.8840]},
                "hd95_mm": {"median": 1.41, "interval_median": [1.0, None]},
            },
        },
        "posterior": {"status": {"missed": 1}, "metrics": {"dice": {"mean": 0.863, "interval_mean": None}}},
    },
    "failed": {},
}  # fmt: skip


def write_run(folder: Path, *, seed: int, **changes: Any) -> Path:
    """The folder of a training of a narrow network: random weights, and the record of how they came about."""
    folder.mkdir(parents=True)
    config = yaml.safe_load((SOURCE / "configs" / "train.yaml").read_text())
    config["network_def"]["filters"] = FILTERS
    config |= {"patch_size": PATCH, "datalist": "/home/ann/clinic/list.json", "output_dir": str(folder), "fold": 1}
    config |= changes
    torch.manual_seed(seed)
    network = build_network(config)
    torch.save({"network": network.state_dict(), "epoch": 3}, folder / "best.pt")
    record = {
        "starts": [{"time": "2026-11-20T15:07:29+00:00", "command": COMMAND}],
        "seed": seed, "cases": 166, "data_sha256": "ab" * 32, "versions": {"torch": "2.14.1"}, "config": config,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "fold0", seed=0)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    return folder


@pytest.fixture(scope="module")
def packed(run: Path, evaluation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "hippocampus"
    pack_bundle(SOURCE, folder, weights=[run], evaluation=evaluation, version="1.2.0", torchscript=True)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume whose axes are permuted and flipped, with voxels that are no millimetres."""
    rng = np.random.default_rng(0)
    affine = np.array([[0, 0, -1.5, 40], [1.25, 0, 0, -30], [0, 1.0, 0, 7], [0, 0, 0, 1]])
    path = tmp_path_factory.mktemp("images") / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(rng.normal(size=(20, 24, 18)).astype(np.float32), affine), path)
    return path


def config_of(bundle: Path, stem: str) -> dict[str, Any]:
    return yaml.safe_load((bundle / "configs" / f"{stem}.yaml").read_text())


def metadata_of(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


# What is in it --------------------------------------------------------------------------------------------------------


def test_layout_and_check(packed: Path) -> None:
    wanted = ["LICENSE", "docs/README.md", "docs/data_license.txt", "models/model.pt", "models/model.ts"]
    wanted += [f"configs/{name}" for name in ("train.yaml", "inference.yaml", "evaluate.yaml", "metadata.json")]
    assert [name for name in wanted if not (packed / name).is_file()] == []
    assert check_bundle(packed) == []
    # Variants that the weights were not trained with stay behind, those of the training alone come along.
    assert not (packed / "configs" / "unet_2d.yaml").exists()
    assert (packed / "configs" / "sgd_poly.yaml").exists()
    assert (packed / "configs" / "multi_gpu_train.yaml").exists()


@pytest.mark.parametrize("stem", ["train", "inference"])
def test_what_the_run_was_told_is_in_both_files(packed: Path, stem: str) -> None:
    config = config_of(packed, stem)
    assert config["network_def"]["filters"] == FILTERS
    assert config["patch_size"] == PATCH
    own = config_of(SOURCE, stem)
    for place in ("dataset_dir", "output_dir", "bundle_root", "device"):
        assert config[place] == own[place]


def test_nothing_tells_where_it_was_made(packed: Path, run: Path) -> None:
    for path in packed.rglob("*"):
        if path.suffix in {".yaml", ".json", ".md", ".txt"}:
            text = path.read_text()
            assert "/home/ann" not in text, path
            assert str(run) not in text, path


def test_weights_are_a_bare_state_dict(packed: Path, run: Path) -> None:
    state = torch.load(packed / "models" / "model.pt", weights_only=True)
    trained = torch.load(run / "best.pt", weights_only=True)["network"]
    assert list(state) == list(trained)
    assert all(torch.equal(state[key], trained[key]) for key in state)
    digest = hashlib.sha256((packed / "models" / "model.pt").read_bytes()).hexdigest()
    assert metadata_of(packed)["weights_sha256"]["models/model.pt"] == digest


def test_metadata_says_what_is_true_of_the_weights(packed: Path) -> None:
    metadata = metadata_of(packed)
    assert metadata["name"] == "hippocampus"
    assert (metadata["version"], "1.2.0" in metadata["changelog"]) == ("1.2.0", True)
    assert metadata["pytorch_version"] == torch.__version__.partition("+")[0]
    assert {"medseg3d", "fire", "pytorch-ignite"} <= set(metadata["required_packages_version"])
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 3
    assert metadata["training"][0]["seed"] == 0
    assert metadata["eval_metrics"]["dice"]["interval"] == [0.8602, 0.8774]


@pytest.mark.real_data
def test_metadata_follows_the_schema(packed: Path, data_dir: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_bytes((data_dir / "monai_schema" / "meta_schema_20240725.json").read_bytes())
    verify_metadata(str(packed / "configs" / "metadata.json"), filepath=str(schema))


@pytest.mark.parametrize(
    "text",
    [
        "CC-BY-SA 4.0",  # licence of the data
        "Medical Segmentation Decathlon",  # the data
        # the command as one types it, without the folders
        "run training --config_file \"['configs/train.yaml','plan.yaml']\" --datalist list.json\n",
        "| seed | 0 |",
        "| cases | 166 |",
        "42 cases of 40 patients; dice over labels: 0.869 [0.860, 0.877], 95% intervals in brackets (bootstrap over",
        "| anterior | 0.875 [0.865, 0.884] | 1.410 [1.000, ∞] | 0 |",
        "| posterior | 0.863 | – | 1 |",
        "## Intended use\n\nResearch. Not for diagnosis.",
        "## Limits\n\nTrained on crops of one hospital.",
        "Not a medical device",
        "`models/model.ts` | 0.0e+00 | 1e-04 | 1×1×16×16×16 and 2×1×24×16×16 |",
        "Different from the bundle that was packed: `patch_size`, `network_def`",
    ],
)
def test_model_card(packed: Path, text: str) -> None:
    assert text in (packed / "docs" / "README.md").read_text()


def test_card_without_record_or_scores_says_so(run: Path, tmp_path: Path) -> None:
    """Weights alone: nobody knows how they were trained, and no number is made up."""
    state = torch.load(run / "best.pt", weights_only=True)["network"]
    torch.save(state, tmp_path / "weights.pt")
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump({"network_def::filters": FILTERS, "patch_size": PATCH}))
    pack_bundle(SOURCE, tmp_path / "bare", weights=[tmp_path / "weights.pt"], config_files=[plan], float16=True)
    card = (tmp_path / "bare" / "docs" / "README.md").read_text()
    assert "how they were trained is not known here" in card
    assert "These weights come with no evaluation" in card
    half = torch.load(tmp_path / "bare" / "models" / "model.pt", weights_only=True)
    assert {value.dtype for value in half.values()} == {torch.float16}
    assert all(torch.allclose(half[key].float(), state[key], rtol=1e-3, atol=1e-6) for key in state)


# It runs elsewhere ----------------------------------------------------------------------------------------------------


def test_runs_from_another_folder_both_ways(packed: Path, image: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(packed)
    out = str(tmp_path / "monai")
    run_monai(config_file="configs/inference.yaml", dataset_dir=str(image), output_dir=out, logging_file=False)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["segment", str(image), "cli", "--bundle", str(packed), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    masks = [nibabel.load(tmp_path / folder / "scan.nii.gz") for folder in ("monai", "cli")]
    assert np.array_equal(*(np.asarray(mask.dataobj) for mask in masks))
    assert masks[0].shape == (20, 24, 18)
    sidecar = json.loads((tmp_path / "cli" / "scan.json").read_text())
    assert sidecar["weights_sha256"] == metadata_of(packed)["weights_sha256"]["models/model.pt"]


@pytest.mark.slow
def test_runs_by_the_command_of_its_card(packed: Path, image: Path, tmp_path: Path) -> None:
    import subprocess

    words = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"]
    words += ["--dataset_dir", str(image), "--output_dir", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], cwd=packed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scan.nii.gz").is_file()


def test_a_zip_holds_one_folder_of_its_name(run: Path, tmp_path: Path) -> None:
    pack_bundle(SOURCE, tmp_path / "small.zip", weights=[run])
    with zipfile.ZipFile(tmp_path / "small.zip") as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {"small"}
        archive.extractall(tmp_path / "elsewhere")
    assert check_bundle(tmp_path / "elsewhere" / "small") == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(OutputError, match="is there already"):
        pack_bundle(SOURCE, tmp_path / "small.zip", weights=[run])


def test_several_weights_are_averaged(run: Path, image: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "fold1", seed=1, fold=2)
    folder = tmp_path / "ensemble"
    result = pack_bundle(SOURCE, folder, weights=[run, other], torchscript=True)
    assert list(result.weights) == ["models/model.pt", "models/model_2.pt", "models/model.ts"]
    assert len(config_of(folder, "inference")["weights"]) == 2
    answered = CliRunner().invoke(app, ["segment", str(image), str(tmp_path / "out"), "--bundle", str(folder)])
    assert answered.exit_code == 0, answered.output
    script = torch.jit.load(str(folder / "models" / "model.ts"))
    patch = torch.randn(1, 1, *PATCH)
    members = [build_network(config_of(folder, "inference")) for _ in range(2)]
    for member, name in zip(members, ("model.pt", "model_2.pt"), strict=True):
        member.load_state_dict(torch.load(folder / "models" / name, weights_only=True))
    with torch.no_grad():
        mean = sum(member(patch).softmax(dim=1) for member in members) / 2
        assert torch.allclose(script(patch).softmax(dim=1), mean, atol=1e-5)


def test_onnx_computes_the_same(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    result = pack_bundle(SOURCE, tmp_path / "onnx", weights=[run], onnx=True)
    [export] = result.exports
    assert export.difference <= export.tolerance == 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "models" / "model.onnx"))
    network = build_network(config_of(tmp_path / "onnx", "inference"))
    network.load_state_dict(torch.load(tmp_path / "onnx" / "models" / "model.pt", weights_only=True))
    image = torch.randn(3, 1, 24, 16, 32)
    with torch.no_grad():
        expected = network(image).numpy()
    assert np.allclose(session.run(None, {"image": image.numpy()})[0], expected, atol=1e-4)


# What is refused ------------------------------------------------------------------------------------------------------


def test_onnx_that_is_not_installed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg3d.bundles.export.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"ONNX needs onnx, onnxruntime, not installed.*pip install 'medseg3d\[onnx\]'"
    ):
        pack_bundle(SOURCE, tmp_path / "new", weights=[run], onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network_leave_nothing(run: Path, tmp_path: Path) -> None:
    torch.save(torch.nn.Conv3d(1, 1, 1).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: these weights are of another network"):
        pack_bundle(SOURCE, tmp_path / "new", weights=[tmp_path / "other.pt"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.pt"]


def test_nothing_is_overwritten(run: Path, packed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in packed.rglob("*")}
    with pytest.raises(OutputError, match="is there already and is not overwritten"):
        pack_bundle(SOURCE, packed, weights=[run])
    assert {path: path.stat().st_mtime_ns for path in packed.rglob("*")} == before


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.pt: no weights there"):
        pack_bundle(SOURCE, tmp_path / "new", weights=[tmp_path])


def test_trainings_of_different_networks_are_no_ensemble(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "fold1", seed=1, spacing=[2.0, 2.0, 2.0])
    with pytest.raises(ConfigError, match="spacing of number 2 differ"):
        pack_bundle(SOURCE, tmp_path / "new", weights=[run, other])


def test_evaluation_that_is_none(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"summary\.json: no such file"):
        pack_bundle(SOURCE, tmp_path / "new", weights=[run], evaluation=tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UsageError, match="has no headline"):
        pack_bundle(SOURCE, tmp_path / "new", weights=[run], evaluation=tmp_path)


def test_network_that_answers_with_several_tensors() -> None:
    class Pair(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [image, image]

    with pytest.raises(ConfigError, match="answers with a list, and only networks that answer with one tensor"):
        _require_tensor_network(Pair(), torch.zeros(1, 1, 4))


# Flattening -----------------------------------------------------------------------------------------------------------


def test_a_plan_lands_where_its_ids_are(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "batch_size: 2\npatch_size: [32, 32, 32]\ndatalist: /data/list.json\nnetwork_def::filters: [8, 8, 8, 8]\n"
    )
    flat = flatten(SOURCE, config_files=[plan])
    assert flat.train is not None
    assert flat.train["batch_size"] == 2
    assert "batch_size" not in flat.inference
    assert flat.train["patch_size"] == flat.inference["patch_size"] == [32, 32, 32]
    assert flat.inference["network_def"]["filters"] == [8, 8, 8, 8]
    assert flat.train["datalist"] == config_of(SOURCE, "train")["datalist"]
    assert set(flat.changed) == {"patch_size", "network_def", "batch_size"}


def test_a_new_id_lands_where_something_refers_to_it(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("width: 8\nnetwork_def::filters: ['@width', '@width', '@width', '@width']\n")
    assert flatten(SOURCE, config_files=[plan]).inference["width"] == 8


def test_what_a_run_refers_to_comes_with_it() -> None:
    run = config_of(SOURCE, "train") | {"width": 8}
    run["network_def"] = run["network_def"] | {"filters": ["@width"] * 4}
    flat = flatten(SOURCE, runs=[run])
    assert flat.inference["width"] == 8
    assert flat.train is not None
    assert flat.train["width"] == 8


def test_an_id_that_lands_nowhere(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("patchsize: [32, 32, 32]\n")
    with pytest.raises(ConfigError, match=r"plan\.yaml: patchsize.*Did you mean 'patch_size'"):
        flatten(SOURCE, config_files=[plan])


@pytest.mark.parametrize("exclusive", [True, False])
def test_mean_of_members(exclusive: bool) -> None:
    """By hand: two networks that give constants."""

    class Constant(torch.nn.Module):
        def __init__(self, logits: list[float]) -> None:
            super().__init__()
            self.logits = torch.tensor(logits)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.logits.reshape(1, -1, 1)

    first, second = [0.0, 2.0], [1.0, -1.0]
    mean = MeanOfMembers([Constant(first), Constant(second)], exclusive=exclusive)(torch.zeros(1, 1, 1))
    activate = (lambda x: x.softmax(dim=0)) if exclusive else torch.sigmoid
    expected = (activate(torch.tensor(first)) + activate(torch.tensor(second))) / 2
    actual = mean.softmax(dim=1) if exclusive else mean.sigmoid()
    assert torch.allclose(actual.flatten(), expected, atol=1e-6)


def test_the_ensemble_that_a_bundle_is_gives_way_to_the_weights_that_are_packed(run: Path, tmp_path: Path) -> None:
    import shutil

    source = tmp_path / "source"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("*.pt"))
    paths = [f"$@bundle_root + '/models/{name}'" for name in ("model.pt", "model_2.pt")]
    inference = yaml.safe_load((source / "configs" / "inference.yaml").read_text(encoding="utf-8"))
    inference |= {"weights": paths, "temperature": 1.7}
    inference["evaluator"]["temperature"] = "@temperature"
    (source / "configs" / "inference.yaml").write_text(yaml.safe_dump(inference, sort_keys=False), encoding="utf-8")
    pack_bundle(source, tmp_path / "one", weights=[run])
    packed = config_of(tmp_path / "one", "inference")
    assert packed["weights"] == paths[0]
    assert packed["temperature"] == 1.0
    # The same number, found for these weights, is theirs.
    (tmp_path / "calibration.yaml").write_text("temperature: 1.7\n")
    pack_bundle(source, tmp_path / "two", weights=[run], config_files=[tmp_path / "calibration.yaml"])
    assert config_of(tmp_path / "two", "inference")["temperature"] == 1.7
