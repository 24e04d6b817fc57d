"""The way back from the network's grid to the image's: exact where grids agree, scipy's answer everywhere else."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, CropForeground, Orientation, Spacing, SpatialPad
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from medseg3d.errors import GeometryError
from medseg3d.inference.grid import GridMap, ToImageGridd, labels_on_grid, probabilities_on_grid

SHAPE = (22, 18, 20)
ORIENTATIONS = ["".join(axes) for axes in product("LR", "AP", "SI")]
ORIENTATIONS = ["".join(order) for axes in ORIENTATIONS for order in permutations(axes)]


@st.composite
def affines(draw) -> np.ndarray:
    """Oblique, flipped, permuted and anisotropic affines of real scanners' sizes."""
    angles = [draw(st.floats(-40, 40)) for _ in range(3)]
    spacing = [draw(st.floats(0.4, 5.0)) for _ in range(3)]
    signs = [draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)]
    order = list(draw(st.permutations(range(3))))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(signs)[:, order]
    affine[:3, :3] *= spacing
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return affine


def two_balls(shape=SHAPE) -> np.ndarray:
    """Label 1, an ellipsoid of half-axes 7, 6 and 6 voxels, and label 2, another that it touches."""
    i, j, k = np.ogrid[tuple(slice(n) for n in shape)]
    labels = np.zeros(shape, np.uint8)
    labels[((i - 8) / 7) ** 2 + ((j - 8) / 6) ** 2 + ((k - 9) / 6) ** 2 < 1] = 1
    labels[((i - 16) / 5) ** 2 + ((j - 9) / 6) ** 2 + ((k - 10) / 6) ** 2 < 1] = 2
    return labels


def as_loaded(voxels: np.ndarray, affine: np.ndarray) -> MetaTensor:
    meta = {"original_affine": torch.as_tensor(affine), "spatial_shape": np.array(voxels.shape), "filename_or_obj": "x"}
    return MetaTensor(torch.as_tensor(voxels[None].astype(np.float32)), affine=torch.as_tensor(affine), meta=meta)


def perfect_logits(preprocessed: torch.Tensor, classes: int = 3) -> torch.Tensor:
    """What a network without errors would answer to an image that shows the labels themselves."""
    labels = preprocessed.as_tensor()[0].round().long().clamp(0, classes - 1)
    return 20.0 * torch.nn.functional.one_hot(labels, classes).movedim(-1, 0).float()


def restored(labels: np.ndarray, affine: np.ndarray, preprocessing) -> MetaTensor:
    image = preprocessing(as_loaded(labels, affine))
    return ToImageGridd("pred")({"image": image, "pred": perfect_logits(image)})["pred"]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@given(affine=affines(), axcodes=st.sampled_from(ORIENTATIONS))
@settings(max_examples=40, deadline=None)
def test_reorienting_alone_gives_the_same_mask_back(affine, axcodes):
    labels = two_balls()
    mask = restored(labels, affine, Orientation(axcodes, labels=None))
    np.testing.assert_array_equal(mask[0].numpy(), labels)
    np.testing.assert_array_equal(mask.affine.numpy(), affine)
    assert mask.dtype == torch.uint8


@given(affine=affines(), axcodes=st.sampled_from(ORIENTATIONS), factors=st.tuples(*[st.floats(0.5, 1.3)] * 3))
@settings(max_examples=30, deadline=None)
def test_resampling_keeps_shape_affine_and_form(affine, axcodes, factors):
    labels = two_balls()
    reoriented = Orientation(axcodes, labels=None)(as_loaded(labels, affine))
    spacing = reoriented.pixdim.numpy() * factors
    mask = restored(labels, affine, Compose([Orientation(axcodes, labels=None), Spacing(spacing, mode="nearest")]))
    assert mask.shape[1:] == labels.shape
    np.testing.assert_array_equal(mask.affine.numpy(), affine)
    for label in (1, 2):
        assert dice(mask[0].numpy() == label, labels == label) > 0.9


@given(affine=affines())
@settings(max_examples=10, deadline=None)
def test_resampling_across_oblique_axes(affine):
    labels = two_balls()
    spacing = np.linalg.norm(affine[:3, :3], axis=0).min() * 0.8
    mask = restored(labels, affine, Spacing((spacing,) * 3, diagonal=True, mode="nearest"))
    assert mask.shape[1:] == labels.shape
    assert min(dice(mask[0].numpy() == label, labels == label) for label in (1, 2)) > 0.9


