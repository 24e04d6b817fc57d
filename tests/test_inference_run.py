"""A bundle's inference.yaml by ``medseg3d segment`` and by ``python -m monai.bundle run``: one path for both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import typer
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.networks.nets import UNet
from typer.testing import CliRunner

from medseg3d.cli.segment import segment
from medseg3d.dicom import scan
from medseg3d.dicom.seg_read import read_seg
from medseg3d.errors import CaseError, CheckpointError, ConfigError, UsageError
from medseg3d.inference.run import run_bundle
from medseg3d.phantom.dicom import Patient, write_ct_series

INFERENCE = """
imports: ["$import torch", "$import medseg3d", "$import medseg3d.inference"]
bundle_root: .
dataset_dir: ./data
modality: CT
output_dir: "$@bundle_root + '/eval'"
device: "$medseg3d.engines.default_device()"
labels: {organ: 1}
spacing: [1.0, 1.0, 1.0]
patch_size: [16, 16, 16]
flip_axes: [0]
network_def:
  _target_: UNet
  spatial_dims: 3
  in_channels: 1
  out_channels: 2
  channels: [4, 8]
  strides: [2]
network: "$@network_def.to(@device)"
weights: "$@bundle_root + '/models/model.pt'"
preprocessing:
  _target_: Compose
  transforms:
    - {_target_: medseg3d.transforms.LoadStudyd, keys: image}
    - {_target_: Orientationd, keys: image, axcodes: RAS, labels: null}
    - {_target_: Spacingd, keys: image, pixdim: "@spacing"}
    - {_target_: NormalizeIntensityd, keys: image}
    - {_target_: EnsureTyped, keys: image}
dataset:
  _target_: Dataset
  data: "$medseg3d.inference.find_cases(@dataset_dir, modality=@modality)"
  transform: "@preprocessing"
inferer: {_target_: medseg3d.inference.SlidingWindow, roi_size: "@patch_size", sw_batch_size: 2}
postprocessing:
  _target_: Compose
  transforms:
    - {_target_: medseg3d.inference.ToImageGridd, keys: pred}
    - {_target_: medseg3d.inference.RemoveSmallComponentsd, keys: pred, min_volume_ml: 0.01}
evaluator:
  _target_: medseg3d.inference.Segmenter
  dataset: "@dataset"
  network: "@network"
  inferer: "@inferer"
  postprocessing: "@postprocessing"
  labels: "@labels"
  output_dir: "@output_dir"
  device: "@device"
  weights: "@weights"
  metadata: "$@bundle_root + '/configs/metadata.json'"
