"""Packed bundles in MONAI Label and MONAI Deploy: by what those programs do with one, and in themselves if installed.

What they do was read in monailabel 0.8.5 (``tasks/infer/bundle.py``, ``tasks/infer/basic_infer.py``,
``tasks/train/bundle.py``) and monai-deploy-app-sdk 4.0.0 (``operators/monai_bundle_inference_operator.py``).
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.bundle import run as run_monai
from monai.data import MetaTensor
from monai.transforms import Spacingd

from medseg3d.bundles import check_bundle, copy_bundle, find_bundle, pack_bundle
from medseg3d.bundles.applications import with_handlers, with_one_count_of_epochs, without_spacingd
from medseg3d.bundles.flatten import flatten
from medseg3d.bundles.weights import build_network
from medseg3d.engines import set_aside
from medseg3d.errors import CaseError, OutputError
from medseg3d.transforms import LoadStudyd

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:parsing config_file"),
]

SOURCE = find_bundle("mri_hippocampus_segmentation")
# A narrow network whose training takes seconds and changes nothing: what comes out is what it started from.
PLAN = {
    "network_def::filters": [4, 8, 8, 8],
    "patch_size": [16, 16, 16],
    "batch_size": 1,
    "iterations_per_epoch": 1,
    "max_epochs": 1,
    "learning_rate": 0.0,
    "val_interval": 1,
}
SHAPE = (20, 24, 18)
# Axes permuted and flipped, voxels that are no millimetres.
AFFINE = np.array([[0, 0, -1.5, 40], [1.25, 0, 0, -30], [0, 1.0, 0, 7], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    plan = folder / "plan.yaml"
    plan.write_text(yaml.safe_dump(PLAN))
    torch.manual_seed(0)
    network = build_network(flatten(SOURCE, config_files=[plan]).inference)
    torch.save(network.state_dict(), folder / "weights.pt")
    bundle = folder / "hippocampus_segmentation"
    pack_bundle(SOURCE, bundle, weights=[folder / "weights.pt"], config_files=[plan], torchscript=True)
    return bundle


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Images with label maps, as a datastore lists them."""
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    label = np.zeros(SHAPE, np.uint8)
    label[5:9, 6:12, 4:9], label[9:14, 6:12, 4:9] = 1, 2
    listed = []
    for number in range(5):
        paths = {kind: folder / f"{kind}_{number}.nii.gz" for kind in ("image", "label")}
        image = rng.normal(size=SHAPE).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, AFFINE), paths["image"])
        nibabel.save(nibabel.Nifti1Image(label, AFFINE), paths["label"])
        listed.append({kind: str(path) for kind, path in paths.items()})
    return listed


@pytest.fixture(scope="module")
def image(cases: list[dict[str, str]]) -> Path:
    return Path(cases[0]["image"])


