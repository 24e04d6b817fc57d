"""Montages: which way up, at which proportions, and in which colours."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb as colour
from matplotlib.figure import Figure

from medseg3d.report.figures import PALETTE, CasePicture, case_panel, label_colours, montage, to_rgb

SHAPE = (20, 24, 16)
LABELS = {"liver": 1, "left_kidney": 3}
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


def picture(*, reference: bool = True, spacing_mm=(1.0, 1.0, 1.0), title: str = "case_7") -> CasePicture:
    label = np.zeros(SHAPE, np.uint8)
    label[8:12, 10:14, 6:10] = 1
    return CasePicture(title, np.zeros(SHAPE), label if reference else None, label, spacing_mm, window=(0, 1))


def drawn(image: np.ndarray, plane: str, spacing_mm=(1.0, 1.0, 1.0)) -> np.ndarray:
    """Mean brightness of one plane of a rendered case, as it appears on the screen: first row on top."""
    case = CasePicture("", image, None, np.zeros(SHAPE, np.uint8), spacing_mm, window=(0, 1))
    figure = montage([case], labels=LABELS)
    axes = figure.axes[PLANES[plane]]
    for text in axes.texts:  # the letters of the sides are bright as well
        text.set_visible(False)
    rendered = to_rgb(figure)
    box = axes.get_window_extent()
    top, bottom = rendered.shape[0] - int(box.y1), rendered.shape[0] - int(box.y0)
    return rendered[top:bottom, int(box.x0) : int(box.x1)].mean(axis=2)


def bright_quarter(shown: np.ndarray) -> tuple[str, str]:
    rows, columns = np.array_split(shown, 2, axis=0), np.array_split(shown, 2, axis=1)
    return (
        "top" if rows[0].mean() > rows[1].mean() else "bottom",
        "left" if columns[0].mean() > columns[1].mean() else "right",
    )


# In RAS+ arrays the high end of the axes is right, anterior and superior.
@pytest.mark.parametrize(
    ("plane", "block", "where"),
    [
        ("axial", np.s_[15:, 18:, :], ("top", "left")),  # right, anterior
        ("axial", np.s_[:5, 18:, :], ("top", "right")),  # left, anterior
        ("axial", np.s_[15:, :6, :], ("bottom", "left")),  # right, posterior
        ("coronal", np.s_[15:, :, 12:], ("top", "left")),  # right, superior
        ("coronal", np.s_[:5, :, :4], ("bottom", "right")),  # left, inferior
        ("sagittal", np.s_[:, 18:, 12:], ("top", "left")),  # anterior, superior
        ("sagittal", np.s_[:, :6, :4], ("bottom", "right")),  # posterior, inferior
    ],
)
def test_planes_are_shown_in_the_radiological_convention(plane, block, where):
    image = np.zeros(SHAPE)
    image[block] = 1
    shown = drawn(image, plane)
    assert shown.max() > 250
    assert bright_quarter(shown) == where


@pytest.mark.parametrize(("plane", "letter"), [("sagittal", "A"), ("coronal", "R"), ("axial", "R")])
def test_the_viewers_left_side_is_named(plane, letter):
    axes = montage([picture()], labels=LABELS).axes[PLANES[plane]]
    assert [text.get_text() for text in axes.texts] == [letter]
    assert axes.texts[0].get_position()[0] < 0.1


@pytest.mark.parametrize(
    ("plane", "height_by_width"), [("sagittal", 16 * 3 / (24 * 2)), ("coronal", 16 * 3 / 20), ("axial", 24 * 2 / 20)]
)
def test_proportions_are_those_in_millimetres(plane, height_by_width):
    shown = drawn(np.ones(SHAPE), plane, spacing_mm=(1.0, 2.0, 3.0))
    assert shown.shape[0] / shown.shape[1] == pytest.approx(height_by_width, rel=0.05)


def test_a_case_has_rows_for_image_reference_and_prediction():
    figure = montage([picture(), picture(reference=False)], labels=LABELS)
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert names == ["image", "reference", "prediction", "image", "prediction"]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["sagittal", "case_7\ncoronal", "axial"]
    assert len(figure.axes) == 15


def test_a_montage_is_drawn_with_its_labels_colours():
    rendered = to_rgb(montage([picture()], labels=LABELS, dpi=60))
    assert rendered.dtype == np.uint8
    assert rendered.shape == (int((2.1 * 3 + 0.8) * 60), 9 * 60, 3)
    # Labels cover black by 55 % of their colour; only those of reference and prediction, not of the image.
    cover = np.round(255 * 0.55 * np.array(colour(PALETTE[0])))
    found = np.abs(rendered.astype(int) - cover).max(axis=2) <= 1
    thirds = [part.sum() for part in np.array_split(found, 3)]
    assert thirds[0] < 0.02 * thirds[1]
    assert thirds[1] == pytest.approx(thirds[2], rel=0.3)


def test_the_slices_are_those_with_most_of_the_label():
    image, label = np.zeros(SHAPE), np.zeros(SHAPE, np.uint8)
    label[3:5, 2, 11] = 1
    label[3, 2:6, 11] = 1
    image[3] = 1
    axes = case_panel(image, None, label, labels=LABELS).axes[0]
    assert np.asarray(axes.images[0].get_array()).min() == 1


@pytest.mark.parametrize("reference", [None, np.zeros(SHAPE, np.uint8)])
def test_cases_without_a_labelled_voxel_show_their_middle(reference):
    image = np.zeros(SHAPE)
    image[SHAPE[0] // 2] = 1
    case = CasePicture("", image, reference, np.zeros(SHAPE, np.uint8), window=(0, 1))
    figure = montage([case], labels=LABELS)
    assert isinstance(figure, Figure)
    assert np.asarray(figure.axes[0].images[0].get_array()).min() == 1


def test_without_a_window_grey_levels_are_percentiles():
    image = np.random.default_rng(0).normal(1000, 200, SHAPE)
    image[0, 0, 0] = 1e9
    axes = case_panel(image, None, np.zeros(SHAPE, np.uint8), labels=LABELS).axes[0]
    grey = np.asarray(axes.images[0].get_array())
    assert grey.min() < 0.1
    assert grey.max() > 0.9
    assert grey.mean() == pytest.approx(0.5, abs=0.05)


def test_a_flat_image_is_drawn():
    assert to_rgb(case_panel(np.full(SHAPE, 7.0), None, np.zeros(SHAPE, np.uint8), labels=LABELS)).any()


def test_colours_are_stable_and_told_apart():
    colours = label_colours({"b": 2, "a": 1, "c": 9})
    assert colours == label_colours({"c": 9, "renamed": 1, "b": 2})
    assert [colours[i] for i in (1, 2, 9)] == [colour(c) for c in PALETTE[:3]]
    assert len(set(label_colours({str(i): i for i in range(1, 9)}).values())) == 8
    assert len(label_colours({str(i): i for i in range(1, 31)})) == 30
