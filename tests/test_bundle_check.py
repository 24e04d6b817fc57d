"""Faults planted in a small bundle, each found before anything runs, with the message that a user would read."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from medseg3d.bundles import check_bundle, check_config, check_run, find_bundle, list_bundles
from medseg3d.bundles.data import available_bytes, cache_bytes
from medseg3d.bundles.problems import Problem, summary
from medseg3d.bundles.values import UNKNOWN, StaticValues
from medseg3d.errors import ConfigError, UsageError

# MONAI warns at every run that a configuration is code.
pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")

METADATA: dict[str, Any] = {
    "schema": "https://example.org/schema.json",
    "version": "0.1.0",
    "changelog": {"0.1.0": "first"},
    "monai_version": "1.6.1",
    "pytorch_version": "2.14.1",
    "numpy_version": "2.0.0",
    "required_packages_version": {},
    "task": "Cubes",
    "description": "Cubes in noise",
    "authors": "medseg3d contributors",
    "copyright": "medseg3d contributors",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "channel_def": {"0": "T1"}}},
        "outputs": {"pred": {"num_channels": 3, "channel_def": {"0": "background", "1": "head", "2": "tail"}}},
    },
}
NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": "$len(@channels)",
    "out_channels": "$1 + max(@labels.values())",
    "channels": [4, 8, 8],
    "strides": [2, 2],
}
COMMON: dict[str, Any] = {
    "imports": ["$import medseg3d.bundles", "$import medseg3d", "$import pathlib"],
    "bundle_root": ".",
    "dataset_dir": "./data",
    "device": "cpu",
    "labels": {"head": 1, "tail": 2},
    "channels": ["T1"],
    "spacing": [1.0, 1.0, 1.0],
    "patch_size": [16, 16, 16],
    "network_def": NETWORK,
    "network": "$@network_def.to(@device)",
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": "@patch_size", "overlap": 0.5},
}
TRAIN: dict[str, Any] = {
    **COMMON,
    "datalist": "$@dataset_dir + '/dataset.json'",
    "fold": 0,
    "max_epochs": 2,
    "learning_rate": 0.01,
    "cache_rate": 1.0,
    "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": "@learning_rate"},
    "train": {
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "LoadImaged", "keys": ["image", "label"]}],
        },
        "dataset": {
            "_target_": "CacheDataset",
            "data": "$medseg3d.datalist.training_items(@datalist, fold=@fold)",
            "transform": "@train::preprocessing",
            "cache_rate": "@cache_rate",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@train::dataset", "batch_size": 1},
        "inferer": {"_target_": "SimpleInferer"},
        "trainer": {
            "_target_": "SupervisedTrainer",
            "device": "@device",
            "max_epochs": "@max_epochs",
            "train_data_loader": "@train::dataloader",
            "network": "@network",
            "optimizer": "@optimizer",
            "loss_function": {"_target_": "DiceCELoss", "softmax": True, "to_onehot_y": True},
            "inferer": "@train::inferer",
        },
    },
    "initialize": ["$medseg3d.bundles.check_run()"],
    "training": ["$print('epochs', @max_epochs)"],
    "run": ["$print('epochs', @max_epochs)"],
}
INFERENCE: dict[str, Any] = {
    **COMMON,
    "dataset": {"_target_": "Dataset", "data": "$[{'image': p} for p in pathlib.Path(@dataset_dir).glob('*')]"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
    },
    "run": ["$@evaluator.run()"],
}

Edit = Callable[[dict[str, Any]], None]


def write_bundle(folder: Path, *, train: Any = TRAIN, inference: Any = INFERENCE, metadata: Any = METADATA) -> Path:
    configs = folder / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    (configs / "metadata.json").write_text(json.dumps(metadata))
    (configs / "train.yaml").write_text(yaml.safe_dump(train, sort_keys=False))
    (configs / "inference.yaml").write_text(yaml.safe_dump(inference, sort_keys=False))
    (configs / "logging.conf").write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n[logger_root]\nhandlers=\n"
    )
    return folder


def write_dataset(folder: Path, *, cases: int = 4, shape: tuple[int, int, int] = (20, 20, 20), **changes: Any) -> Path:
    """A data list with tiny volumes in which a head (1) and a tail (2) lie."""
    folder.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros(shape, np.uint8)
    voxels[2:4], voxels[5:7] = 1, 2
    training = []
    for number in range(cases):
        for kind in ("image", "label"):
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"{kind}{number}.nii.gz")
        case = {"case": f"case{number}", "patient": f"p{number}", "fold": number % 2}
        training.append({**case, "image": f"image{number}.nii.gz", "label": f"label{number}.nii.gz"})
    values = {"name": "cubes", "modality": "MRI", "labels": {"head": 1, "tail": 2}, "channels": ["T1"]}
    (folder / "dataset.json").write_text(json.dumps({**values, "training": training, **changes}))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "cubes")


def changed(config: dict[str, Any], edit: Edit) -> dict[str, Any]:
    copy = deepcopy(config)
    edit(copy)
    return copy


def messages(problems: list[Problem]) -> str:
    return "\n".join(map(str, problems))


def check_train(bundle: Path, edit: Edit | None = None, *overlays: dict[str, Any], **overrides: Any) -> str:
    """Messages for train.yaml after ``edit``, with overlay files and overrides ("a::b" as "a__b")."""
    files = [bundle / "configs" / "train.yaml"]
    if edit:
        files[0].write_text(yaml.safe_dump(changed(TRAIN, edit), sort_keys=False))
    for number, overlay in enumerate(overlays):
        files.append(bundle / "configs" / f"overlay{number}.yaml")
        files[-1].write_text(yaml.safe_dump(overlay))
    return messages(check_config(files, {key.replace("__", "::"): value for key, value in overrides.items()}))


# Nothing wrong -------------------------------------------------------------------------------------------------------


def test_clean_bundle_has_no_problems(bundle):
    assert check_bundle(bundle) == []


def test_known_overrides_are_accepted(bundle):
    overrides = {
        "max_epochs": 3,
        "network_def#strides": [2, 2],
        "network_def::norm": "instance",
        "labels": {"head": 1, "tail": 2},
    }
    assert check_config([bundle / "configs/train.yaml"], overrides) == []


def test_an_overlay_may_add_what_it_refers_to_and_standard_ids(bundle):
    overlay = {"train::trainer::epoch_length": "@steps", "steps": 10, "evaluating": ["$print(@steps)"]}
    assert check_train(bundle, None, overlay) == ""


def test_plus_merges_into_a_mapping(bundle):
    assert check_train(bundle, None, {"+inferer": {"mode": "gaussian"}}) == ""


def test_relative_references_are_resolved_as_monai_does(bundle):
    def edit(config):
        config["train"]["dataloader"]["dataset"] = "@##dataset"

    assert check_train(bundle, edit) == ""


def test_whole_network_may_be_replaced(bundle):
    net = {"_target_": "SegResNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    assert check_train(bundle, None, {"network_def": net}) == ""


def test_expressions_are_not_executed(bundle, tmp_path):
    trace = tmp_path / "trace"

    def edit(config):
        config["fold"] = f"$pathlib.Path('{trace}').touch()"
        config["imports"].append("$import this")
        config["max_epochs"] = {"_target_": "pathlib.Path.touch", "self": "@fold"}

    sys.modules.pop("this", None)
    check_train(bundle, edit)
    assert not trace.exists()
    assert "this" not in sys.modules


# Misspelt ids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "where", "meant"),
    [
        ({"max_epoch": 3}, "--max_epoch", "'max_epochs'"),
        ({"max_epoch_count": 3}, "--max_epoch_count", "'max_epochs'"),
        ({"network_def__filtesr": 3}, "--network_def::filtesr", "It takes spatial_dims"),
        ({"network_def__stride": [2]}, "--network_def::stride", "'strides'"),
        ({"network_de__strides": [2]}, "--network_de::strides", "'network_def'"),
        ({"train__trianer": 3}, "--train::trianer", "'train::trainer'"),
        ({"train__trainer__max_epoch": 3}, "--train::trainer::max_epoch", "'max_epochs'"),
        ({"metafile": "x"}, "--metafile", "'meta_file'"),
        ({"epochs__x": 3}, "--epochs::x", "there is no 'epochs' to edit"),
        ({"max_epochs__x": 3}, "--max_epochs::x", "single value"),
        ({"channels__4": "T2"}, "--channels::4", "has 1 items"),
    ],
)
def test_misspelt_override(bundle, override, where, meant):
    found = check_train(bundle, **override)
    assert found.startswith(where + ":"), found
    assert meant in found


def test_old_separator_is_checked_too(bundle):
    problems = check_config([bundle / "configs/train.yaml"], {"network_def#stride": [2]})
    assert "--network_def#stride" in messages(problems)
    assert "Did you mean 'strides'?" in messages(problems)


def test_misspelt_id_in_an_overlay_file(bundle):
    found = check_train(bundle, None, {"learning_rat": 0.1})
    assert "overlay0.yaml: learning_rat: there is no id 'learning_rat'" in found
    assert "Did you mean 'learning_rate'?" in found


def test_misspelt_key_in_a_merged_mapping(bundle):
    found = check_train(bundle, None, {"+inferer": {"overlapp": 0.1}})
    assert "overlay0.yaml: inferer::overlapp" in found
    assert "Did you mean 'overlap'?" in found


def test_replaced_section_with_a_misspelt_part(bundle):
    section = {key.replace("inferer", "infrer"): value for key, value in TRAIN["train"].items()}
    found = check_train(bundle, None, {"train": section})
    assert "new key 'infrer'. Did you mean 'inferer'?" in found


def test_override_cannot_merge(bundle):
    problems = check_config([bundle / "configs/train.yaml"], {"+inferer": {"overlap": 0.1}})
    assert "MONAI does not merge overrides" in messages(problems)


def test_merging_unlike_kinds(bundle):
    assert "'+' merges mappings or lists; here list meets dict." in check_train(bundle, None, {"+inferer": [1]})


# References, expressions, targets ------------------------------------------------------------------------------------


def plant(*path: Any, value: Any) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        item: Any = config
        for key in path[:-1]:
            item = item[key]
        item[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "where", "message"),
    [
        (plant("optimizer", "lr", value="@learning_rat"), "optimizer::lr", "Did you mean '@learning_rate'?"),
        (plant("network", value="$@netwrk_def.to(@device)"), "network", "'@netwrk_def', which is not defined"),
        (plant("datalist", value="@dataset_dir/list.json"), "datalist", "plain text to MONAI"),
        (plant("max_epochs", value="$@max_epochs + 1"), "max_epochs", "circle: max_epochs → max_epochs"),
        (plant("max_epochs", value="@fold"), "max_epochs", ""),
        (plant("fold", value="$os.getpid()"), "fold", "names 'os', which is not imported"),
        (plant("fold", value="$1 +"), "fold", "is not a Python expression"),
        (plant("fold", value="$medseg3d.datalist.training_itms()"), "fold", "Did you mean 'training_items'?"),
        (plant("fold", value="%foldd"), "fold", "names an id that is not there. Did you mean 'fold'?"),
        (plant("fold", value="%nowhere.yaml::fold"), "fold", "the file does not exist"),
        (plant("fold", value="$@channels @ @channels"), "fold", "lone '@'"),
        (plant("inferer", "_target_", value="SlidingWindowInferrer"), "inferer::_target_", "'SlidingWindowInferer'"),
        (plant("optimizer", "_target_", value="torch.optim.Adan"), "optimizer::_target_", "torch.optim has no 'Adan'"),
        (plant("optimizer", "learning_rate", value=1), "optimizer::learning_rate", "Adam has no argument"),
        (
            plant("train", "dataloader", "batchsize", value=1),
            "train::dataloader::batchsize",
            "Did you mean 'batch_size'?",
        ),
        (plant("train", "handlers", value={"_target_": "StatsHandler"}), "train::handlers", "crashes on handlers"),
    ],
)
def test_fault_in_the_file(bundle, edit, where, message):
    found = check_train(bundle, edit)
    if message:
        assert f"train.yaml: {where}: " in found
        assert message in found
    else:
        assert found == ""


def test_circle_over_several_ids_is_named_once(bundle):
    def edit(config):
        config["a"], config["b"], config["c"] = "@b", ["@c"], {"x": "$@a + 1"}

    found = check_train(bundle, edit)
    assert found.count("go round in a circle") == 1
    assert "circle: a → b → c → a." in found


def test_missing_argument_of_a_target(bundle):
    def edit(config):
        del config["optimizer"]["params"]

    assert "Adam needs 'params'" in check_train(bundle, edit)


def test_import_of_a_submodule_binds_no_name(bundle):
    def edit(config):
        config["imports"] = ["$import medseg3d.bundles", "$import pathlib"]

    assert "add '$import medseg3d' beside it" in check_train(bundle, edit)


# Properties, files, metadata -----------------------------------------------------------------------------------------


def test_missing_property(bundle):
    def edit(config):
        config["train"]["dataset_"] = config["train"].pop("dataset")

    found = check_train(bundle, edit)
    assert "train.yaml: train::dataset: a bundle for training must define 'train::dataset'" in found


def test_engine_that_takes_a_property_from_elsewhere(bundle):
    found = check_train(bundle, plant("train", "trainer", "inferer", value="@inferer"))
    assert found == ""  # train_inferer is required, and no reference of it is prescribed

    found = check_train(
        bundle, plant("train", "dataset", "transform", value="@shared"), {"shared": {"_target_": "Identity"}}
    )
    assert "look for train_preprocessing at 'train::preprocessing'" in found


@pytest.mark.parametrize("name", ["metadata.json", "logging.conf"])
def test_missing_file_beside_the_configuration(bundle, name):
    (bundle / "configs" / name).unlink()
    assert f"{name}: the file does not exist" in check_train(bundle)


def test_missing_configuration_file_names_the_nearest(bundle):
    found = messages(check_config([bundle / "configs" / "trian.yaml"]))
    assert "trian.yaml: the file does not exist. Did you mean 'train.yaml'?" in found


def test_damaged_yaml(bundle):
    (bundle / "configs/train.yaml").write_text("a: [1, 2\nb: 3\n")
    assert "configs/train.yaml, line 2: is not valid YAML or JSON" in check_train(bundle)


def test_damaged_json(bundle):
    (bundle / "configs/metadata.json").write_text('{"version": "1",\n\n "task" "x"}')
    assert "configs/metadata.json, line 3: is not valid YAML or JSON" in check_train(bundle)


def test_files_of_one_name_in_two_folders_are_told_apart(bundle, tmp_path, monkeypatch):
    """A plan may be called as the bundle's own file is: what it changes counts as changed, and is found in it."""
    study = tmp_path / "study"
    study.mkdir()
    (study / "train.yaml").write_text("max_epoch: 3\nlabels: {lesion: 1}\nnetwork_def::out_channels: 2\n")
    monkeypatch.chdir(tmp_path)
    problems = check_config([bundle / "configs/train.yaml", Path("study/train.yaml")])
    assert [problem.where for problem in problems] == ["study/train.yaml: max_epoch"]


