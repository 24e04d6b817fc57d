"""A volume on another's grid: truths by hand, SimpleITK as oracle, laws."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg3d.channels import ScaleChannelsd
from medseg3d.errors import CaseError, GeometryError, UsageError
from medseg3d.geometry import lps_to_ras
from medseg3d.resampling import resampled_onto, share_outside
from medseg3d.spatial import rotation_matrix


def affine(spacing: tuple[float, float, float], origin=(0.0, 0.0, 0.0), angles=(0.0, 0.0, 0.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(angles) @ np.diag(spacing)
    matrix[:3, 3] = origin
    return matrix


def itk_image(voxels: np.ndarray, ras: np.ndarray) -> sitk.Image:
    image, lps = sitk.GetImageFromArray(voxels.T), lps_to_ras(ras)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


@pytest.mark.parametrize("angles", [(0, 0, 0), (0.2, -0.1, 0.4)], ids=["straight", "oblique"])
def test_equals_simpleitk_inside(angles):
    voxels = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    source, onto = affine((5.5, 5.5, 3.3), (-20, 3, 8)), affine((1.1, 0.9, 2.0), (-12, 8, 10), angles)
    shape = (20, 18, 8)
    ours = resampled_onto(voxels, source, shape=shape, onto=onto, outside=-7)
    grid = itk_image(np.zeros(shape, np.float32), onto)
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(itk_image(voxels, source), grid, sitk.Transform(), sitk.sitkLinear, -7.0)
    )
    # Half a voxel beyond the outermost centres ITK and we go on with the edge's value; the rim itself may be rounded.
    differs = ~np.isclose(ours, theirs.T, atol=1e-4)
    assert differs.mean() < 0.01
    assert (ours != -7).mean() > 0.3


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(-3, 3)] * 4), st.tuples(*[st.floats(-0.5, 0.5)] * 3))
def test_what_changes_linearly_in_space_is_exact(plane, angles):
    """SUV that is a linear function of the place is that function on any grid inside."""
    a, b, c, d = plane
    source, onto = affine((4, 5, 6), (-40, -50, -60)), affine((2, 2, 2), (-8, -8, -8), angles)

    def values(matrix: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        indices = np.stack([*np.indices(shape), np.ones(shape)])
        x, y, z = np.tensordot(matrix[:3], indices, 1)
        return a * x + b * y + c * z + d

    shape = (20, 20, 20)
    found = resampled_onto(values(source, shape), source, shape=(8, 8, 8), onto=onto, outside=np.nan)
    np.testing.assert_allclose(found, values(onto, (8, 8, 8)), atol=1e-3)


def test_the_same_grid_gives_the_same_values():
    voxels = np.random.default_rng(1).normal(size=(5, 6, 7)).astype(np.float32)
    grid = affine((0.98, 0.98, 3.27), (-100.3, 20.7, 3.1), (0.1, 0.2, 0.3))
    assert np.array_equal(resampled_onto(voxels, grid, shape=voxels.shape, onto=grid, outside=0), voxels)
    assert share_outside(voxels.shape, grid, shape=voxels.shape, onto=grid) == 0


def test_large_volumes_go_through_in_slabs(monkeypatch):
    voxels = np.random.default_rng(2).normal(size=(6, 5, 4)).astype(np.float32)
    source, onto = affine((4, 4, 4)), affine((1, 1, 1), angles=(0.1, 0, 0))
    whole = resampled_onto(voxels, source, shape=(24, 20, 16), onto=onto, outside=0)
    monkeypatch.setattr("medseg3d.resampling.SLAB_VOXELS", 700)
    assert np.array_equal(resampled_onto(voxels, source, shape=(24, 20, 16), onto=onto, outside=0), whole)


def test_an_image_of_several_channels_is_refused():
    with pytest.raises(GeometryError, match="this array has 4"):
        resampled_onto(np.zeros((2, 3, 3, 3)), np.eye(4), shape=(3, 3, 3), onto=np.eye(4), outside=0)


def test_a_range_a_channel():
    import torch

    with pytest.raises(UsageError, match="10 to 0 of a channel is empty"):
        ScaleChannelsd("image", [(10, 0)])
    with pytest.raises(CaseError, match="1 channel"):
        ScaleChannelsd("image", [(0, 1), (0, 2)])({"image": torch.zeros(1, 2, 2, 2)})
