"""ct_pet_tumor_segmentation: what augmentation does to Hounsfield units and SUV, and patients without PET."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, run
from monai.transforms import Compose

from medseg3d.augmentation import BatchAugmentation, Brightness, DropChannels, Gamma, GaussianNoise
from medseg3d.bundles import check_bundle
from medseg3d.channels import ScaleChannelsd
from medseg3d.errors import ConfigError, UsageError
from medseg3d.inference.run import run_bundle

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "ct_pet_tumor_segmentation"
CT, PET = [0], [1]
IGNORED = 9


def files(*names: str) -> list[str]:
    return [str(BUNDLE / "configs" / f"{name}.yaml") for name in names]


def parsed(*names: str, **values: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(files(*names))
    for key, value in values.items():
        parser[key] = value
    return parser


def suv(*values: float) -> torch.Tensor:
    """A CT of 40 HU beside these uptakes, as the network sees them: (1, 2, 1, 1, n)."""
    pet = torch.tensor(values) / 5 - 1
    return torch.stack([torch.zeros_like(pet), pet])[None, :, None, None]


def augmented(transform: Any, image: torch.Tensor, seed: int = 3) -> torch.Tensor:
    label = torch.zeros(1, 1, *image.shape[2:])
    return BatchAugmentation([transform], absent=-1.0)(image, label, [seed])[0]


# Intensities ----------------------------------------------------------------------------------------------------------


def test_brightness_and_gamma_know_what_they_change():
    transforms = parsed("train").get_parsed_content("train#batch_transforms").transforms
    assert [t for t in transforms if isinstance(t, (Brightness, Gamma))] == [
        Brightness(prob=0.15, factor=[0.75, 1.25], channels=CT),
        Brightness(prob=0.15, factor=[0.75, 1.25], channels=PET, about=-1.0),
        Gamma(prob=0.1, gamma=[0.7, 1.5], channels=CT, invert=True),
        Gamma(prob=0.3, gamma=[0.7, 1.5], channels=CT),
        Gamma(prob=0.1, gamma=[0.7, 1.5], channels=PET, invert=True, retain_stats=False),
        Gamma(prob=0.3, gamma=[0.7, 1.5], channels=PET, retain_stats=False),
    ]
    alone = parsed("train", "ct_only").get_parsed_content("train#batch_transforms").transforms
    assert {tuple(t.channels) for t in alone if isinstance(t, (Brightness, Gamma))} == {(0,), ()}


def test_suv_are_multiplied_and_no_uptake_stays_none():
    brighter = augmented(Brightness(prob=1, factor=(1.25, 1.25), channels=PET, about=-1.0), suv(0, 4, 8))
    torch.testing.assert_close(brighter, suv(0, 5, 10))


def test_hounsfield_units_are_stretched_about_40():
    window = ScaleChannelsd("image", [(-160, 240)])
    before, after = (window({"image": torch.tensor(hu).reshape(1, 1, 1, 3)})["image"][None]
                     for hu in ([-60.0, 40.0, 120.0], [-85.0, 40.0, 140.0]))  # fmt: skip
    torch.testing.assert_close(augmented(Brightness(prob=1, factor=(1.25, 1.25), channels=CT), before), after)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_gamma_of_pet_keeps_no_uptake_and_the_highest(gamma, invert):
    bend = Gamma(prob=1, gamma=(gamma, gamma), channels=PET, invert=invert, retain_stats=False)
    changed = augmented(bend, suv(0, 2, 9))[0, 1].flatten()
    torch.testing.assert_close(changed[[0, 2]], suv(0, 9)[0, 1].flatten())
    share = 1 - (1 - 2 / 9) ** gamma if invert else (2 / 9) ** gamma
    torch.testing.assert_close((changed[1] + 1) * 5, torch.tensor(9 * share))


def test_channels_that_are_not_chosen_stay_and_those_that_are_not_there_are_passed_over():
    image = suv(1, 2, 3)
    changed = augmented(GaussianNoise(prob=1, std=(0.1, 0.1), channels=[1, 2]), image)
    assert torch.equal(changed[:, 0], image[:, 0])
    assert not torch.equal(changed[:, 1], image[:, 1])
    with pytest.raises(UsageError, match=r"GaussianNoise: channels is \[-1\]; they are counted from 0"):
        GaussianNoise(prob=1, channels=[-1])


# Without PET ----------------------------------------------------------------------------------------------------------


def overrides(datalist: Path, out: Path) -> dict[str, Any]:
    labels = json.loads(datalist.read_text())["labels"]
    return {
        "bundle_root": str(BUNDLE), "datalist": str(datalist), "output_dir": str(out), "device": "cpu",
        "labels": labels, "spacing": [8.0] * 3, "patch_size": [32] * 3, "network_def::filters": [4] * 5,
        "batch_size": 2, "max_epochs": 1, "iterations_per_epoch": 1, "val_interval": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def incomplete(ct_pet_datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PET/CT of which some have no PET, and of which nobody labelled the lower third."""
    folder, source = tmp_path_factory.mktemp("incomplete"), ct_pet_datalist.parent
    content = json.loads(ct_pet_datalist.read_text())
    entries = content["training"] + content["testing"]
    for entry in entries:
        label = nibabel.load(source / entry["label"])
        voxels = np.asarray(label.dataobj).copy()
        voxels[:, :, : voxels.shape[2] // 3] = IGNORED
        nibabel.save(nibabel.Nifti1Image(voxels, label.affine), folder / f"{entry['case']}_label.nii.gz")
        entry["label"] = f"{entry['case']}_label.nii.gz"
        entry["image"] = [str(source / image) for image in entry["image"]]
    entries[0]["image"][1] = entries[-1]["image"][1] = None
    path = folder / "dataset.json"
    path.write_text(json.dumps(content | {"ignore_label": IGNORED}))
    return path


def test_a_network_of_both_kinds_of_patients(incomplete: Path, tmp_path: Path):
    given = overrides(incomplete, tmp_path / "run") | {
        "ignore_label": IGNORED, "missing_channels": True, "modality_dropout_prob": 0.5,
    }  # fmt: skip
    run(run_id="training", config_file=files("train"), logging_file=False, **given)
    run(run_id="evaluating", config_file=files("train", "evaluate"), logging_file=False, **given)
    assert (tmp_path / "run" / "evaluation" / "summary.json").is_file()
    again = given | {"output_dir": str(tmp_path / "again"), "warm_start": str(tmp_path / "run")}
    run(run_id="training", config_file=files("train"), logging_file=False, **again)

    (tmp_path / "small.yaml").write_text(
        f"labels: {json.dumps(given['labels'])}\nmissing_channels: true\nspacing: [8.0, 8.0, 8.0]\n"
        "patch_size: [32, 32, 32]\nnetwork_def::filters: [4, 4, 4, 4, 4]\n"
    )
    weights = tmp_path / "again" / "best.pt"
    run_bundle(BUNDLE, incomplete, tmp_path / "out", weights=weights, config_files=[tmp_path / "small.yaml"])
    case = json.loads(incomplete.read_text())["testing"][0]["case"]
    sidecar = json.loads((tmp_path / "out" / f"{case}.json").read_text())
    assert "PET: missing, the network was given zeros" in sidecar["findings"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"ignore_label": IGNORED}, r"1 cases of .* lacks PET.*--missing_channels true"),
        ({"missing_channels": True}, r"id 9 is labelled by nobody.*Pass --ignore_label 9"),
    ],
    ids=["missing", "ignored"],
)
def test_what_is_not_asked_for_is_refused(incomplete: Path, tmp_path: Path, override: dict[str, Any], message: str):
    with pytest.raises(RuntimeError) as caught:
        run(
            run_id="training",
            config_file=files("train"),
            logging_file=False,
            **overrides(incomplete, tmp_path / "run") | override,
        )
    assert isinstance(caught.value.__cause__, ConfigError)
    assert re.search(message, str(caught.value.__cause__), re.DOTALL)