def test_key_that_stands_twice(bundle):
    path = bundle / "configs/train.yaml"
    path.write_text(path.read_text() + "\nfold: 3\n")
    assert "Duplicate key: `fold`" in check_train(bundle)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.pop("task"), "has no 'task'"),
        (lambda m: m.update(version="0.2.0"), "version 0.2.0 is not in the changelog (which has 0.1.0)"),
        (lambda m: m["network_data_format"]["outputs"].pop("pred"), "outputs has no 'pred'"),
        (
            plant("network_data_format", "outputs", "pred", "channel_def", "2", value="tial"),
            "labels is {'head': 1, 'tail': 2}",
        ),
        (
            plant("network_data_format", "outputs", "pred", "num_channels", value=5),
            "is 5, but network_def::out_channels is 3",
        ),
        (plant("network_data_format", "inputs", "image", "channel_def", value={"0": "CT"}), "channels is ['T1']"),
    ],
)
def test_fault_in_the_metadata(bundle, edit, message):
    (bundle / "configs/metadata.json").write_text(json.dumps(changed(METADATA, edit)))
    found = check_train(bundle)
    assert found.startswith("configs/metadata.json: ")
    assert message in found


def test_channels_of_the_metadata_are_in_the_order_of_their_numbers(bundle):
    """Which are text in JSON, where 10 comes before 2."""
    names = [f"echo {number}" for number in range(12)]
    described = {"num_channels": 12, "channel_def": {str(number): name for number, name in enumerate(names)}}
    edit = plant("network_data_format", "inputs", "image", value=described)
    write_bundle(
        bundle,
        train=changed(TRAIN, plant("channels", value=names)),
        inference=changed(INFERENCE, plant("channels", value=names)),
    )
    (bundle / "configs/metadata.json").write_text(json.dumps(changed(METADATA, edit)))
    assert check_train(bundle) == ""


