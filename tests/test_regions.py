"""Overlapping regions to label ids: by hand, beside nnU-Net's rule, as laws, on other grids, and in scores."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from medseg3d.cli import main
from medseg3d.engines import LabelDice
from medseg3d.errors import ConfigError, UsageError
from medseg3d.evaluation import evaluate
from medseg3d.inference import ToImageGridd, ToLabelsd
from medseg3d.inference.regions import labels_of_regions
from medseg3d.labels import region_label_ids

BRATS = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]}
LABELS = {"necrotic": 1, "oedema": 2, "enhancing_label": 3}


@pytest.mark.parametrize(
    ("regions", "ids"),
    [
        (BRATS, (2, 1, 3)),
        ({"kidney": [1, 2, 3], "mass": [2, 3], "tumour": [2]}, (1, 3, 2)),  # KiTS: nnU-Net's regions_class_order
        ({"a": [1], "b": [2]}, (1, 2)),
        ({"tumour": [7]}, (7,)),
    ],
)
def test_what_a_region_paints(regions, ids):
    assert region_label_ids(regions) == ids


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({}, "There is no region"),
        ({"a": [1], "b": [1]}, r"Region 'a' \(\[1\]\) holds no id that no later region has"),
        ({"core": [1, 3], "whole": [1, 2, 3]}, r"Region 'whole' .* holds the ids \[1, 2, 3\] that no later"),
        ({"whole": [1, 2, 3], "core": [1]}, r"Region 'whole' .* holds the ids \[2, 3\] that no later region has"),
    ],
)
def test_orders_that_paint_nothing_or_two_ids_are_refused(regions, message):
    with pytest.raises(UsageError, match=message):
        region_label_ids(regions)


def test_later_regions_paint_over_earlier_ones_even_outside_of_them():
    """As nnU-Net: an enhancing voxel counts though the network denies that it is tumour."""
    probabilities = torch.tensor([[0.9, 0.9, 0.9, 0.1, 0.5], [0.1, 0.9, 0.9, 0.1, 0.5], [0.1, 0.1, 0.9, 0.9, 0.5]])
    assert labels_of_regions(probabilities, BRATS).tolist() == [2, 1, 3, 3, 0]


def nnunet_rule(probabilities: np.ndarray, regions_class_order: tuple[int, ...]) -> np.ndarray:
    """What nnU-Net 2.8's LabelManager.convert_probabilities_to_segmentation does with regions."""
    segmentation = np.zeros(probabilities.shape[1:], dtype=np.uint16)
    for i, c in enumerate(regions_class_order):
        segmentation[probabilities[i] > 0.5] = c
    return segmentation


@given(st.integers(0, 2**32 - 1))
def test_labels_are_nnunets(seed: int):
    probabilities = np.random.default_rng(seed).random((3, 4, 5, 3)).astype(np.float32)
    ours = labels_of_regions(torch.from_numpy(probabilities), BRATS).numpy()
    np.testing.assert_array_equal(ours, nnunet_rule(probabilities, (2, 1, 3)))


@given(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=30))
def test_the_regions_of_a_label_map_give_it_back(voxels: list[int]):
    labels = torch.tensor(voxels)
    regions = torch.stack([torch.isin(labels, torch.tensor(ids)).float() for ids in BRATS.values()])
    assert labels_of_regions(regions, BRATS).tolist() == voxels


def test_channels_that_are_not_the_regions_are_refused():
    with pytest.raises(ConfigError, match=r"gives 4 channels, there are 3 regions \(whole, core, enhancing\)"):
        labels_of_regions(torch.zeros(4, 2, 2, 2), BRATS)


# --- On the image's grid ----------------------------------------------------------------------------------------------


def preprocessed(shape: tuple[int, ...], factor: int) -> MetaTensor:
    """An image at ``factor`` times its file's spacing, with the first voxels' corners in common."""
    affine = np.diag([factor, factor, factor, 1.0])
    affine[:3, 3] = (factor - 1) / 2
    file_shape = np.array(shape[1:]) * factor
    meta = {"original_affine": np.eye(4), "spatial_shape": file_shape, "filename_or_obj": "x.nii.gz"}
    return MetaTensor(torch.zeros(shape), affine=torch.from_numpy(affine), meta=meta)


def logits_of(labels: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.isin(labels, torch.tensor(ids)).float() * 20 - 10 for ids in BRATS.values()])


def test_on_its_own_grid_a_mask_is_the_label_map():
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (5, 6, 7)))
    case = {"image": preprocessed((4, 5, 6, 7), 1), "pred": logits_of(labels)}
    mask = ToImageGridd("pred", regions=BRATS)(case)["pred"]
    assert mask.dtype == torch.uint8
    np.testing.assert_array_equal(mask[0], labels)


