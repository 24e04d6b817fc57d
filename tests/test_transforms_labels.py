"""Other ids in files, voxels that nobody labelled, several channels in a file, and channels that are missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import ClassesToIndicesd, NormalizeIntensityd

from medseg3d.augmentation import BatchAugmentation, Brightness, DropChannels, GaussianNoise
from medseg3d.errors import CaseError, UsageError
from medseg3d.spatial import RandSpatialPatchd
from medseg3d.transforms import LabelIndicesd, LoadStudyd, LoadVolumed, ToFileLabelsd

SHAPE = (4, 5, 6)
AFFINE = np.array([[0.0, -2.0, 0.0, 10.0], [1.5, 0.0, 0.0, -20.0], [0.0, 0.0, 3.0, 5.0], [0, 0, 0, 1]])
LABELS = {"necrotic": 1, "oedema": 2, "enhancing": 3}
BRATS_2021 = {"necrotic": 1, "oedema": 2, "enhancing": 4}

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(name: str, array: np.ndarray) -> str:
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), tmp_path / name)
        return str(tmp_path / name)

    return save


def ids(*values: int) -> np.ndarray:
    """A label map with the values in its first voxels, background elsewhere."""
    label = np.zeros(SHAPE, np.int16)
    label.ravel()[: len(values)] = values
    return label


# --- Label ids --------------------------------------------------------------------------------------------------------


def test_ids_of_files_become_the_networks_and_back(write: Write):
    path = write("seg.nii.gz", ids(4, 2, 1, 0))
    load = LoadVolumed("label", labels=LABELS, file_labels=BRATS_2021)
    loaded = load({"label": path})["label"]
    assert (loaded.dtype, loaded.flatten()[:4].tolist()) == (torch.uint8, [3, 2, 1, 0])
    back = ToFileLabelsd("label", LABELS, BRATS_2021)({"label": loaded})["label"]
    assert isinstance(back, MetaTensor)
    np.testing.assert_array_equal(back[0], ids(4, 2, 1, 0))
    np.testing.assert_allclose(back.affine, AFFINE)


def test_ids_may_be_swapped_and_large(write: Write):
    file_labels = {"necrotic": 3, "oedema": 1000, "enhancing": 1}
    path = write("seg.nii.gz", ids(3, 1000, 1))
    loaded = LoadVolumed("label", labels=LABELS, file_labels=file_labels)({"label": path})["label"]
    assert (loaded.dtype, loaded.flatten()[:4].tolist()) == (torch.uint8, [1, 2, 3, 0])
    back = ToFileLabelsd("label", LABELS, file_labels)({"label": loaded.as_tensor()})["label"]
    assert (back.dtype, back.flatten()[:4].tolist()) == (torch.int32, [3, 1000, 1, 0])


@given(st.permutations(range(1, 9)), st.lists(st.integers(0, 8), min_size=1, max_size=20))
def test_mapping_there_and_back_is_the_identity(theirs: list[int], voxels: list[int]):
    names = {f"l{i}": i for i in range(1, 9)}
    to_files = ToFileLabelsd("x", names, dict(zip(names, theirs, strict=True)))
    back = ToFileLabelsd("x", dict(zip(names, theirs, strict=True)), names)
    mask = torch.tensor([voxels], dtype=torch.uint8)
    assert back(to_files({"x": mask}))["x"].tolist() == [voxels]


def test_ids_that_files_may_not_hold_are_refused(write: Write):
    path = write("seg.nii.gz", ids(3))
    with pytest.raises(CaseError, match=r"holds ids \[3\], which labels does not name \(it has .*'enhancing': 4"):
        LoadVolumed("label", labels=LABELS, file_labels=BRATS_2021)({"label": path})
    with pytest.raises(UsageError, match="only one of them has enhancing, tumour"):
        LoadVolumed("label", labels=LABELS, file_labels={"necrotic": 1, "oedema": 2, "tumour": 3})
    with pytest.raises(UsageError, match=r"ignore_label is 4, which background or a label has too"):
        LoadVolumed("label", labels=LABELS, file_labels=BRATS_2021, ignore_label=4)


# --- Voxels that nobody labelled --------------------------------------------------------------------------------------


def test_ignored_voxels_keep_their_id_and_are_in_no_list(write: Write):
    path = write("seg.nii.gz", ids(9, 9, 1, 4))
    load = LoadVolumed("label", labels=LABELS, file_labels=BRATS_2021, ignore_label=9)
    sample = load({"label": path})
    assert sample["label"].flatten()[:4].tolist() == [9, 9, 1, 3]
    listed = LabelIndicesd("label", LABELS, ignore_label=9)(sample)
    background, *labels = listed["label_cls_indices"]
    assert background.tolist() == list(range(4, 120))
    assert [indices.tolist() for indices in labels] == [[2], [], [3]]
    assert listed["label_annotated_indices"].tolist() == list(range(2, 120))


def test_lists_of_voxels_are_monais_where_nothing_is_ignored():
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (1, 9, 9, 9)).astype(np.uint8))
    ours = LabelIndicesd("label", LABELS, ignore_label=9, max_samples=50)({"label": label})
    theirs = ClassesToIndicesd("label", num_classes=4, max_samples_per_class=50)({"label": label})
    assert "label_annotated_indices" not in ours
    for one, other in zip(ours["label_cls_indices"], theirs["label_cls_indices"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_patches_lie_around_what_is_labelled():
    label = torch.full((1, 40, 8, 8), 9, dtype=torch.uint8)
    label[:, 30:34] = 0  # a labelled slab without any structure
    sample = LabelIndicesd("label", LABELS, ignore_label=9)({"label": label, "image": torch.zeros(1, 40, 8, 8)})
    patch = RandSpatialPatchd(["image", "label"], (8, 8, 8), affine_prob=0.0).set_random_state(seed=0)
    assert all((patch(dict(sample))["label"] == 0).any() for _ in range(30))


# --- Channels ---------------------------------------------------------------------------------------------------------


def test_a_file_of_four_dimensions_is_split_into_channels(write: Write):
    voxels = np.arange(np.prod((*SHAPE, 3))).reshape((*SHAPE, 3)).astype(np.int16)
    path = write("multi.nii.gz", voxels)
    for load in (LoadVolumed("image"), LoadStudyd("image")):
        image = load({"image": path})["image"]
        assert image.shape == (3, *SHAPE)
        np.testing.assert_array_equal(image, np.moveaxis(voxels, 3, 0))
        np.testing.assert_allclose(image.affine, AFFINE)
        np.testing.assert_array_equal(image.meta["spatial_shape"], SHAPE)
    with pytest.raises(CaseError, match="has 3 channels, a label map has one"):
        LoadVolumed("label", labels={"a": 1})({"label": path})


@pytest.mark.parametrize("loader", [LoadVolumed, LoadStudyd])
def test_a_missing_channel_is_zero_where_it_is_allowed(write: Write, loader: type[LoadVolumed]):
    image = [None, write("t2.nii.gz", np.full(SHAPE, 7, np.int16)), None]
    names = ["T1", "T2", "FLAIR"]
    with pytest.raises(CaseError, match=r"T1, FLAIR is missing \(beside .*t2.nii.gz\).*missing_channels: true"):
        loader("image", channels=names)({"image": image})
    loaded = loader("image", channels=names, missing_channels=True)({"image": image})["image"]
    assert [float(channel.max()) for channel in loaded] == [0, 7, 0]
    assert loaded.meta["findings"] == (
        "T1: missing, the network was given zeros",
        "FLAIR: missing, the network was given zeros",
    )


@pytest.mark.parametrize("nonzero", [True, False])
def test_normalising_a_missing_channel_leaves_zeros(nonzero: bool):
    image = torch.zeros(2, 4, 4, 4)
    image[1] = torch.arange(64.0).reshape(4, 4, 4)
    normalised = NormalizeIntensityd("image", nonzero=nonzero, channel_wise=True)({"image": image.clone()})["image"]
    assert normalised.isfinite().all()
    assert (normalised[0] == 0).all()


@given(seed=st.integers(0, 2**32 - 1), prob=st.floats(0, 0.99), empty=st.sets(st.integers(0, 3), max_size=3))
def test_never_all_channels_are_dropped(seed: int, prob: float, empty: set[int]):
    image = torch.ones(4, 2, 2, 2)
    image[list(empty)] = 0
    before, label = image.clone(), torch.zeros(1, 2, 2, 2)
    after, same = DropChannels(prob=prob)(image, label, np.random.default_rng(seed))
    assert after.any()
    assert same is label
    assert all((channel == 0).all() or torch.equal(channel, old) for channel, old in zip(after, before, strict=True))


def test_channels_are_dropped_as_often_as_asked():
    drop, random = DropChannels(prob=0.3), np.random.default_rng(0)
    kept = sum(drop(torch.ones(4, 1, 1, 1), torch.zeros(1, 1, 1, 1), random)[0].sum().item() for _ in range(2000))
    # All four go with 0.3⁴ = 0.0081, and then one comes back. Four standard deviations are 0.018.
    assert kept / 8000 == pytest.approx(0.7 + 0.0081 / 4, abs=0.02)


def test_later_augmentation_leaves_empty_channels_empty():
    augment = BatchAugmentation(
        [DropChannels(prob=0.5), Brightness(prob=1.0, factor=(0.5, 2.0)), GaussianNoise(prob=1.0)]
    )
    image = torch.ones(8, 4, 4, 4, 4)
    image[:, 2] = 0  # the cases lack it
    changed, _ = augment(image, torch.zeros(8, 1, 4, 4, 4), seeds=range(8))
    assert (changed[:, 2] == 0).all()
    empty = (changed == 0).flatten(2).all(dim=2)
    assert empty[:, [0, 1, 3]].any()
    assert not empty.all(dim=1).any()
    noisy = changed.flatten(2).std(dim=2) > 0
    assert torch.equal(noisy, ~empty)


def test_a_probability_of_one_is_refused():
    with pytest.raises(UsageError, match=r"modality_dropout_prob\) is 1.0; it is at least 0 and below 1"):
        DropChannels(prob=1.0)