def test_cropping_and_padding_are_undone():
    labels = two_balls()
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    cropped = restored(labels, affine, CropForeground(margin=0, allow_smaller=True))
    padded = restored(labels, affine, SpatialPad((40, 40, 40)))
    np.testing.assert_array_equal(cropped[0].numpy(), labels)
    np.testing.assert_array_equal(padded[0].numpy(), labels)


@given(affines(), affines(), st.booleans(), st.integers(0, 2**31), st.sampled_from([0, 1]))
@settings(max_examples=40, deadline=None)
def test_sampling_agrees_with_scipy(affine, other, axis_aligned, seed, outside):
    values = np.random.default_rng(seed).random((7, 9, 8)).astype(np.float32)
    if axis_aligned:
        other = affine @ np.array([[0, 0.7, 0, 1.3], [-1.1, 0, 0, 7.9], [0, 0, 2.3, -3.1], [0, 0, 0, 1]])
    else:
        other = other.copy()
        other[:3, 3] = affine[:3, 3]
    grid_map = GridMap.between(affine, values.shape, other, (11, 10, 12))
    sampled = grid_map.sample(torch.from_numpy(values), grid_map.everything, outside=outside).numpy()

    indices = np.stack([*np.indices((11, 10, 12)), np.ones((11, 10, 12))])
    coordinates = np.einsum("ab,b...->a...", grid_map.matrix, indices)[:3]
    expected = map_coordinates(values, coordinates, order=1, mode="nearest")
    sizes = np.reshape(values.shape, (3, 1, 1, 1))
    expected[((coordinates <= -1) | (coordinates >= sizes)).any(axis=0)] = outside
    # Where a coordinate lies within rounding of the rim, either answer is right.
    rim = ((np.abs(coordinates + 1) < 1e-3) | (np.abs(coordinates - sizes) < 1e-3)).any(axis=0)
    np.testing.assert_allclose(sampled[~rim], expected[~rim], atol=3e-3)


@given(
    affine=affines(), other=affines(), same_axes=st.booleans(), seed=st.integers(0, 2**31), classes=st.integers(2, 6)
)
@settings(max_examples=40, deadline=None)
def test_labels_are_the_argmax_of_the_probabilities(affine, other, same_axes, seed, classes):
    """Skipping where a class cannot win must not change who wins."""
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(classes, 6, 7, 8)).astype(np.float32))
    other = (
        affine @ np.diag([0.6, 1.4, 0.8, 1])
        if same_axes
        else np.vstack([np.c_[other[:3, :3], affine[:3, 3]], other[3:]])
    )
    grid_map = GridMap.between(affine, (6, 7, 8), other, (9, 8, 10))
    probabilities = (noise * 3).softmax(dim=0)
    stacked = torch.stack(list(probabilities_on_grid(probabilities, grid_map)))
    np.testing.assert_allclose(stacked.sum(dim=0).numpy(), 1, atol=1e-4)
    labels = labels_on_grid(probabilities, grid_map)
    chosen = stacked.gather(0, labels[None].long())[0]
    np.testing.assert_allclose(chosen.numpy(), stacked.max(dim=0).values.numpy(), atol=1e-6)


def test_far_outside_of_the_networks_grid_is_background():
    probabilities = torch.zeros(2, 4, 4, 4)
    probabilities[1] = 1.0
    labels = labels_on_grid(probabilities, GridMap(np.eye(4), (4, 4, 4), (6, 4, 4)))
    assert labels[:4].all()
    assert not labels[4:].any()


def test_an_image_that_forgot_its_file_is_refused():
    image = MetaTensor(torch.zeros(1, 4, 4, 4), affine=torch.eye(4))
    with pytest.raises(GeometryError, match="does not know the grid of its file"):
        ToImageGridd("pred")({"image": image, "pred": torch.zeros(2, 4, 4, 4)})


def test_a_prediction_of_another_size_is_refused():
    image = as_loaded(np.zeros((4, 4, 4)), np.eye(4))
    with pytest.raises(GeometryError, match="prediction has 4×4×5 voxels, the preprocessed image 4×4×4"):
        ToImageGridd("pred")({"image": image, "pred": torch.zeros(2, 4, 4, 5)})