def test_metadata_is_not_compared_with_overridden_labels(bundle):
    assert check_train(bundle, labels={"lesion": 1}) == ""


def test_train_and_inference_must_agree(bundle):
    inference = changed(INFERENCE, plant("network_def", "strides", value=[1, 2]))
    inference["dataset_dir"] = "/elsewhere"
    write_bundle(bundle, inference=inference)
    problems = check_bundle(bundle)
    assert len(problems) == 1
    assert str(problems[0]).startswith(
        "configs/train.yaml and configs/inference.yaml: network_def::strides: the two files differ: [2, 2] and [1, 2]."
    )


def test_other_files_of_a_bundle_are_laid_over_train(bundle):
    (bundle / "configs/evaluate.yaml").write_text("evaluating: ['$print(@max_epochs)']\nmax_epoch: 0\n")
    problems = check_bundle(bundle)
    assert [problem.where for problem in problems] == ["configs/evaluate.yaml: max_epoch"]


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"network_def__out_channels": 2}, "label 'tail' has id 2, but the network's output channels are 0 to 1"),
        ({"network_def__out_channels": 4}, "the highest label id is 2"),
        ({"labels": {"head": 1, "tail": 1}}, "head, tail share one id (1)"),
        ({"labels": {"head": "one"}}, "label ids are whole numbers from 0, not head: 'one'"),
        ({"network_def__in_channels": 2}, "1 channels (T1), but the network has 2 input channels"),
        (
            {"patch_size": [16, 18, 16]},
            "not divisible by the network's stride [4, 4, 4]. The nearest that fits is [16, 16, 16]",
        ),
        ({"patch_size": [16, 2, 16]}, "smaller than the network's stride [4, 4, 4] allows"),
        ({"patch_size": [16, 0, 16]}, "is no size in voxels"),
    ],
)
def test_values_that_do_not_fit(bundle, overrides, message):
    assert message in check_train(bundle, **overrides)


