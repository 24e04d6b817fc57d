"""Every bundle passes these: layout, metadata, properties, one step of training, inference, export."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, run, verify_metadata, verify_net_in_out

from medseg3d.bundles import check_bundle
from medseg3d.engines.checkpoint import load_checkpoint
from medseg3d.errors import ConfigError
from medseg3d.phantom import TUMOUR_LABELS, TUMOUR_REGIONS

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = sorted(path for path in (ROOT / "bundles").iterdir() if (path / "configs").is_dir())
ORGANS = {"liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4, "aorta": 5, "lungs": 6, "spine": 7}
ORGANS |= {"lesion": 8}

# Bundles of 2D images are called image_*: what is done with their data, test_segment2d.py and its like test.
# Detectors answer with a dict an image, which MONAI's check of shapes does not know; test_detect.py has one.
TENSOR_BUNDLES = [path for path in BUNDLES if path.name != "image_detection_2d"]
VOLUME_BUNDLES = [path for path in BUNDLES if not path.name.startswith("image_")]

# The fixture with phantoms that have a volume bundle's channels.
PHANTOMS = {
    "ct_organ_segmentation": "phantom_datalist",
    "ct_pet_tumor_segmentation": "ct_pet_datalist",
    "mri_hippocampus_segmentation": "mri_datalist",
    "mri_tumor_segmentation": "tumour_datalist",
}

each_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
each_volume_bundle = pytest.mark.parametrize("bundle", VOLUME_BUNDLES, ids=lambda path: path.name)


def configs(bundle: Path, *names: str) -> list[str]:
    return [str(bundle / "configs" / f"{name}.yaml") for name in names]


@pytest.fixture
def study(request: pytest.FixtureRequest, bundle: Path) -> Path:
    """Small phantoms of the bundle's modality."""
    return request.getfixturevalue(PHANTOMS[bundle.name])


def images_of(study: Path, item: dict[str, Any]) -> list[str]:
    """The files of a case, one a channel."""
    images = [item["image"]] if isinstance(item["image"], str) else item["image"]
    return [str(study.parent / image) for image in images]


def labels_of(bundle: Path) -> dict[str, int]:
    """The labels of the phantoms that a bundle is tried with."""
    return TUMOUR_LABELS if bundle.name == "mri_tumor_segmentation" else ORGANS


def small(bundle: Path, datalist: Path, folder: Path) -> dict[str, Any]:
    """Overrides that make a bundle train on the phantoms in seconds."""
    return {
        "bundle_root": str(bundle),
        "datalist": str(datalist),
        "labels": labels_of(bundle),
        "spacing": [8.0, 8.0, 8.0],
        "patch_size": [32, 32, 32],
        "output_dir": str(folder),
        "device": "cpu",
        "batch_size": 1,
        "max_epochs": 2,
        "iterations_per_epoch": 2,
        "val_interval": 2,
        "network_def::filters": [4] * (4 if bundle.name == "mri_hippocampus_segmentation" else 5),
    }


def typed(overrides: dict[str, Any]) -> list[str]:
    return [part for key, value in overrides.items() for part in (f"--{key}", str(value))]


@each_bundle
def test_files_of_the_model_zoo_are_there(bundle: Path) -> None:
    wanted = ["LICENSE", "docs/README.md", "docs/data_license.txt", "models"]
    wanted += [
        f"configs/{name}" for name in ("metadata.json", "train.yaml", "inference.yaml", "evaluate.yaml", "logging.conf")
    ]
    assert [name for name in wanted if not (bundle / name).exists()] == []


@each_bundle
def test_check_finds_nothing(bundle: Path) -> None:
    assert check_bundle(bundle) == []


@each_bundle
def test_metadata_follows_the_schema(bundle: Path, data_dir: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_bytes((data_dir / "monai_schema" / "meta_schema_20240725.json").read_bytes())
    verify_metadata(str(bundle / "configs" / "metadata.json"), filepath=str(schema))


test_metadata_follows_the_schema = pytest.mark.real_data(test_metadata_follows_the_schema)


@pytest.mark.parametrize("bundle", TENSOR_BUNDLES, ids=lambda path: path.name)
@pytest.mark.parametrize("file", ["train", "inference"])
def test_network_takes_and_gives_what_the_metadata_says(bundle: Path, file: str) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=configs(bundle, file)[0],
        device="cpu",
    )