@pytest.fixture(scope="module")
def expected(packed: Path, image: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The mask by medseg3d, in float32 as the others compute."""
    out = tmp_path_factory.mktemp("expected")
    overrides = {"bundle_root": str(packed), "dataset_dir": str(image), "output_dir": str(out), "amp": False}
    path = str(packed / "configs" / "inference.yaml")
    run_monai(config_file=path, logging_file=False, device="cpu", **overrides)
    mask = np.asarray(nibabel.load(out / "image_0.nii.gz").dataobj)
    assert len(np.unique(mask)) > 1
    return mask


def in_memory(path: Path, **meta: Any) -> MetaTensor:
    """An image as MONAI Deploy's operator makes it of a DICOM series: without channels, with its affine."""
    volume = nibabel.load(path)
    known = {
        "affine": volume.affine, "original_affine": volume.affine.copy(), "space": "RAS",
        "spatial_shape": np.asarray(volume.shape), "original_channel_dim": "no_channel", "SeriesInstanceUID": "1.2.3",
    }  # fmt: skip
    return MetaTensor.ensure_torch_and_prune_meta(np.asarray(volume.dataobj), known | meta)


# MONAI Label, by what it does -----------------------------------------------------------------------------------------


def test_label_segments(packed: Path, image: Path, expected: np.ndarray) -> None:
    """As BundleInferTask: the image by its path, which is there twice, and every transform called by itself."""
    parser = ConfigParser()
    parser.read_config(str(packed / "configs" / "inference.yaml"))
    parser.config.update({"bundle_root": str(packed), "use_click": False})
    network = parser.get_parsed_content("network_def", instantiate=True)
    metadata = json.loads((packed / "configs" / "metadata.json").read_text())
    [key], [pred_key] = (metadata["network_data_format"][side] for side in ("inputs", "outputs"))
    data: dict[str, Any] = {"model_filename": ["model.pt"], "device": "cpu", key: str(image), "image_path": str(image)}
    parser.config.update({"device": "cpu"})
    for transform in parser.get_parsed_content("preprocessing", instantiate=True).transforms:
        data = transform(data)
    state = torch.load(packed / "models" / "model.pt", map_location="cpu")
    assert set(network.state_dict()) == set(state.get("model", state))
    network.load_state_dict(state)
    with torch.no_grad():
        inferer = parser.get_parsed_content("inferer", instantiate=True)
        data[pred_key] = inferer(data[key][None], network.eval())[0]
    for transform in parser.get_parsed_content("postprocessing", instantiate=True).transforms:
        data = transform(data)
    # Its own last step compares the prediction's shape with this, and resizes where they differ; the writer takes the
    # affine from the image, and the file's suffix from the path.
    assert tuple(data[key].meta["spatial_shape"]) == tuple(data[pred_key].shape[1:]) == SHAPE
    np.testing.assert_allclose(data[key].meta["original_affine"], AFFINE)
    assert data["image_path"] == str(image)
    assert np.array_equal(data[pred_key][0].numpy(), expected)


def test_why_spacingd_is_replaced(image: Path) -> None:
    """When this fails, MONAI leaves other entries alone, and ``without_spacingd`` has had its day."""
    data = LoadStudyd("image")({"image": str(image), "image_path": str(image)})
    with pytest.raises(AttributeError, match="'str' object has no attribute 'update'"):
        Spacingd("image", pixdim=(1, 1, 1))(data)


def test_the_preprocessing_computes_the_same(packed: Path, image: Path) -> None:
    outcome = []
    for bundle in (SOURCE, packed):
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / "inference.yaml"))
        outcome.append(parser.get_parsed_content("preprocessing")({"image": str(image)})["image"])
    assert torch.equal(*(one.as_tensor() for one in outcome))
    assert torch.equal(*(one.affine for one in outcome))
    assert outcome[1].shape[1:] != SHAPE  # it did resample


@pytest.mark.parametrize(
    ("transform", "wanted"),
    [
        (
            {"_target_": "monai.transforms.Spacingd", "keys": ["image"], "pixdim": 1.0, "mode": ["bilinear"]},
            {
                "_target_": "Lambdad", "keys": ["image"],
                "func": {"_target_": "Spacing", "pixdim": 1.0, "mode": "bilinear"},
            },
        ),
        (
            {"_target_": "Spacingd", "keys": "image", "allow_missing_keys": True, "pixdim": "@s", "_disabled_": "@off"},
            {
                "_target_": "Lambdad", "keys": "image", "allow_missing_keys": True, "_disabled_": "@off",
                "func": {"_target_": "Spacing", "pixdim": "@s"},
            },
        ),
        ({"_target_": "Spacingd", "keys": ["image", "label"], "pixdim": 1.0}, None),
        ({"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"}, None),
        ("@normalize", None),
    ],
)  # fmt: skip
def test_without_spacingd(transform: Any, wanted: Any) -> None:
    config = {"preprocessing": {"_target_": "Compose", "transforms": [transform]}, "spacing": [1.0]}
    changed = without_spacingd(config)
    assert changed["preprocessing"] == {"_target_": "Compose", "transforms": [wanted or transform]}
    assert changed["spacing"] == config["spacing"]
    assert without_spacingd(changed) == changed


