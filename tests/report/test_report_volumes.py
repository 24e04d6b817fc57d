"""Cases made ready to be looked at: where voxels lie, what is cut, which grey they get."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from medseg3d.report.volumes import (
    Grid,
    canonical,
    encode_sheet,
    grey_levels,
    indexed,
    onto_grid,
    reduced,
    windows,
)


def grid_with_a_point(affine: np.ndarray, at: tuple[int, int, int], shape=(10, 12, 14)) -> Grid:
    label = np.zeros(shape, np.uint8)
    label[at] = 1
    return Grid(label.astype(float), {"reference": label, "prediction": label}, affine)


def place(grid: Grid) -> np.ndarray:
    (at,) = np.argwhere(grid.maps["reference"])
    return (grid.affine @ [*at, 1])[:3]


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_turning_axes_moves_nothing(signs, order):
    affine = np.eye(4)
    affine[:3, :3] = (np.diag(signs) * [1.0, 2.0, 3.0])[list(order)]
    affine[:3, 3] = (5, -7, 11)
    before = grid_with_a_point(affine, (2, 3, 4))
    after = canonical(before)
    assert place(after) == pytest.approx(place(before))
    turned = after.affine[:3, :3]
    assert (np.diag(turned) > 0).all()
    assert np.count_nonzero(turned) == 3


def test_a_small_grid_stays_whole():
    grid = grid_with_a_point(np.eye(4), (2, 3, 4))
    assert reduced(grid, max_voxels=10 * 12 * 14) is grid


def test_a_large_grid_is_cut_to_the_labels_and_25_mm():
    grid = grid_with_a_point(np.eye(4), (100, 60, 10), shape=(200, 70, 20))
    cut = reduced(grid, max_voxels=51 * 36 * 20)
    assert cut.shape == (51, 35, 20)  # 25 mm on both sides of one voxel, up to where the grid ends
    assert place(cut) == pytest.approx([100, 60, 10])


def test_what_is_still_too_large_is_joined_finest_axis_first():
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    label = np.ones((40, 40, 20), np.uint8)
    small = reduced(Grid(np.full(label.shape, 7.0), {"reference": label}, affine), max_voxels=20 * 20 * 20)
    assert small.shape == (20, 20, 20)
    assert small.spacing_mm == (1.0, 1.0, 2.0)
    assert np.all(small.image == 7)
    assert small.affine @ [0, 0, 0, 1] == pytest.approx([0.25, 0.25, 0, 1])


def test_soft_tissue_is_kept_to_two_hounsfield_units():
    image = np.linspace(-1024, 2000, 30_000).reshape(100, 100, 3)
    levels, values = grey_levels(image)
    error = np.abs(values[levels] - image)
    assert levels.dtype == np.uint8
    assert error[(image > -240) & (image < 340)].max() < 2
    assert error.max() < 20
    assert windows(image)[0] == {"name": "Soft tissue", "low": -160.0, "high": 240.0}


def test_other_images_get_percentiles():
    image = np.random.default_rng(0).normal(1000, 200, (30, 30, 30))
    image[0, 0, 0], image[0, 0, 1] = 1e9, np.nan
    levels, values = grey_levels(image)
    assert values[-1] < 2000
    assert levels[0, 0, 0] == 255
    assert windows(image)[0]["name"] == "1–99 %"
    assert windows(image)[0]["low"] == pytest.approx(1000 - 2.326 * 200, abs=25)


@pytest.mark.parametrize("image", [np.full((4, 4, 4), 3.0), np.full((4, 4, 4), np.nan)])
def test_images_without_contrast_can_be_drawn(image):
    _, values = grey_levels(image)
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0).all()
    assert windows(image)[0]["high"] > windows(image)[0]["low"]


def test_ids_become_places_and_unknown_ones_background():
    assert indexed(np.array([0, 3, 7, 9]), [3, 9]).tolist() == [0, 1, 0, 2]


def test_a_sheet_holds_the_slices_row_by_row():
    volume = np.random.default_rng(0).integers(0, 256, (5, 4, 7)).astype(np.uint8)
    sheet = encode_sheet(volume, max_bytes=10_000)
    assert sheet.url.startswith("data:image/png;base64,")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.url.split(",")[1]))))
    for z in range(7):
        row, column = divmod(z, sheet.columns)
        tile = picture[4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
        assert np.array_equal(tile, volume[:, :, z].T)


def test_a_sheet_without_room_for_png_is_jpeg():
    volume = np.random.default_rng(0).normal(128, 20, (64, 64, 32)).astype(np.uint8)
    sheet = encode_sheet(volume, max_bytes=70_000)
    assert sheet.url.startswith("data:image/jpeg;base64,")
    assert len(sheet.url) < 70_000 * 4 / 3 + 40


def test_resampling_puts_voxels_at_their_place():
    fine = np.zeros((8, 8, 8), np.uint8)
    fine[4, 2, 6] = 5
    coarse = onto_grid(fine, np.eye(4), like=np.diag([2.0, 2.0, 2.0, 1.0]), shape=(4, 4, 4), linear=False)
    assert np.argwhere(coarse).tolist() == [[2, 1, 3]]
    assert coarse.max() == 5