initialize: ["$medseg3d.bundles.check_run()"]
run: ["$@evaluator.run()"]
"""
LOGGING = """
[loggers]
keys=root
[handlers]
keys=console
[formatters]
keys=
[logger_root]
level=WARNING
handlers=console
[handler_console]
class=StreamHandler
args=(sys.stderr,)
"""
METADATA = {
    "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
    "version": "0.3.0",
    "changelog": {"0.3.0": "for tests"},
    "monai_version": "1.6.1",
    "pytorch_version": "2.14.1",
    "numpy_version": "2.0.0",
    "required_packages_version": {},
    "task": "test",
    "description": "test",
    "authors": "test",
    "copyright": "test",
    "network_data_format": {
        "inputs": {
            "image": {
                "type": "image", "format": "magnitude", "modality": "MR", "num_channels": 1,
                "spatial_shape": [16, 16, 16], "dtype": "float32", "value_range": [], "is_patch_data": True,
                "channel_def": {"0": "T1"},
            }
        },
        "outputs": {
            "pred": {
                "type": "image", "format": "segmentation", "num_channels": 2, "spatial_shape": [16, 16, 16],
                "dtype": "float32", "value_range": [], "is_patch_data": True,
                "channel_def": {"0": "background", "1": "organ"},
            }
        },
    },
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path) -> Path:
    folder = tmp_path / "bundles" / "mr_test_segmentation"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.yaml").write_text(INFERENCE)
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    (folder / "configs" / "logging.conf").write_text(LOGGING)
    torch.manual_seed(0)
    torch.save(UNet(3, 1, 2, [4, 8], [2]).state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in ("p1", "p2"):
        voxels = generator.normal(size=(20, 18, 16)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.5, 1.0])), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def truncated(images) -> Path:
    content = (images / "p1.nii.gz").read_bytes()
    (images / "p3.nii.gz").write_bytes(content[: len(content) // 2])
    return images


def command(*arguments: object):
    """The command as the program has it, with its exceptions let through."""
    app = typer.Typer()
    app.command()(segment)
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)


def mask(path: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


def test_segments_a_folder(bundle, images, tmp_path):
    result = command(images, tmp_path / "out", "--bundle", bundle, "--device", "cpu", "--uncertainty")
    assert result.exit_code == 0, result.exception
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"{case}{suffix}" for case in ("p1", "p2") for suffix in (".json", ".nii.gz", "_uncertainty.nii.gz")
    ]
    sidecar = json.loads((tmp_path / "out" / "p1.json").read_text())
    assert (sidecar["bundle"], sidecar["bundle_version"]) == ("mr_test_segmentation", "0.3.0")
    assert mask(tmp_path / "out" / "p1.nii.gz").shape == (20, 18, 16)


def test_segments_a_dicom_tree_into_every_format(bundle, tmp_path):
    voxels = np.random.default_rng(0).integers(-100, 100, (20, 18, 16)).astype(np.int16)
    for patient in ("one", "two"):
        write_ct_series(voxels, np.diag([-1.0, -1.0, 1.5, 1.0]), tmp_path / "in" / patient, patient=Patient(patient))
    out = tmp_path / "out"
    result = command(tmp_path / "in", out, "--bundle", bundle, "--formats", "nifti, seg,rtstruct")
    assert result.exit_code == 0, result.exception
    cases = sorted(path.name.removesuffix(".nii.gz") for path in out.glob("*.nii.gz"))
    assert len(cases) == 2
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{case}{suffix}" for case in cases for suffix in (".json", ".nii.gz", ".rtstruct.dcm", ".seg.dcm")
    )
    (stack,) = scan(tmp_path / "in" / "one").series[0].stacks
    seg, case = next((read_seg(path), path.name) for path in out.glob("*.seg.dcm") if stack.series.patient in path.name)
    np.testing.assert_array_equal(seg.grid.affine_ras[:3, :3], stack.grid.affine_ras[:3, :3])
    on_series = read_seg(out / case, stack.grid)
    np.testing.assert_array_equal(
        on_series.segments[0].mask, mask(out / case.replace(".seg.dcm", ".nii.gz")).astype(bool)
    )


def test_formats_that_are_unknown_or_need_dicom_are_wrong_usage(bundle, images, tmp_path):
    result = command(images, tmp_path / "out", "--bundle", bundle, "--formats", "nifti,dicom")
    assert "Masks are written as nifti, seg or rtstruct, not as nifti, dicom" in str(result.exception)
    assert isinstance(result.exception, UsageError)
    result = command(images, tmp_path / "out", "--bundle", bundle, "--formats", "seg")
    assert isinstance(result.exception, UsageError)
    assert "2 of 2 images are no DICOM series" in str(result.exception)


def test_is_the_same_as_monais_own_command(bundle, images, tmp_path):
    run_bundle(bundle, images, tmp_path / "ours")
    arguments = ["--config_file", bundle / "configs" / "inference.yaml", "--bundle_root", bundle]
    arguments += ["--dataset_dir", images, "--output_dir", tmp_path / "monai"]
    process = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    for case in ("p1", "p2"):
        ours, theirs = (tmp_path / folder / f"{case}.nii.gz" for folder in ("ours", "monai"))
        np.testing.assert_array_equal(mask(ours), mask(theirs))


def test_a_failed_case_fails_the_command_after_the_others(bundle, truncated, tmp_path):
    result = command(truncated, tmp_path / "out", "--bundle", bundle)
    assert isinstance(result.exception, CaseError)
    assert "1 of 3 cases failed, the others are done:\n  p3: " in str(result.exception)
    assert (tmp_path / "out" / "p2.nii.gz").is_file()


def test_a_failed_case_fails_monais_command_too(bundle, truncated, tmp_path):
    arguments = ["--config_file", bundle / "configs" / "inference.yaml", "--bundle_root", bundle]
    arguments += ["--dataset_dir", truncated, "--output_dir", tmp_path / "out"]
    process = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert "1 of 3 cases failed, the others are done" in process.stderr
    assert (tmp_path / "out" / "p2.nii.gz").is_file()


def test_weights_and_configuration_of_ones_own(bundle, images, tmp_path):
    torch.manual_seed(1)
    torch.save({"network": UNet(3, 1, 2, [4, 16], [2]).state_dict()}, tmp_path / "best.pt")
    (tmp_path / "plan.yaml").write_text("spacing: [1.5, 1.5, 1.5]\nnetwork_def::channels: [4, 16]\n")
    options = ["--weights", tmp_path / "best.pt", "--config-file", tmp_path / "plan.yaml"]
    result = command(images, tmp_path / "out", "--bundle", bundle, *options)
    assert result.exit_code == 0, result.exception
    result = command(images, tmp_path / "other", "--bundle", bundle, *options[:2])
    assert isinstance(result.exception, CheckpointError)
    assert "best.pt: these weights are of another network" in str(result.exception)


def test_mirroring_follows_the_bundles_training(bundle, images, tmp_path):
    run_bundle(bundle, images, tmp_path / "plain", save_probability=True)
    run_bundle(bundle, images, tmp_path / "mirrored", save_probability=True, mirror=True)
    plain, mirrored = (mask(tmp_path / name / "p1_probability.nii.gz") for name in ("plain", "mirrored"))
    assert np.abs(plain - mirrored).max() > 1e-3
    inference = bundle / "configs" / "inference.yaml"
    inference.write_text(INFERENCE.replace("flip_axes: [0]\n", ""))
    with pytest.raises(UsageError, match="not trained on mirrored images"):
        run_bundle(bundle, images, tmp_path / "out", mirror=True)


def test_keep_goes_on_where_a_run_stopped(bundle, images, tmp_path):
    run_bundle(bundle, images / "p1.nii.gz", tmp_path / "out")
    before = (tmp_path / "out" / "p1.nii.gz").stat().st_mtime_ns
    assert command(images, tmp_path / "out", "--bundle", bundle, "--keep").exit_code == 0
    assert (tmp_path / "out" / "p1.nii.gz").stat().st_mtime_ns == before
    assert (tmp_path / "out" / "p2.nii.gz").is_file()


def test_wrong_usage_is_told_before_anything_runs(bundle, images, tmp_path):
    with pytest.raises(UsageError, match=r"absent\.yaml: no such configuration file"):
        run_bundle(bundle, images, tmp_path / "out", config_files=[tmp_path / "absent.yaml"])
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            run_bundle(bundle, images, tmp_path / "out", device="cuda")
    with pytest.raises(CaseError, match="no such file or folder"):
        run_bundle(bundle, tmp_path / "absent", tmp_path / "out")
    (tmp_path / "plan.yaml").write_text("spacign: [1.5, 1.5, 1.5]\n")
    with pytest.raises(ConfigError, match="spacign"):
        run_bundle(bundle, images, tmp_path / "out", config_files=[tmp_path / "plan.yaml"])
    assert not (tmp_path / "out").exists()


def test_has_what_monai_asks_of_an_inference_workflow(bundle, images):
    overrides = {"bundle_root": str(bundle), "dataset_dir": str(images)}
    config = str(bundle / "configs" / "inference.yaml")
    workflow = ConfigWorkflow(config, logging_file=False, workflow_type="infer", **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("loader", ["medseg3d.transforms.LoadStudyd", "medseg3d.transforms.LoadVolumed", "LoadImaged"])
def test_parts_stay_usable_by_monai_label_and_deploy(bundle, images, loader):
    """They take preprocessing, inferer, network and post-processing from the file, and run them without a Segmenter."""
    ours = "{_target_: medseg3d.transforms.LoadStudyd, keys: image}"
    theirs = f"{{_target_: {loader}, keys: image{', ensure_channel_first: true' * (loader == 'LoadImaged')}}}"
    config = bundle / "configs" / "inference.yaml"
    config.write_text(INFERENCE.replace(ours, theirs))
    parser = ConfigParser()
    parser.read_config(str(config))
    preprocess, postprocess = (parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing"))
    inferer, network = (parser.get_parsed_content(name) for name in ("inferer", "network_def"))
    data = preprocess({"image": str(images / "p1.nii.gz")})
    with torch.no_grad():
        data["pred"] = inferer(data["image"][None], network.eval())[0]
    result = postprocess(data)["pred"]
    assert result.shape == (1, 20, 18, 16)
    np.testing.assert_array_equal(result.affine.numpy(), nibabel.load(images / "p1.nii.gz").affine)


def test_help_has_examples_and_needs_no_torch():
    code = (
        "import sys, typer; from typer.testing import CliRunner; from medseg3d.cli.segment import segment; "
        "app = typer.Typer(rich_markup_mode='rich'); app.command()(segment); "
        "print(CliRunner().invoke(app, ['--help']).output); assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "COLUMNS": "160"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "medseg3d segment scans/ masks/ --bundle ct_organ_segmentation" in shown.stdout
    assert "--uncertainty" in shown.stdout