def test_a_single_rising_step_of_a_schedule_is_refused(bundle):
    """The steps at which torch itself divides by zero, and no others."""
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    schedule = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "optimizer": "@optimizer", "max_lr": 0.1}
    for steps in (1, 4, 5, 6, 9, 10, 11):
        for share in (0.1, 0.2):
            try:
                torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps, pct_start=share)
                is_sound = True
            except ZeroDivisionError:
                is_sound = False
            shown = check_train(bundle, lr_scheduler={**schedule, "total_steps": steps, "pct_start": share})
            assert ("it divides by zero. Train for" not in shown) == is_sound, (steps, share)


def test_strides_may_differ_by_axis(bundle):
    strides = [[2, 2, 1], [2, 2, 2]]
    assert check_train(bundle, network_def__strides=strides, patch_size=[16, 16, 6]) == ""
    assert "stride [4, 4, 2]" in check_train(bundle, network_def__strides=strides, patch_size=[16, 16, 5])


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("$1 + max(@labels.values())", 3),
        ("$[2 * n for n in @size]", UNKNOWN),
        ("$@size[0] // 3", 5),
        ("$len(@labels) + len(@missing)", UNKNOWN),
        ("$[0] * 1000000000000", UNKNOWN),
        ("$1 / 0", UNKNOWN),
        ("$__import__('os').getcwd()", UNKNOWN),
        ("@size", [16, 8]),
        ("plain", "plain"),
    ],
)
def test_static_values(expression, value):
    values = StaticValues({"labels": {"head": 1, "tail": 2}, "size": [16, 8], "x": expression})
    assert values.get("x") == value