def test_a_missing_pet_is_the_same_from_the_file_to_the_network(incomplete: Path):
    """−1 everywhere: as it is loaded, beyond the image, after every transform, and where it is dropped on purpose."""
    content = json.loads(incomplete.read_text())
    parser = parsed("train", labels=content["labels"], ignore_label=IGNORED, missing_channels=True)
    parser["patch_size"], parser["spacing"] = [48, 48, 48], [4.0, 4.0, 4.0]
    entry = content["training"][0]
    item = {"image": entry["image"], "label": str(incomplete.parent / entry["label"])}
    loaded = Compose(parser.get_parsed_content("train#deterministic_transforms"))(item)
    assert loaded["image"][1].unique().tolist() == [-1.0]
    assert len(loaded["image"][0].unique()) > 100
    patch = parser.get_parsed_content("train#random_transforms")[0]
    augment = parser.get_parsed_content("train#batch_transforms")
    for seed in range(12):  # turned and scaled, some of them
        patch.set_random_state(seed)
        image = torch.as_tensor(patch(dict(loaded))["image"])[None]
        changed, _ = augment(image, torch.zeros(1, 1, 48, 48, 48), [seed])
        assert changed[0, 1].unique().tolist() == [-1.0]


def test_a_channel_that_is_zero_for_reasons_of_its_own_stays_so():
    image = torch.zeros(1, 2, 2, 2, 2)  # 40 HU, and SUV 5
    assert torch.equal(augmented(GaussianNoise(prob=1, std=(0.1, 0.1)), image), image)


def test_dropped_channels_are_as_missing_ones_and_one_stays():
    image = torch.rand(1, 2, 4, 4, 4)
    outcomes = set()
    for seed in range(40):
        changed = augmented(DropChannels(prob=0.6), image, seed)[0]
        gone = tuple(bool((channel == -1).all()) for channel in changed)
        assert all(
            left or torch.equal(channel, kept) for left, channel, kept in zip(gone, changed, image[0], strict=True)
        )
        outcomes.add(gone)
    assert outcomes == {(False, False), (True, False), (False, True)}


def test_only_a_channel_without_any_signal_is_a_missing_one():
    image = torch.zeros(2, 1, 1, 3)
    image[1] = torch.tensor([0.0, 0.0, 5.0])
    scaled = ScaleChannelsd("image", [(-160, 240), (0, 10)])({"image": image})["image"]
    assert scaled.flatten().tolist() == [-1.0, -1.0, -1.0, -1.0, -1.0, 0.0]


def test_the_bundle_and_its_overlays_check():
    assert check_bundle(BUNDLE) == []
