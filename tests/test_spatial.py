"""Random patches: the right voxels, image and label alike, rigid in millimetres, whatever the draw."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import ClassesToIndicesd
from scipy.ndimage import map_coordinates
from scipy.spatial.distance import pdist

from medseg3d.errors import UsageError
from medseg3d.spatial import RandSpatialPatchd, bspline_basis, rotation_matrix, thin_axes

SHAPE = (26, 22, 20)
EVERYTHING = {
    "rotate_range": (0.5, 0.4, 0.6),
    "scale_range": 0.25,
    "elastic_range": 1.5,
    "elastic_cell": 8.0,
    "elastic_prob": 1.0,
    "flip_axes": (0, 1, 2),
}


def places(shape=SHAPE) -> np.ndarray:
    """The index of every voxel, shape (3, x, y, z): an image that says where a patch was read."""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float32)


def sample(label: np.ndarray, image: np.ndarray | None = None, classes: int = 3) -> dict:
    data = {
        "image": torch.as_tensor(places(label.shape) if image is None else image),
        "label": torch.as_tensor(label[None]),
    }
    return ClassesToIndicesd("label", num_classes=classes)(data)


def box(shape=SHAPE) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[10:16, 9:13, 8:12] = 1
    return label


def patcher(size=(10, 9, 8), *, seed=0, **options) -> RandSpatialPatchd:
    patch = RandSpatialPatchd(["image", "label"], size, **options)
    patch.set_random_state(seed=seed)
    return patch


def corner(patch: torch.Tensor) -> np.ndarray:
    """First voxel of an undeformed patch of ``places``."""
    return patch[:, 0, 0, 0].round().numpy().astype(int)


# Where ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("foreground_prob", [0.0, 1.0])
@pytest.mark.parametrize("size", [(10, 9, 8), (7, 22, 1), SHAPE])
def test_an_undeformed_patch_is_an_exact_crop(size, foreground_prob, seed):
    patch = patcher(size, seed=seed, foreground_prob=foreground_prob)(sample(box()))
    first = corner(patch["image"])
    assert (first >= 0).all()
    assert (first + size <= SHAPE).all()
    crop = tuple(slice(i, i + n) for i, n in zip(first, size, strict=True))
    np.testing.assert_allclose(patch["image"], places()[(slice(None), *crop)], atol=1e-4)
    np.testing.assert_array_equal(patch["label"][0], box()[crop])
    assert patch["label"].dtype == torch.uint8
    assert "label_cls_indices" not in patch


def test_without_foreground_every_place_is_as_likely():
    transform = patcher((23, 22, 19), foreground_prob=0.0)
    data = sample(box())
    corners = [tuple(corner(transform(data)["image"])) for _ in range(800)]
    counts = np.unique(corners, axis=0, return_counts=True)[1]
    # 4 × 1 × 2 places, 100 each on average; four standard deviations are 37.
    assert len(counts) == 8
    assert np.abs(counts - 100).max() < 38


@pytest.mark.parametrize("size", [(10, 9, 8), (3, 2, 1), (26, 4, 30)])
def test_foreground_patches_contain_a_label(size):
    transform = patcher(size, foreground_prob=1.0)
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, 0] = label[25, 21, 19] = label[13, 4, 9] = 1
    data = sample(label)
    assert all(transform(data)["label"].any() for _ in range(200))


def test_labels_are_chosen_equally_however_large_they_are():
    label = np.zeros((40, 12, 12), np.uint8)
    label[2:12, 1:11, 1:11] = 1
    label[34, 6, 6] = 2
    data = sample(label, classes=4)  # the third class is nowhere in the image
    transform = patcher((4, 4, 4), foreground_prob=1.0)
    found = [int(transform(data)["label"].max()) for _ in range(400)]
    assert set(found) == {1, 2}
    # Four standard deviations of 400 fair coins: 40.
    assert abs(found.count(2) - 200) < 40


def test_an_image_without_labels_gives_patches_too():
    patch = patcher(foreground_prob=1.0)(sample(np.zeros(SHAPE, np.uint8)))
    assert patch["label"].shape == (1, 10, 9, 8)
    assert not patch["label"].any()


def test_foreground_is_forced_as_often_as_asked():
    label = np.zeros((60, 8, 8), np.uint8)
    label[-1] = 1
    transform, data = patcher((2, 8, 8), foreground_prob=0.3), sample(label)
    forced = sum(bool(transform(data)["label"].any()) for _ in range(1000))
    # Of 59 places for the others, one touches the label: 0.3 + 0.7 / 59 = 0.312 ± four standard deviations.
    assert abs(forced - 312) < 59


# Padding --------------------------------------------------------------------------------------------------------------


def test_a_patch_larger_than_the_volume_is_padded():
    image = np.full((1, 6, 7, 8), 5, np.float32)
    label = np.ones((6, 7, 8), np.uint8)
    patch = patcher((10, 7, 12), padding_value=-3.0, foreground_prob=0.0)(sample(label, image))
    inside = patch["label"][0] == 1
    assert inside.sum() == 6 * 7 * 8
    assert (patch["image"][0][inside] == 5).all()
    assert (patch["image"][0][~inside] == -3).all()
    assert (patch["label"][0][~inside] == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_deformed_patches_are_padded_exactly_outside_the_volume(seed):
    options = {"spacing": (1.0, 2.0, 1.5), "padding_value": -100.0, **EVERYTHING}
    image = np.concatenate([places(), np.ones((1, *SHAPE), np.float32)])
    patch = patcher((30, 30, 30), seed=seed, **options)(sample(np.ones(SHAPE, np.uint8), image))
    outside = patch["label"][0] == 0
    assert 0 < outside.sum() < outside.numel()
    assert (patch["image"][:, outside] == -100).all()
    torch.testing.assert_close(patch["image"][3][~outside], torch.ones(int((~outside).sum())))


# Image and label together ---------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(14, 12, 10), (18, 1, 16), (9, 20, 33)]))
def test_the_label_is_that_of_the_nearest_voxel_of_where_the_image_was_read(seed, size):
    label = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    patch = patcher(size, seed=seed, spacing=(1.0, 1.5, 2.0), padding_value=-1000.0, **EVERYTHING)(sample(label))
    where = patch["image"].numpy().astype(float)
    nearest = np.rint(where).astype(int)
    # Outside there is padding; a read within half a voxel of the border is clamped to it; ties may round either way.
    last = np.array(SHAPE)[:, None, None, None] - 1
    clear = ((where >= 0) & (where <= last) & (np.abs(np.abs(where - nearest) - 0.5) > 1e-3)).all(axis=0)
    assert clear.any()
    np.testing.assert_array_equal(patch["label"][0].numpy()[clear], label[tuple(nearest[:, clear])])


@pytest.mark.parametrize("seed", range(5))
def test_reading_agrees_with_scipys_linear_interpolation(seed):
    noise = np.random.default_rng(1).normal(size=(1, *SHAPE)).astype(np.float32)
    both = np.concatenate([places(), noise])
    patch = patcher((14, 12, 10), seed=seed, spacing=(1.0, 1.5, 2.0), **EVERYTHING)(sample(box(), both))[
        "image"
    ].numpy()
    last = np.array(SHAPE)[:, None, None, None] - 1
    inside = ((patch[:3] > 0) & (patch[:3] < last)).all(axis=0)
    expected = map_coordinates(noise[0].astype(float), patch[:3][:, inside], order=1)
    assert inside.mean() > 0.3
    np.testing.assert_allclose(patch[3][inside], expected, atol=2e-4)


# Deformation ----------------------------------------------------------------------------------------------------------


def positions_mm(patch: torch.Tensor, spacing) -> np.ndarray:
    return patch.numpy().reshape(3, -1).T * np.asarray(spacing)


@pytest.mark.parametrize("seed", range(5))
def test_rotation_is_rigid_in_millimetres_on_anisotropic_grids(seed):
    spacing, size = (0.7, 1.1, 4.0), (6, 5, 3)
    data = sample(box((60, 60, 30)) * 0)
    data["label_cls_indices"] = [np.zeros(0, int), np.array([np.ravel_multi_index((30, 30, 15), (60, 60, 30))])]
    patch = patcher(size, seed=seed, foreground_prob=1.0, spacing=spacing, rotate_range=(0.6, 0.6, 0.6))(data)
    unturned = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")).reshape(3, -1).T * np.array(spacing)
    turned = positions_mm(patch["image"], spacing)
    np.testing.assert_allclose(pdist(turned), pdist(unturned), atol=1e-3)
    steps = turned.reshape(*size, 3)
    assert np.abs(steps[1, 0, 0] - steps[0, 0, 0] - (spacing[0], 0, 0)).max() > 0.01
    # A proper rotation: no axis is mirrored.
    axes = [steps[1, 0, 0] - steps[0, 0, 0], steps[0, 1, 0] - steps[0, 0, 0], steps[0, 0, 1] - steps[0, 0, 0]]
    assert np.linalg.det(axes) == pytest.approx(np.prod(spacing), rel=1e-3)


def test_scaling_is_between_its_bounds_and_as_often_up_as_down():
    factors = []
    data = sample(box())
    transform = patcher((5, 5, 5), foreground_prob=1.0, scale_range=0.25)
    for _ in range(200):
        where = transform(data)["image"].numpy()
        factors.append(float(where[0, 3, 2, 2] - where[0, 2, 2, 2]))
    assert 1 / 1.25 - 1e-3 < min(factors) < 0.85
    assert 1.18 < max(factors) < 1.25 + 1e-3
    assert abs(np.log(factors).mean()) < 0.03


@pytest.mark.parametrize("flip_axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_only_flip_axes_are_mirrored_and_half_of_the_time(flip_axes):
    transform, data = patcher((4, 4, 4), flip_axes=flip_axes), sample(box())
    mirrored = np.zeros(3, int)
    for _ in range(200):
        where = transform(data)["image"].numpy()
        steps = [where[i].take(1, axis=i) - where[i].take(0, axis=i) for i in range(3)]
        signs = np.array([step.mean() for step in steps])
        np.testing.assert_allclose(np.abs(signs), 1, atol=1e-4)
        mirrored += signs < 0
    expected = np.array([100 if axis in flip_axes else 0 for axis in range(3)])
    assert (np.abs(mirrored - expected) <= np.where(expected, 29, 0)).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_turned_and_bent_only_in_its_plane(axis):
    size = [12, 12, 12]
    size[axis] = 1
    options = EVERYTHING | {"flip_axes": ()}
    transform, data = patcher(tuple(size), foreground_prob=1.0, spacing=(1.0, 1.0, 5.0), **options), sample(box())
    for _ in range(10):
        patch = transform(data)
        inside = torch.from_numpy(np.logical_and.reduce(patch["image"].numpy() > 0))
        depth = patch["image"][axis][inside]
        assert depth.max() - depth.min() < 1e-3
        assert depth.mean() == pytest.approx(round(float(depth.mean())), abs=1e-3)


def test_a_slices_plane_is_turned():
    transform, data = patcher((12, 12, 1), foreground_prob=1.0, rotate_range=(1, 1, 1)), sample(box())
    where = transform(data)["image"].numpy()[:, :, :, 0]
    assert abs(where[1, 6, 6] - where[1, 5, 6]) > 0.01


def test_probability_zero_neither_turns_nor_bends():
    options = EVERYTHING | {"flip_axes": (), "elastic_prob": 0.0, "affine_prob": 0.0}
    where = patcher(**options)(sample(box()))["image"]
    np.testing.assert_allclose(where[0, 1] - where[0, 0], 1, atol=1e-4)


def test_an_elastic_patch_is_bent_and_smooth():
    options = {"elastic_range": 1.5, "elastic_prob": 1.0, "elastic_cell": 8.0, "foreground_prob": 1.0}
    where = patcher((12, 12, 12), **options)(sample(box()))["image"].numpy()
    curvature = np.abs(np.diff(where, n=2, axis=1))[:, 2:-2, 4:-4, 4:-4].max()
    # Steps from voxel to voxel change (an affine map keeps them), but by far less than a voxel.
    assert 0.003 < curvature < 0.3


def test_displacements_have_the_standard_deviation_in_millimetres():
    spacing = (1.0, 2.0, 4.0)
    patch = patcher((32, 16, 8), spacing=spacing, elastic_range=3.0, elastic_cell=8.0, in_plane=False)
    drawn = np.concatenate([patch._displacement().reshape(-1, 3).numpy() * spacing for _ in range(300)])
    # The standard deviation is itself uniform in 0 to 3 mm: the root of the mean square is 3 / √3.
    np.testing.assert_allclose(drawn.std(axis=0), 3 / np.sqrt(3), rtol=0.1)


def test_bending_within_a_fifth_of_the_cell_folds_nothing():
    patch = patcher((24, 24, 24), elastic_range=16.0 / 5, elastic_cell=16.0)
    folded = 0
    for _ in range(20):
        moved = places((24, 24, 24)) + patch._displacement().movedim(-1, 0).numpy()
        jacobian = np.stack([np.stack(np.gradient(component)) for component in moved])
        folded += int((np.linalg.det(jacobian.transpose(2, 3, 4, 0, 1)) <= 0).sum())
    assert folded / (20 * 24**3) < 1e-3


# Draws ----------------------------------------------------------------------------------------------------------------


def test_the_seed_decides():
    first, second, other = (patcher(seed=seed, **EVERYTHING)(sample(box())) for seed in (1, 1, 2))
    torch.testing.assert_close(first["image"], second["image"], rtol=0, atol=0)
    torch.testing.assert_close(first["label"], second["label"])
    assert not torch.equal(first["image"], other["image"])


def test_nothing_given_is_written_into():
    data = sample(box())
    before = {key: torch.as_tensor(data[key]).clone() for key in ("image", "label")}
    patcher(padding_value=-5.0, **EVERYTHING)(data)
    for key, value in before.items():
        torch.testing.assert_close(torch.as_tensor(data[key]), value)
    assert "label_cls_indices" in data


@pytest.mark.parametrize(
    ("size", "flips", "message"),
    [
        ((4, 4), (), r"spatial_size is \[4, 4\]; a patch has three sizes of at least 1 voxel"),
        ((4, 4, 0), (), r"spatial_size is \[4, 4, 0\]"),
        ((4, 4, 4), (3,), r"flip_axes is \[3\]; a volume has the axes 0, 1 and 2"),
    ],
)
def test_impossible_patches_are_refused(size, flips, message):
    with pytest.raises(UsageError, match=message):
        RandSpatialPatchd("image", size, flip_axes=flips)


# Parts ----------------------------------------------------------------------------------------------------------------


@given(st.tuples(*[st.floats(-3.2, 3.2)] * 3))
def test_rotation_matrices_are_rotations(angles):
    matrix = rotation_matrix(angles)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_rotations_turn_about_the_first_axis_first():
    quarter = np.pi / 2
    np.testing.assert_allclose(rotation_matrix((quarter, 0, 0)) @ (0, 1, 0), (0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(rotation_matrix((0, quarter, 0)) @ (0, 0, 1), (1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(rotation_matrix((quarter, 0, quarter)) @ (0, 0, 1), (1, 0, 0), atol=1e-12)


@given(st.integers(1, 60), st.floats(0, 12))
def test_bspline_rows_are_cubic_b_splines_of_unit_length(points, cells):
    basis = bspline_basis(points, cells)
    assert basis.shape[0] == points
    assert (basis >= 0).all()
    assert ((basis > 0).sum(axis=1) <= 4).all()
    np.testing.assert_allclose((basis**2).sum(axis=1), 1)
    # The weights of a uniform cubic B-spline sum to 1, and the mean of their places is where they are evaluated.
    weights = basis / basis.sum(axis=1, keepdims=True)
    position = np.linspace(0, max(cells, 1e-6), points) if points > 1 else np.zeros(1)
    np.testing.assert_allclose(weights @ (np.arange(basis.shape[1]) - 1), position, atol=1e-9)


def test_bspline_weights_at_a_control_point_are_those_of_the_textbook():
    row = bspline_basis(3, 2.0)[1]
    np.testing.assert_allclose(row / row.sum(), [0, 1 / 6, 4 / 6, 1 / 6, 0], atol=1e-12)


def test_bspline_is_smooth_from_point_to_point():
    basis = bspline_basis(401, 4.0)
    assert max(np.abs(b - a).max() for a, b in pairwise(basis)) < 0.02
    assert np.abs(np.diff(basis, n=2, axis=0)).max() < 1e-3


def test_controls_of_unit_deviation_displace_by_unit_deviation():
    controls = np.random.default_rng(0).normal(size=(7, 20000))
    np.testing.assert_allclose((bspline_basis(30, 4.0) @ controls).std(axis=1), 1, rtol=0.03)


# nnU-Net's probabilities and its dummy 2D -----------------------------------------------------------------------------


def test_turning_and_scaling_have_probabilities_of_their_own():
    options = {"rotate_range": (0.5, 0.5, 0.5), "scale_range": 0.4, "rotate_prob": 0.2, "scale_prob": 0.4}
    transform, data = patcher((5, 5, 5), foreground_prob=1.0, **options), sample(box())
    turned = scaled = 0
    for _ in range(500):
        where = transform(data)["image"].numpy()
        step = where[:, 3, 2, 2] - where[:, 2, 2, 2]
        turned += np.abs(step[1:]).max() > 1e-3
        scaled += abs(np.linalg.norm(step) - 1) > 1e-3
    # Four standard deviations of 500 draws: 36 and 44.
    assert abs(turned - 100) < 36
    assert abs(scaled - 200) < 44


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_few_slices_are_turned_scaled_and_bent_only_in_their_plane(axis):
    size = [16, 16, 16]
    size[axis] = 5  # 16 / 5 is more than three
    options = EVERYTHING | {"flip_axes": (), "foreground_prob": 1.0}
    data, plane = sample(box()), [a for a in range(3) if a != axis]
    for seed in range(5):
        where = patcher(tuple(size), seed=seed, spacing=(1.0, 1.0, 4.0), **options)(data)["image"].numpy()
        depth = np.moveaxis(where[axis], axis, 0)
        inside = np.moveaxis((where > 0).all(axis=0), axis, 0)
        for slice_, visible in zip(depth, inside, strict=True):
            values = slice_[visible]
            assert values.size == 0 or np.ptp(values) < 1e-3
            assert values.size == 0 or abs(values[0] - round(float(values[0]))) < 1e-3
        assert np.abs(np.diff(where[plane[0]], axis=plane[1])).max() > 0.01


def test_whether_slices_stay_in_their_plane_can_be_said():
    assert patcher((16, 16, 5), in_plane=False).thin == set()
    assert patcher((16, 16, 15), in_plane=True).thin == {2}
    assert patcher((16, 1, 15), in_plane=False).thin == {1}
    assert patcher((16, 16, 16), in_plane=True).thin == set()


@pytest.mark.parametrize(("size", "thin"), [((48, 16, 48), set()), ((49, 16, 48), {1}), ((1, 1, 9), {0, 1})])
def test_an_axis_is_thin_below_a_third(size, thin):
    assert thin_axes(size) == thin


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(10, 9, 8), (30, 9, 24), (26, 22, 1)]))
def test_a_crop_and_a_read_that_changes_nothing_agree(seed, size):
    """The two ways to a patch: cut out, and interpolated with a turn that is none worth speaking of."""
    options = {"flip_axes": (0, 1, 2), "padding_value": -1.0}
    label = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    image = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    cut = patcher(size, seed=seed, **options)(sample(label, image))
    read = patcher(size, seed=seed, rotate_range=(1e-7,) * 3, **options)(sample(label, image))
    assert torch.equal(cut["label"], read["label"])
    torch.testing.assert_close(cut["image"], read["image"], atol=1e-3, rtol=1e-3)