def test_static_value_of_a_circle_is_unknown():
    assert StaticValues({"a": "@b", "b": "@a"}).get("a") is UNKNOWN


# Finding bundles -----------------------------------------------------------------------------------------------------


def test_bundles_are_found_by_path_variable_and_folder(tmp_path, monkeypatch):
    one, two = write_bundle(tmp_path / "a" / "cubes"), write_bundle(tmp_path / "bundles" / "cubes")
    monkeypatch.chdir(tmp_path)
    assert find_bundle(one) == one
    assert find_bundle("cubes") == two
    monkeypatch.setenv("MEDSEG3D_BUNDLES", str(tmp_path / "a"))
    assert find_bundle("cubes") == one
    assert [path for path in list_bundles() if path.name == "cubes"] == [one]


def test_unknown_bundle_names_the_nearest(tmp_path, monkeypatch):
    write_bundle(tmp_path / "bundles" / "cubes")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"There is no bundle 'cube' .*Did you mean 'cubes'?"):
        find_bundle("cube")


def test_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(UsageError, match="is no bundle: it has no configs/"):
        find_bundle(tmp_path)


# The first step of a run ---------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, Path]:
    """A bundle and a data set for it."""
    return write_bundle(tmp_path / "cubes"), write_dataset(tmp_path / "data")