def label_trains(bundle: Path, cases: list[dict[str, str]], *, epochs: int, output_dir: Path) -> dict[str, Any]:
    """What BundleTrainTask hands to ``monai.bundle.run``."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.yaml"))
    handlers = parser.get("train#handlers", [])
    weights = str(bundle / "models" / "model.pt")
    load = {"_target_": "CheckpointLoader", "load_path": weights, "load_dict": {"model": "$@network"}, "strict": False}
    handlers.insert(0, load)
    return {
        "run_id": "run", "init_id": None, "final_id": None,
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "config_file": str(bundle / "configs" / "train.yaml"),
        "bundle_root": str(bundle),
        "train#trainer#max_epochs": epochs,
        "train#dataset#data": cases[:4],
        "validate#dataset#data": cases[4:],
        "device": "cpu",
        "train#handlers": handlers,
        "output_dir": str(output_dir),  # Label itself names none
    }  # fmt: skip


def test_label_trains(packed: Path, cases: list[dict[str, str]], tmp_path: Path) -> None:
    """Its cases, its number of epochs and its weights are what the training takes; the bundle's list is not read."""
    bundle = copy_bundle(packed, tmp_path / "served")
    run_monai(**label_trains(bundle, cases, epochs=3, output_dir=tmp_path / "run"))
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert last["training_cases"] == [case["image"] for case in cases[:4]]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["cases"] == 4
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + 3
    weights = torch.load(packed / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(last["network"][name], weights[name]) for name in weights)  # the rate is 0


def test_label_trains_again_and_again(packed: Path, cases: list[dict[str, str]], tmp_path: Path) -> None:
    """It names no folder. Earlier runs are kept, the last one's weights are in Label's list, the packed ones stay."""
    bundle = copy_bundle(packed, tmp_path / "served")
    before = (bundle / "models" / "model.pt").read_bytes()
    for _ in range(3):
        arguments = label_trains(bundle, cases, epochs=1, output_dir=tmp_path)
        del arguments["output_dir"]
        run_monai(**arguments)
    assert sorted(path.name for path in (bundle / "runs").iterdir()) == ["fold0", "fold0_1", "fold0_2"]
    offered = torch.load(bundle / "models" / "trained.pt", weights_only=True)
    best = torch.load(bundle / "runs" / "fold0" / "best.pt", weights_only=True)["network"]
    assert list(offered) == list(best)
    assert all(torch.equal(offered[name], best[name]) for name in best)
    assert (bundle / "models" / "model.pt").read_bytes() == before
    assert check_bundle(bundle) == []
    with pytest.raises(RuntimeError) as refused:
        run_monai(**arguments | {"run_id": "training"})
    assert "already holds a run" in str(refused.value.__cause__)


def test_a_run_where_the_program_runs_is_not_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    (run / "inside").mkdir(parents=True)
    (run / "last.pt").touch()
    for folder, name in ((run, "."), (run / "inside", run)):
        monkeypatch.chdir(folder)
        set_aside(name, resume=True)  # nothing is to be done
        with pytest.raises(OutputError, match=r"run holds a run and is where this program runs.*--resume true"):
            set_aside(name)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_training_without_label_is_as_it_was(packed: Path) -> None:
    train = yaml.safe_load((packed / "configs" / "train.yaml").read_text())
    refusal, *others = train["training"]
    assert refusal == "$medseg3d.engines.require_free(@output_dir, resume=@resume)"
    assert train["run"][1:-1] == others
    assert train["max_epochs"] == PLAN["max_epochs"]
    assert train["train"]["trainer"]["max_epochs"] == "@max_epochs"
    assert train["train"]["handlers"] == []
    assert train["lr_scheduler"]["total_steps"] == "$@train::trainer::max_epochs * @iterations_per_epoch"
    assert check_bundle(packed) == []


def test_epochs_are_counted_by_the_trainer() -> None:
    config = {
        "max_epochs": 3,
        "warmup": "$min(@max_epochs, 2) + @max_epochs_of_others",
        "lr_scheduler": {"total_steps": "$@max_epochs * 10", "note": "of @max_epochs"},
        "train": {"trainer": {"max_epochs": "@max_epochs"}},
    }
    counted = with_one_count_of_epochs(config)
    assert counted["warmup"] == "$min(@train::trainer::max_epochs, 2) + @max_epochs_of_others"
    assert counted["lr_scheduler"] == {"total_steps": "$@train::trainer::max_epochs * 10", "note": "of @max_epochs"}
    assert counted["train"] == config["train"]
    assert ConfigParser(counted | {"max_epochs_of_others": 4}).get_parsed_content("warmup") == 6
    assert with_one_count_of_epochs(counted) == counted
    without = config | {"train": {"trainer": {"max_epochs": 5}}}
    assert with_one_count_of_epochs(without) == without