def test_regions_are_resampled_each_and_stay_nested():
    labels = torch.zeros(10, 10, 10, dtype=torch.long)
    labels[2:8, 2:8, 2:8], labels[3:7, 3:7, 3:7], labels[4:6, 4:6, 4:6] = 2, 1, 3
    case = {"image": preprocessed((1, 10, 10, 10), 2), "pred": logits_of(labels)}
    mask = ToImageGridd("pred", regions=BRATS)(case)["pred"][0].numpy()
    assert mask.shape == (20, 20, 20)
    # A label map blown up twice, but for the corners, which a linear blend rounds off.
    blown_up = labels.numpy().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert (mask == blown_up).mean() > 0.99
    assert [int((mask == i).sum()) > 0 for i in (1, 2, 3)] == [True] * 3
    rounded = mask[3:17, 10, 10].tolist()
    assert rounded == [0] + [2] * 2 + [1] * 2 + [3] * 4 + [1] * 2 + [2] * 2 + [0]


def test_validation_decodes_as_inference_does():
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 4, (4, 4, 4)))
    decoded = ToLabelsd("pred", regions=BRATS)({"pred": logits_of(labels)})["pred"]
    np.testing.assert_array_equal(decoded[0], labels)
    softmax = torch.nn.functional.one_hot(labels, 4).movedim(-1, 0).float()
    np.testing.assert_array_equal(ToLabelsd("pred")({"pred": softmax})["pred"][0], labels)


# --- Scores -----------------------------------------------------------------------------------------------------------

REFERENCE = torch.tensor([1, 1, 2, 2, 3, 3, 0, 0]).reshape(1, 2, 2, 2)
PREDICTION = torch.tensor([1, 2, 2, 2, 3, 0, 0, 2]).reshape(1, 2, 2, 2)


def dice_of(metric: LabelDice, reference: torch.Tensor, prediction: torch.Tensor) -> dict[str, float]:
    metric.update([{"label": reference, "pred": prediction}])
    return metric.label_means()


def test_dice_of_regions_by_hand():
    means = dice_of(LabelDice(LABELS, BRATS), REFERENCE, PREDICTION)
    # Whole: 6 and 6 voxels, 5 in both. Core: 4 and 2, 2 in both. Enhancing: 2 and 1, 1 in both.
    assert means == pytest.approx({"whole": 10 / 12, "core": 4 / 6, "enhancing": 2 / 3})


def test_ignored_voxels_count_nowhere():
    reference = REFERENCE.clone()
    reference.view(-1)[[1, 5, 7]] = 9  # where the two differ
    assert dice_of(LabelDice(LABELS, ignore_label=9), reference, PREDICTION) == dict.fromkeys(LABELS, 1.0)
    assert dice_of(LabelDice(LABELS, BRATS, ignore_label=9), reference, PREDICTION) == dict.fromkeys(BRATS, 1.0)


def test_evaluation_of_partly_annotated_cases(tmp_path: Path):
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[2:4, 2:4, 2:4], reference[:, :, 6:] = 1, 9
    prediction = np.zeros_like(reference)
    prediction[2:4, 2:4, 2:4] = prediction[:, :, 7:] = 1  # the second where nobody knows
    for name, voxels in (("a_label.nii.gz", reference), ("a.nii.gz", prediction)):
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / name)
    items = [{"case": "a", "patient": "a", "image": [], "label": str(tmp_path / "a_label.nii.gz")}]
    assert evaluate(items, tmp_path, labels={"tumour": 1}, ignore_label=9).dice == {"tumour": 1.0}
    assert evaluate(items, tmp_path, labels={"tumour": 1}).dice["tumour"] == pytest.approx(2 * 8 / (8 + 8 + 64))
    with pytest.raises(UsageError, match="ignore_label is 1, which background or a label has too"):
        evaluate(items, tmp_path, labels={"tumour": 1}, ignore_label=1)


def test_the_command_line_takes_regions_and_ignored_voxels_from_the_data_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """nnU-Net's spelling: one name may be a label and a region, and a label named ignore is none."""
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[2:5, 2:5, 2:5], reference[3, 3, 3], reference[:, :, 6:] = 1, 2, 3
    for folder, voxels in (("labels", reference), ("masks", np.where(reference == 3, 1, reference))):
        (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.uint8), np.eye(4)), tmp_path / folder / "a.nii.gz")
    entry = {"case": "a", "image": "labels/a.nii.gz", "label": "labels/a.nii.gz"}
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    (tmp_path / "list.json").write_text(json.dumps({"labels": labels, "training": [entry]}))
    command = [
        "medseg3d",
        "evaluate",
        str(tmp_path / "masks"),
        str(tmp_path / "list.json"),
        "-o",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code in (0, None)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {name: label["dice_mean"] for name, label in summary["labels"].items()} == dict.fromkeys(
        ("label_1", "core", "whole"), 1.0
    )