def start(study: tuple[Path, Path], *overlays: Path, **overrides: Any) -> None:
    """``monai.bundle.run`` on the bundle; a refusal comes out as itself and not wrapped by MONAI."""
    import monai.bundle

    bundle, data = study
    files = [str(bundle / "configs/train.yaml"), *map(str, overlays)]
    options = {"dataset_dir": str(data), "bundle_root": str(bundle)}
    try:
        monai.bundle.run("training", config_file=files, **{**options, **overrides})
    except RuntimeError as error:
        raise error.__cause__ or error from None


def test_run_starts_when_all_is_well(study, capsys):
    start(study, max_epochs=7)
    assert "epochs 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_epoch": 3}, "--max_epoch: there is no id 'max_epoch'"),
        ({"network_def#stride": [2, 2]}, "--network_def#stride: UNet has no argument 'stride'"),
        ({"fold": 7}, "has no fold 7: there are 0, 1"),
        ({"dataset_dir": "nowhere"}, "nowhere/dataset.json"),
        ({"labels": {"head": 1}}, "--labels: the labels are {head: 1}, but those of"),
        ({"channels": ["T1", "T2"]}, "--channels: there are 2 channels (T1, T2), but each case of"),
        (
            {"patch_size": "$[n + 1 for n in (15, 16, 15)]"},
            "[16, 17, 16] is not divisible by the network's stride [4, 4, 4]",
        ),
        ({"device": "gpu"}, "'gpu' is no device"),
        ({"cache_rate": "$1 / 0"}, "--cache_rate: cannot be evaluated: ZeroDivisionError"),
    ],
)
def test_run_is_refused(study, capsys, overrides, message):
    with pytest.raises(ConfigError) as refusal:
        start(study, **overrides)
    assert "nothing was run" in str(refusal.value)
    assert message in str(refusal.value)
    assert "epochs" not in capsys.readouterr().out


def test_all_problems_come_in_one_message(study):
    with pytest.raises(ConfigError, match=r"^3 problems in the configuration") as refusal:
        start(study, max_epoch=3, fold=9, patch_size=[16, 16, 18])
    assert [line[:5] for line in str(refusal.value).splitlines()[1:]] == ["  1. ", "  2. ", "  3. "]


def test_missing_device_is_refused(study):
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    with pytest.raises(ConfigError, match=r"cuda:0 is asked for, but torch finds no CUDA device. Pass --device cpu"):
        start(study, device="cuda:0")


def test_missing_and_unfit_files_of_the_data_list(study):
    data = study[1]
    (data / "label3.nii.gz").unlink()
    with pytest.raises(ConfigError, match=r"1 of 8 files of the data list do not exist: .*label3.nii.gz"):
        start(study)
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)), data / "label3.nii.gz")
    with pytest.raises(ConfigError, match=r"1 of 4 cases .* case3: \[9, 9, 9\] voxels beside \[20, 20, 20\]"):
        start(study)


def test_cache_that_does_not_fit(study, monkeypatch):
    # Four cases of 20³ voxels at 1 mm, five bytes a voxel: 40 kB each, 160 kB in all.
    monkeypatch.setattr("medseg3d.bundles.data.available_bytes", lambda: 100_000)
    with pytest.raises(
        ConfigError, match=r"100% of 4 cases, 0.0 MB each, .* 0.2 MB of memory; 0.1 MB are free"
    ) as refusal:
        start(study)
    assert "Pass --cache_rate 0.5" in str(refusal.value)
    start(study, cache_rate=0.5)
    start(study, spacing=[2.0, 2.0, 2.0])


def test_every_process_has_a_cache(study, monkeypatch):
    monkeypatch.setattr("medseg3d.bundles.data.available_bytes", lambda: 200_000)
    start(study)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"0.0 MB each, in each of 2 processes takes about 0.3 MB") as refusal:
        start(study)
    assert "Pass --cache_rate 0.5" in str(refusal.value)