def test_handlers_go_only_where_they_are_taken() -> None:
    trainer = {"_target_": "medseg3d.engines.trainer", "max_epochs": 1}
    train = with_handlers({"train": {"trainer": trainer}})["train"]
    assert train == {"handlers": [], "trainer": trainer | {"train_handlers": "@train::handlers"}}
    for section in (
        {"trainer": trainer, "handlers": ["mine"]},
        {"trainer": trainer | {"train_handlers": "@mine"}},
        {"trainer": {"_target_": "my_code.trainer"}},
    ):
        assert with_handlers({"train": section}) == {"train": section}


# MONAI Deploy, by what it does ----------------------------------------------------------------------------------------


def test_the_torchscript_holds_what_deploy_reads(packed: Path) -> None:
    """As ``monai.bundle ckpt_export`` writes it: metadata and configuration beside the code."""
    with zipfile.ZipFile(packed / "models" / "model.ts") as archive:
        metadata = json.loads(archive.read("model/extra/metadata.json"))
        config = json.loads(archive.read("model/extra/inference.json"))
    assert config == yaml.safe_load((packed / "configs" / "inference.yaml").read_text())
    stated = json.loads((packed / "configs" / "metadata.json").read_text())
    assert metadata == {key: value for key, value in stated.items() if key != "weights_sha256"}
    assert "eval_metrics" not in metadata  # the scores of the bundle's own weights
    assert {"preprocessing", "postprocessing", "inferer", "device"} <= set(config)
    assert metadata["network_data_format"]["inputs"]["image"]["type"] == "image"
    assert metadata["network_data_format"]["outputs"]["pred"]["type"] == "image"


def test_deploy_segments_an_image_in_memory(packed: Path, image: Path, expected: np.ndarray) -> None:
    """As MonaiBundleInferenceOperator: one file, transforms called LoadImage left out, an image without channels."""
    path = packed / "models" / "model.ts"
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("model/extra/inference.json"))
    parser = ConfigParser(config)
    preprocessing, postprocessing = (parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing"))
    preprocessing.transforms = tuple(t for t in preprocessing.transforms if "LoadImage" not in type(t).__name__)
    data = preprocessing({"image": in_memory(image)})
    network = torch.jit.load(str(path)).eval()
    with torch.no_grad():
        pred = parser.get_parsed_content("inferer")(inputs=data["image"][None], network=network)[0]
    mask = postprocessing({"pred": pred, "image": data["image"]})["pred"]
    assert np.array_equal(mask[0].numpy(), expected)
    assert data["image"].meta["SeriesInstanceUID"] == "1.2.3"  # the operators behind it may want it


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_channels_of_an_image_in_memory(axis: int) -> None:
    rng = np.random.default_rng(0)
    channels = rng.normal(size=(2, 4, 5, 6)).astype(np.float32)
    meta = {"affine": AFFINE, "original_affine": AFFINE, "original_channel_dim": axis}
    given = MetaTensor.ensure_torch_and_prune_meta(np.moveaxis(channels, 0, axis), meta)
    loaded = LoadStudyd("image")({"image": given})["image"]
    np.testing.assert_array_equal(loaded.numpy(), channels)
    np.testing.assert_array_equal(loaded.affine, AFFINE)
    assert loaded.meta["spatial_shape"].tolist() == [4, 5, 6]


def test_an_image_in_memory_that_lies_nowhere() -> None:
    """As NiftiDataLoader of MONAI Deploy hands it over: an array and nothing else."""
    bare = MetaTensor.ensure_torch_and_prune_meta(np.zeros(SHAPE), {"original_channel_dim": "no_channel"})
    with pytest.raises(CaseError, match=r"does not say where it lies.*DICOMSeriesToVolumeOperator"):
        LoadStudyd("image")({"image": bare})


def test_an_image_in_memory_in_another_space(image: Path) -> None:
    with pytest.raises(CaseError, match="its affine in LPS: hand it over in RAS"):
        LoadStudyd("image")({"image": in_memory(image, space="LPS")})


def test_an_image_in_memory_whose_channels_are_not_known() -> None:
    image = MetaTensor(torch.zeros(2, *SHAPE), affine=AFFINE)
    with pytest.raises(CaseError, match=r"shape \(2, 20, 24, 18\) and original_channel_dim None"):
        LoadStudyd("image")({"image": image})


# The programs themselves, where they are installed --------------------------------------------------------------------


def test_in_monai_label_itself(packed: Path, image: Path, expected: np.ndarray) -> None:
    bundle = pytest.importorskip("monailabel.tasks.infer.bundle", reason="MONAI Label is not installed")
    task = bundle.BundleInferTask(str(packed), conf={})
    assert task.is_valid()
    assert task.info()["labels"] == {"anterior": 1, "posterior": 2}
    file, result = task({"image": str(image), "device": "cpu", "model": packed.name})
    mask = nibabel.load(file)
    assert np.array_equal(np.asarray(mask.dataobj), expected)
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-4)
    assert result["label_names"] == {"anterior": 1, "posterior": 2}
    Path(file).unlink()


