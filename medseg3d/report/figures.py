"""Figures: a case in three planes, image beside reference and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

__all__ = ["CasePicture", "case_panel", "label_colours", "montage", "to_rgb"]

PLANES = ("sagittal", "coronal", "axial")
# Okabe and Ito's seven colours, then those that lie farthest from all before them in CIELAB, seen with normal vision,
# protanopia and deuteranopia (Machado et al. 2009). All are bright enough for a black picture and, with an outline,
# dark enough for a white page.
PALETTE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#5A3CFF", "#00FF96", "#7878FF",
    "#D2003C", "#A5F0D2", "#3CF0FF", "#F0965A", "#D200B4", "#2D7878", "#00D296", "#5A96F0", "#5A693C", "#B4F069",
)  # fmt: skip


@dataclass(frozen=True)
class CasePicture:
    """One case for a montage.

    Attributes:
        title: shown above the case's row.
        image, reference, prediction: arrays of one shape in RAS+ axis order; ``reference`` may be None.
        spacing_mm: voxel size along the three axes.
        window: intensities shown as black and white; percentiles 1 and 99 of the image when None.
    """

    title: str
    image: NDArray[np.floating]
    reference: NDArray[np.integer] | None
    prediction: NDArray[np.integer]
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)
    window: tuple[float, float] | None = None


def label_colours(labels: Mapping[str, int]) -> dict[int, tuple[float, float, float]]:
    """A colour for each label id, the same wherever the same labels are shown; the 21st label starts over."""
    from matplotlib.colors import to_rgb as colour

    return {label: colour(PALETTE[i % len(PALETTE)]) for i, label in enumerate(sorted(labels.values()))}


def case_panel(
    image: NDArray[np.floating],
    reference: NDArray[np.integer] | None,
    prediction: NDArray[np.integer],
    *,
    labels: Mapping[str, int],
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> Figure:
    """One case: rows image, reference and prediction; columns sagittal, coronal and axial planes through the labels."""
    return montage([CasePicture("", image, reference, prediction, spacing_mm)], labels=labels, dpi=60)


def montage(cases: Sequence[CasePicture], *, labels: Mapping[str, int], dpi: int = 110) -> Figure:
    """Cases below each other, each with its three planes as image, reference and prediction."""
    rows_a_case = [2 + (case.reference is not None) for case in cases]
    figure = Figure(figsize=(9.0, 2.1 * sum(rows_a_case) + 0.8), dpi=dpi, facecolor="black", layout="constrained")
    axes = figure.subplots(sum(rows_a_case), 3, squeeze=False)
    colours = label_colours(labels)
    row = 0
    for case, rows in zip(cases, rows_a_case, strict=True):
        _draw_case(axes[row : row + rows], case, colours)
        row += rows
    patches = [Patch(color=colours[i], label=name.replace("_", " ")) for name, i in labels.items()]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=min(5, len(patches)), labelcolor="white", frameon=False
    )
    return figure


def to_rgb(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure into an array of shape (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_case(axes: NDArray, case: CasePicture, colours: Mapping[int, tuple[float, float, float]]) -> None:
    low, high = case.window or np.percentile(case.image, (1, 99))
    grey = np.clip((case.image - low) / max(high - low, 1e-6), 0, 1)
    shown = case.reference if case.reference is not None and case.reference.any() else case.prediction
    centre = _centre(shown)
    maps = [("image", None), ("reference", case.reference), ("prediction", case.prediction)]
    rows = [(name, label) for name, label in maps if name != "reference" or label is not None]
    for row, (name, label) in zip(axes, rows, strict=True):
        for axis, plot in enumerate(row):
            _draw_plane(plot, grey, label, axis=axis, index=centre[axis], spacing_mm=case.spacing_mm, colours=colours)
        row[0].set_ylabel(name, color="white")
    for plane, plot in zip(PLANES, axes[0], strict=True):
        heading = f"{case.title}\n{plane}" if plane == "coronal" and case.title else plane
        plot.set_title(heading, color="white", fontsize=9)


def _draw_plane(
    plot: Any,
    grey: NDArray[np.floating],
    label: NDArray[np.integer] | None,
    *,
    axis: int,
    index: int,
    spacing_mm: Sequence[float],
    colours: Mapping[int, tuple[float, float, float]],
) -> None:
    across, up = [s for i, s in enumerate(spacing_mm) if i != axis]
    picture = np.repeat(np.take(grey, index, axis)[..., None], 3, axis=-1)
    if label is not None:
        plane = np.take(label, index, axis)
        for value, colour in colours.items():
            picture[plane == value] = 0.45 * picture[plane == value] + 0.55 * np.array(colour)
    # Radiological convention: the patient's right, or anterior in a sagittal plane, on the viewer's left; superior or
    # anterior up.
    plot.imshow(picture[::-1].transpose(1, 0, 2), origin="lower", aspect=up / across, interpolation="nearest")
    behind = {"facecolor": "black", "edgecolor": "none", "alpha": 0.6, "pad": 1.0}
    side = "A" if axis == 0 else "R"
    plot.text(0.02, 0.5, side, transform=plot.transAxes, color="white", fontsize=7, va="center", bbox=behind)
    plot.set_xticks([])
    plot.set_yticks([])


def _centre(label: NDArray[np.integer]) -> tuple[int, int, int]:
    """Per axis the slice with most labelled voxels; the middle where there are none."""
    foreground = label > 0
    if not foreground.any():
        i, j, k = (n // 2 for n in label.shape)
        return i, j, k
    i, j, k = (int(foreground.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))
    return i, j, k