@each_volume_bundle
@pytest.mark.parametrize(
    ("files", "kind"), [(["train"], "train"), (["train", "evaluate"], "train"), (["inference"], "infer")], ids=str
)
def test_properties_of_the_workflow_are_there(
    bundle: Path, files: list[str], kind: str, study: Path, tmp_path: Path
) -> None:
    overrides = {"bundle_root": str(bundle), "output_dir": str(tmp_path), "device": "cpu", "labels": labels_of(bundle)}
    overrides |= {"dataset_dir": str(study.parent)} if kind == "train" else {"dataset_dir": str(study)}
    overrides |= {"weights": None} if kind == "infer" else {"spacing": [8.0] * 3, "patch_size": [32] * 3}
    workflow = ConfigWorkflow(configs(bundle, *files), workflow_type=kind, logging_file=False, **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []


@each_volume_bundle
def test_training_and_inference_prepare_images_alike(bundle: Path, study: Path, tmp_path: Path) -> None:
    item = json.loads(study.read_text())["testing"][0]
    paths = {"image": images_of(study, item), "label": str(study.parent / item["label"])}
    images = []
    for file, id_ in (("train", "validate::preprocessing"), ("inference", "preprocessing")):
        parser = ConfigParser()
        parser.read_config(configs(bundle, file))
        parser["labels"] = labels_of(bundle)
        images.append(parser.get_parsed_content(id_)(dict(paths))["image"])
    assert torch.equal(images[0].as_subclass(torch.Tensor), images[1].as_subclass(torch.Tensor))


@each_volume_bundle
def test_training_and_inference_say_the_same(bundle: Path) -> None:
    train, inference = (yaml.safe_load(Path(path).read_text()) for path in configs(bundle, "train", "inference"))
    shared = ["labels", "channels", "spacing", "patch_size", "flip_axes", "network_def", "network", "inferer"]
    assert {name: train[name] for name in shared} == {name: inference[name] for name in shared}
    evaluate = yaml.safe_load(Path(configs(bundle, "evaluate")[0]).read_text())["evaluate"]
    assert evaluate["dataset"]["transform"] == inference["preprocessing"]
    assert evaluate["postprocessing"] == inference["postprocessing"]


@each_volume_bundle
def test_bundle_trains_evaluates_and_segments_a_phantom(
    bundle: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # from another folder than the bundle's
    overrides = small(bundle, study, tmp_path / "run")
    run(run_id="training", config_file=configs(bundle, "train"), logging_file=False, **overrides)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["seed"] == 0
    assert record["cases"] == 4
    assert record["config"]["spacing"] == [8.0, 8.0, 8.0]
    changed = overrides | {"resume": True, "seed": 0, "spacing": [9.0, 9.0, 9.0]}
    with pytest.raises(RuntimeError) as caught:
        run(run_id="training", config_file=configs(bundle, "train"), logging_file=False, **changed)
    assert "spacing was [8.0, 8.0, 8.0], is [9.0, 9.0, 9.0]" in str(caught.value.__cause__)
    run(run_id="evaluating", config_file=configs(bundle, "train", "evaluate"), logging_file=False, **overrides)
    summary = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())
    assert summary["cases"] == 1
    regions = TUMOUR_REGIONS if bundle.name == "mri_tumor_segmentation" else {}
    assert set(summary["labels"]) == {*labels_of(bundle), *regions}

    keys = ("bundle_root", "labels", "spacing", "patch_size", "device", "network_def::filters")
    again = {key: overrides[key] for key in keys} | {"dataset_dir": str(study), "output_dir": str(tmp_path / "masks")}
    again["weights"] = str(tmp_path / "run" / "best.pt")
    run(config_file=configs(bundle, "inference"), logging_file=False, **again)
    item = json.loads(study.read_text())["testing"][0]
    image = nibabel.load(images_of(study, item)[0])
    mask = nibabel.load(tmp_path / "masks" / f"{item['case']}.nii.gz")
    assert mask.shape == image.shape
    assert np.array_equal(mask.affine, image.affine)
    assert mask.get_data_dtype() == np.uint8
    sidecar = json.loads((tmp_path / "masks" / f"{item['case']}.json").read_text())
    assert set(sidecar["volume_ml"]) == set(labels_of(bundle))


@each_volume_bundle
@pytest.mark.parametrize("overlay", ["unet_2d", "sgd_poly", "low_resolution", "residual_encoder", "labels_softmax"])
def test_overlays_train_a_step(bundle: Path, overlay: str, study: Path, tmp_path: Path) -> None:
    if not (bundle / "configs" / f"{overlay}.yaml").is_file():
        pytest.skip(f"{bundle.name} has no {overlay}.yaml")
    overrides = small(bundle, study, tmp_path) | {"max_epochs": 1, "iterations_per_epoch": 1, "fold": -1}
    narrow = overrides.pop("network_def::filters")
    if overlay == "unet_2d":
        overrides["network_def::network::filters"] = narrow
    elif overlay != "low_resolution":
        overrides["network_def::filters"] = narrow
    run(run_id="training", config_file=configs(bundle, "train", overlay), logging_file=False, **overrides)
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 1


@each_volume_bundle
def test_export_to_torchscript_computes_the_same(bundle: Path, tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(configs(bundle, "inference"))
    parser["device"] = "cpu"
    shape = [1, len(parser["channels"]), 32, 32, 32]
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=configs(bundle, "inference")[0],
        use_trace=True,  # scripting loses the deep supervision heads of DynUNet
        input_shape=shape,
    )
    exported = torch.jit.load(str(tmp_path / "model.ts"))
    image = torch.randn(shape)
    with torch.no_grad():
        assert torch.allclose(exported(image), network(image), atol=1e-4)


@each_volume_bundle
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"max_epoch": 3}, "Did you mean 'max_epochs'"),
        ({"network_def::filtesr": [4, 4]}, "Did you mean 'network_def::filters'|filtesr"),
        ({"patch_size": [33, 32, 32]}, "not divisible by the network's stride"),
        ({"labels": {"liver": 1}}, "spleen|oedema"),
        ({"fold": 9}, "no fold 9"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_override_stops_before_training(
    bundle: Path, override: dict[str, Any], message: str, study: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError) as caught:
        run(
            run_id="training",
            config_file=configs(bundle, "train"),
            logging_file=False,
            **(small(bundle, study, tmp_path) | override),
        )
    assert isinstance(caught.value.__cause__, ConfigError)
    assert re.search(message, str(caught.value.__cause__))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(mri_datalist: Path, tmp_path: Path) -> None:
    """``kill -9`` of ``python -m monai.bundle run``, twice, and the same command with ``--resume true``."""
    bundle = ROOT / "bundles" / "mri_hippocampus_segmentation"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def command(folder: Path) -> list[str]:
        # More epochs than are needed: a busy machine may see the checkpoint of one late.
        overrides = small(bundle, mri_datalist, folder) | {"max_epochs": 10, "iterations_per_epoch": 3, "resume": True}
        start = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", configs(bundle, "train")[0]]
        return [*start, *typed(overrides)]

    def kill_after_an_epoch(done_before: int) -> int:
        """Epochs in the checkpoint that a process left, which was killed after it had trained at least one more."""
        last = tmp_path / "cut" / "last.pt"
        deadline = time.monotonic() + 600
        with subprocess.Popen(command(tmp_path / "cut"), env=environment, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and time.monotonic() < deadline:
                if last.is_file() and load_checkpoint(last)["epoch"] > done_before:
                    break
                time.sleep(0.02)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        done = load_checkpoint(last)["epoch"]
        assert done_before < done < 10
        return done

    subprocess.run(command(tmp_path / "whole"), check=True, env=environment, stdout=subprocess.DEVNULL)
    kill_after_an_epoch(kill_after_an_epoch(0))
    subprocess.run(command(tmp_path / "cut"), check=True, env=environment, stdout=subprocess.DEVNULL)
    whole, cut = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    assert whole["epoch"] == cut["epoch"] == 10
    assert all(torch.equal(whole["network"][key], cut["network"][key]) for key in whole["network"])
    assert len(json.loads((tmp_path / "cut" / "run.json").read_text())["starts"]) == 3