def test_training_in_monai_label_itself(packed: Path, cases: list[dict[str, str]], tmp_path: Path) -> None:
    bundle = pytest.importorskip("monailabel.tasks.train.bundle", reason="MONAI Label is not installed")

    served = copy_bundle(packed, tmp_path / "served")
    task = bundle.BundleTrainTask(str(served), conf={})
    assert task.is_valid()
    datastore = SimpleNamespace(datalist=lambda: [case | {"id": case["image"]} for case in cases])
    request = {"model": packed.name, "device": "cpu", "max_epochs": 2, "val_split": 0.2, "multi_gpu": False}
    for _ in range(2):
        assert task(request, datastore) == {}
    assert task.config()["model_filename"] == ["model.pt", "trained.pt"]
    last = torch.load(served / "runs" / "fold0" / "last.pt", weights_only=True)
    assert last["training_cases"] == [case["image"] for case in cases[:4]]
    weights = torch.load(packed / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(last["network"][name], weights[name]) for name in weights)


@pytest.mark.parametrize("place", ["models/model.ts", "."])
def test_in_monai_deploy_itself(packed: Path, image: Path, expected: np.ndarray, place: str) -> None:
    """The operator of its SDK, given the TorchScript or the folder, between an operator of DICOM and one of SEG."""
    core = pytest.importorskip("monai.deploy.core", reason="MONAI Deploy App SDK is not installed")
    operators = pytest.importorskip("monai.deploy.operators", reason="MONAI Deploy App SDK is not installed")
    mapping = [[operators.IOMapping(name, core.Image, core.IOType.IN_MEMORY)] for name in ("image", "pred")]
    operator = operators.MonaiBundleInferenceOperator(
        core.Fragment(),
        app_context=SimpleNamespace(models=None),
        input_mapping=mapping[0],
        output_mapping=mapping[1],
        bundle_path=packed / place,
    )
    volume = nibabel.load(image)
    spacing = dict(zip(("row", "col", "depth"), volume.header.get_zooms(), strict=True))
    metadata = {f"{axis}_pixel_spacing": float(mm) for axis, mm in spacing.items()}
    metadata |= {"nifti_affine_transform": volume.affine, "SeriesInstanceUID": "1.2.3", "space": "RAS"}
    given = core.Image(np.swapaxes(np.asarray(volume.dataobj), 0, 2), metadata)  # slices first
    sent: dict[str, Any] = {}
    ports = SimpleNamespace(get=lambda name: None, emit=lambda value, name: sent.update({name: value}))
    operator.compute(SimpleNamespace(receive=lambda name: given), ports, None)
    assert np.array_equal(np.swapaxes(sent["pred"].asnumpy(), 0, 2), expected)
    assert sent["pred"].metadata()["SeriesInstanceUID"] == "1.2.3"
