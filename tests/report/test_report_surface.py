"""Surfaces: closed, turned outwards, true to size, and never lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.report.surface import Mesh, coarsened, surface


def ball(radius: float, size: int) -> np.ndarray:
    axes = np.indices((size,) * 3) - (size - 1) / 2
    return (axes**2).sum(axis=0) < radius**2


def signed_volume(mesh: Mesh) -> float:
    """By the divergence theorem; positive where triangles are turned outwards."""
    a, b, c = mesh.vertices_mm[mesh.triangles].astype(float).transpose(1, 0, 2)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


@pytest.mark.parametrize("diagonal", [(1, 1, 1, 1), (-1, 1, 2, 1), (0.5, -0.5, -3, 1)])
def test_a_ball_keeps_its_volume_on_any_grid(diagonal):
    mask, affine = ball(14, 40), np.diag(np.array(diagonal, float))
    expected = mask.sum() * abs(np.linalg.det(affine))
    assert signed_volume(surface(mask, affine)) == pytest.approx(expected, rel=0.01)


def test_a_ball_is_round():
    mesh = surface(ball(14, 40), np.eye(4))
    radii = np.linalg.norm(mesh.vertices_mm - 19.5, axis=1)
    assert radii.mean() == pytest.approx(14, abs=0.15)
    assert radii.std() < 0.2  # the voxels' corners alone would give 0.29


def test_decimation_keeps_to_its_budget_and_to_the_shape():
    mask = ball(14, 40)
    mesh = surface(mask, np.eye(4), max_triangles=1200)
    assert 300 < len(mesh.triangles) <= 1200
    assert signed_volume(mesh) == pytest.approx(mask.sum(), rel=0.08)
    assert mesh.vertices_mm.mean(axis=0) == pytest.approx([19.5] * 3, abs=0.5)


def test_one_voxel_has_a_surface_around_its_centre():
    mask = np.zeros((5, 6, 7), bool)
    mask[2, 3, 4] = True
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (10, 0, 0)
    mesh = surface(mask, affine)
    assert len(mesh.triangles) == 12
    assert mesh.vertices_mm.mean(axis=0) == pytest.approx([14, 6, 8], abs=1e-4)
    assert signed_volume(mesh) > 0.1


def test_an_empty_mask_has_no_triangles():
    assert surface(np.zeros((3, 3, 3), bool), np.eye(4)).triangles.shape == (0, 3)


@settings(max_examples=40, deadline=None)
@given(arrays(bool, st.tuples(*[st.integers(1, 6)] * 3)))
def test_surfaces_are_closed(mask):
    """Every edge is walked as often one way as the other, so no mask leaves a hole, whatever it touches."""
    triangles = surface(mask, np.eye(4)).triangles
    walked: dict[tuple[int, int], int] = {}
    for a, b, c in triangles.tolist():
        for edge in ((a, b), (b, c), (c, a)):
            key, step = (edge, 1) if edge[0] < edge[1] else (edge[::-1], -1)
            walked[key] = walked.get(key, 0) + step
    assert not any(walked.values())
    assert bool(len(triangles)) == bool(mask.any())


def test_joined_voxels_lie_where_they_were():
    mask = np.zeros((8, 8, 8), bool)
    mask[4:8, 2:6, 0:2] = True
    joined, affine = coarsened(mask, np.eye(4), factors=(2, 2, 2))
    centre = affine @ [*np.argwhere(joined).mean(axis=0), 1]
    assert centre[:3] == pytest.approx(np.argwhere(mask).mean(axis=0))


def test_a_mask_that_joining_would_lose_is_kept():
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    assert coarsened(mask, np.eye(4), factors=(3, 3, 3))[0].sum() == 1