def test_cache_bytes_by_hand():
    assert cache_bytes((10, 10, 10), (1, 1, 4), (1, 1, 2), channels=2) == 10 * 10 * 20 * 9
    assert 0 < available_bytes() < 2**50


def test_overlay_of_another_folder(study, tmp_path):
    plan = tmp_path / "study" / "plan.yaml"
    plan.parent.mkdir()
    plan.write_text("max_epochs: 5\npatch_siz: [32, 32, 32]\n")
    with pytest.raises(ConfigError, match=r"plan.yaml: patch_siz: .* Did you mean 'patch_size'?"):
        start(study, plan)


def test_application_that_feeds_its_own_cases_needs_no_data_list(study):
    start(study, **{"dataset_dir": "nowhere", "train#dataset#data": [{"image": "a", "label": "b"}]})


def test_edit_below_a_misspelt_id_is_stopped_by_monai_already(study):
    with pytest.raises(KeyError, match="netwrk_def"):
        start(study, **{"netwrk_def#strides": [2, 2]})


def test_objects_as_overrides_are_not_copied(study):
    lock = threading.Lock()  # cannot be copied
    start(study, **{"train#dataset#data": [{"image": lock}]})


def test_args_file(study, tmp_path):
    import monai.bundle

    bundle, data = study
    arguments = {"config_file": str(bundle / "configs/train.yaml"), "dataset_dir": str(data), "max_epoch": 3}
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    with pytest.raises(RuntimeError) as wrapped:
        monai.bundle.run("training", args_file=str(tmp_path / "args.json"))
    assert isinstance(wrapped.value.__cause__, ConfigError)
    assert "--max_epoch: there is no id" in str(wrapped.value.__cause__)


def test_workflow_made_directly(study):
    from monai.bundle import ConfigWorkflow

    bundle, data = study
    files = [str(bundle / "configs/train.yaml")]
    ConfigWorkflow(files, dataset_dir=str(data), max_epochs=3).initialize()
    workflow = ConfigWorkflow(files, dataset_dir=str(data), max_epoch=3, **{"train::trianer": 1})
    with pytest.raises(RuntimeError) as wrapped:
        workflow.initialize()
    message = str(wrapped.value.__cause__)
    assert "max_epoch: there is no id 'max_epoch'" in message
    assert "train::trianer" in message


def test_check_run_outside_a_workflow():
    with pytest.raises(UsageError, match=r"Put '\$medseg3d.bundles.check_run\(\)' first into initialize"):
        check_run()


def test_terminal_shows_the_message_last_and_no_traceback(study):
    bundle, data = study
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "configs/train.yaml"]
    result = subprocess.run(
        [*command, "--dataset_dir", str(data), "--max_epoch", "3"],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-2:] == [
        "error: 1 problem in the configuration; nothing was run.",
        "  1. --max_epoch: there is no id 'max_epoch', and nothing refers to it: it would change nothing. "
        "Did you mean 'max_epochs'?",
    ]


# Command line and message --------------------------------------------------------------------------------------------


def invoke(*arguments: str) -> Any:
    from medseg3d.cli.bundle import app

    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_command_line_check(bundle):
    result = invoke("check", str(bundle))
    assert (result.exit_code, result.stdout.strip()) == (0, "cubes: no problem found.")
    result = invoke(
        "check", str(bundle), "--config-file", "train.yaml", "--max-epoch", "3", "--network_def::strides=[2]"
    )
    assert result.exit_code == 1
    assert "--max_epoch" in result.stdout
    assert "Did you mean 'max_epochs'?" in result.stdout
    assert "cubes: 1 error, 0 warnings." in result.stdout


def test_command_line_refuses_a_value_without_a_name(bundle):
    result = invoke("check", str(bundle), "3")
    assert isinstance(result.exception, UsageError)
    assert "'3' is not expected here" in str(result.exception)


def test_command_line_list(tmp_path, monkeypatch):
    write_bundle(tmp_path / "bundles" / "cubes")
    monkeypatch.chdir(tmp_path)
    result = invoke("list")
    assert result.exit_code == 0
    assert "cubes" in result.stdout
    assert "0.1.0" in result.stdout


def test_summary_counts_and_numbers():
    text = summary([Problem("a", "is wrong.", "Mend it."), Problem("b", "too.")])
    assert text == "2 problems in the configuration; nothing was run.\n  1. a: is wrong. Mend it.\n  2. b: too."
