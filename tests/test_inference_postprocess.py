"""Corrections of masks, on shapes small enough to count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from scipy import ndimage

from medseg3d.errors import GeometryError, UsageError
from medseg3d.inference import FillHolesd, KeepLargestComponentd, RemoveSmallComponentsd

SMALL_MASKS = arrays(np.uint8, (6, 5, 4), elements=st.integers(0, 2))


def mask(labels: np.ndarray, spacing=(1.0, 1.0, 1.0)) -> dict:
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    return {"pred": MetaTensor(torch.from_numpy(labels[None].copy()), affine=affine)}


def blocks() -> np.ndarray:
    """Label 1 in blocks of 27 and 8 voxels, label 2 in one voxel and in eight."""
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[1:4, 1:4, 1:4] = 1
    labels[8:10, 8:10, 8:10] = 1
    labels[6, 1, 1] = 2
    labels[8:10, 1:3, 1:3] = 2
    return labels


def test_largest_component_of_each_label_stays():
    result = KeepLargestComponentd("pred")(mask(blocks()))["pred"]
    assert [int((result == label).sum()) for label in (1, 2)] == [27, 8]
    assert result.dtype == torch.uint8
    torch.testing.assert_close(result.affine, torch.eye(4, dtype=torch.float64))


def test_only_the_applied_labels_change():
    result = KeepLargestComponentd("pred", applied_labels=[2])(mask(blocks()))["pred"]
    assert [int((result == label).sum()) for label in (1, 2)] == [35, 8]


def test_the_input_is_left_as_it_was():
    case = mask(blocks())
    KeepLargestComponentd("pred")(case)
    np.testing.assert_array_equal(case["pred"][0].numpy(), blocks())


def test_a_row_with_a_gap():
    labels = np.zeros((3, 3, 5), np.uint8)
    labels[1, 1, [0, 2, 3]] = 1
    assert KeepLargestComponentd("pred")(mask(labels))["pred"][0, 1, 1].tolist() == [0, 0, 1, 1, 0]


def test_corners_touch_or_not_by_connectivity():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[1, 1, 2] = 1
    assert int(KeepLargestComponentd("pred")(mask(labels))["pred"].sum()) == 3
    assert int(KeepLargestComponentd("pred", connectivity=6)(mask(labels))["pred"].sum()) == 2


def test_small_components_go_by_volume_not_by_voxels():
    # Voxels of 2×2×5 mm hold 0.02 ml: eight of them 0.16 ml, 27 of them 0.54 ml.
    case = mask(blocks(), spacing=(2, 2, 5))
    at_limit = RemoveSmallComponentsd("pred", min_volume_ml=0.16)(case)["pred"]
    assert [int((at_limit == label).sum()) for label in (1, 2)] == [35, 8]
    above = RemoveSmallComponentsd("pred", min_volume_ml=0.17)(case)["pred"]
    assert [int((above == label).sum()) for label in (1, 2)] == [27, 0]


def test_cavities_are_filled_and_other_labels_stay():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:8, 1:8, 1:8] = 1
    labels[3:6, 3:6, 3:6] = 0
    labels[4, 4, 4] = 2
    result = FillHolesd("pred")(mask(labels))["pred"][0].numpy()
    assert (result == 1).sum() == 7**3 - 1
    assert result[4, 4, 4] == 2


def test_an_open_hollow_is_not_filled():
    labels = np.ones((5, 5, 5), np.uint8)
    labels[2, 2, 2:] = 0
    np.testing.assert_array_equal(FillHolesd("pred")(mask(labels))["pred"][0].numpy(), labels)


@given(SMALL_MASKS)
@settings(deadline=None)
def test_each_correction_done_twice_is_done_once(labels):
    for correct in (
        KeepLargestComponentd("pred"),
        RemoveSmallComponentsd("pred", min_volume_ml=0.003),
        FillHolesd("pred"),
    ):
        once = correct(mask(labels))["pred"]
        twice = correct({"pred": once})["pred"]
        np.testing.assert_array_equal(once.numpy(), twice.numpy())


@given(SMALL_MASKS)
@settings(deadline=None)
def test_what_stays_is_one_component_of_the_greatest_size(labels):
    result = KeepLargestComponentd("pred")(mask(labels))["pred"][0].numpy()
    for label in (1, 2):
        components, count = ndimage.label(labels == label, structure=np.ones((3, 3, 3)))
        largest = max(((components == i).sum() for i in range(1, count + 1)), default=0)
        assert (result == label).sum() == largest
        assert not (result[labels != label] == label).any()


def test_a_volume_limit_needs_an_affine():
    with pytest.raises(GeometryError, match="not a MetaTensor with an affine"):
        RemoveSmallComponentsd("pred", min_volume_ml=1)({"pred": torch.from_numpy(blocks()[None])})


def test_logits_are_refused():
    with pytest.raises(GeometryError, match="Put it after ToImageGridd"):
        KeepLargestComponentd("pred")({"pred": torch.zeros(3, 4, 4, 4)})


def test_a_negative_volume_is_refused():
    with pytest.raises(UsageError, match="min_volume_ml is -1"):
        RemoveSmallComponentsd("pred", min_volume_ml=-1)
