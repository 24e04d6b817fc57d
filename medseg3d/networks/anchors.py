"""Anchors of a detector as part of its weights, and their fit to the boxes of a data set."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from medseg3d.boxes import scale_boxes
from medseg3d.errors import DataListError

__all__ = ["Anchors", "best_overlaps", "cluster_shapes", "fit_anchors"]

logger = logging.getLogger("medseg3d")

ROUNDS, STARTS = 100, 5  # of the clustering; a start settles in about ten rounds


class Anchors(AnchorGenerator):
    """torchvision's anchor generator with any shapes at each level, kept in a buffer.

    So the state dict holds the anchors that a network was trained with, and weights cannot be run with others. The
    anchors are float32 under autocast too: bfloat16 places a corner at 300 only to within 2 pixels.

    Args:
        shapes: for each level, finest first, the (width, height) in pixels of the anchors in each of its cells.
        steps: pixels between the cells of each level, the first half a step from the image's corner, as in SSD. None
            takes them from the maps' sizes and puts the first cell at the corner, as torchvision's other detectors do.
    """

    # TorchScript reads these; it finds no type in an empty list.
    cell_anchors: list[Tensor]
    steps: list[float]
    shapes: Tensor

    def __init__(self, shapes: Sequence[Sequence[tuple[float, float]]], steps: Sequence[float] | None = None) -> None:
        super().__init__()
        self.counts = [len(level) for level in shapes]
        self.steps = [float(step) for step in steps or ()]
        self.register_buffer("shapes", torch.tensor([shape for level in shapes for shape in level]))
        self.set_cell_anchors(torch.float32, torch.device("cpu"))

    def num_anchors_per_location(self) -> list[int]:
        return self.counts

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        half = self.shapes.to(device=device) / 2
        self.cell_anchors = list(torch.cat([-half, half], dim=1).split(self.counts))

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        anchors: list[Tensor] = []
        for level, cell in enumerate(self.cell_anchors):
            rows = torch.arange(grid_sizes[level][0], dtype=torch.float32, device=cell.device)
            columns = torch.arange(grid_sizes[level][1], dtype=torch.float32, device=cell.device)
            if len(self.steps) > 0:
                rows, columns = (rows + 0.5) * self.steps[level], (columns + 0.5) * self.steps[level]
            else:
                rows, columns = rows * strides[level][0], columns * strides[level][1]
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            centres = torch.stack([x, y, x, y], dim=2).reshape(-1, 1, 4)
            anchors.append((centres + cell).reshape(-1, 4))
        return anchors


def fit_anchors(network: nn.Module, targets: Sequence[Mapping[str, Any]], *, seed: int = 0) -> NDArray[np.float64]:
    """Give a network anchors of the shapes that boxes have, and log how well they cover them.

    The boxes are clustered by intersection over union (Redmon and Farhadi, YOLO9000, 2017); the smallest clusters go to
    the finest level. A network without anchor boxes (FCOS) keeps its grid. Call it before a run is resumed, as bundles
    do: a checkpoint holds the anchors that it was trained with.

    Args:
        network: a detector; changed in place.
        targets: mappings with ``boxes`` (n, 4), xyxy in pixels of the ``image`` (channel, row, column) that the network
            is given; only SSDs, which resize images themselves, need to know that.
        seed: of the clustering's first centres.

    Returns:
        (anchors, 2): widths and heights.

    Raises:
        DataListError: there is no box to fit.
    """
    anchors = next(module for module in network.modules() if isinstance(module, Anchors))
    if set(anchors.counts) == {1}:
        return anchors.shapes.numpy().astype(np.float64)
    side = getattr(network.transform, "fixed_size", None)
    boxes = np.concatenate([_boxes_as_seen(target, side) for target in targets])
    if not len(boxes):
        raise DataListError("No training image has a box: there is nothing to fit anchors to, and nothing to learn.")
    sizes = boxes[:, 2:] - boxes[:, :2]
    before = best_overlaps(sizes, anchors.shapes.numpy()).mean()
    shapes = cluster_shapes(sizes, len(anchors.shapes), seed=seed)
    anchors.shapes.copy_(torch.from_numpy(shapes))
    after = best_overlaps(sizes, shapes).mean()
    logger.info("Anchors fitted to %d boxes: mean overlap with the best anchor %.2f, was %.2f.",
                len(boxes), after, before)  # fmt: skip
    return shapes


def _boxes_as_seen(target: Mapping[str, Any], fixed_size: Sequence[int] | None) -> NDArray[np.float64]:
    """Boxes in pixels of the network's own grid: SSDs bring every image to one size (width, height)."""
    boxes = np.asarray(target["boxes"], dtype=np.float64).reshape(-1, 4)
    if fixed_size is None:
        return boxes
    rows, columns = target["image"].shape[-2:]
    scaled = scale_boxes(boxes, factor_xy=(fixed_size[0] / columns, fixed_size[1] / rows))
    return np.asarray(scaled, dtype=np.float64)


def cluster_shapes(sizes: NDArray[np.float64], count: int, *, seed: int = 0) -> NDArray[np.float64]:
    """``count`` shapes that boxes of these (width, height) overlap most on average, by rising area.

    k-means with 1 − IoU as distance and medians as centres, begun by k-means++; the best of several starts. With fewer
    different boxes than ``count`` some shapes repeat.
    """
    rng = np.random.default_rng(seed)
    tries = [_cluster(sizes, _spread(sizes, count, rng)) for _ in range(STARTS)]
    best = max(tries, key=lambda centres: best_overlaps(sizes, centres).mean())
    return best[np.argsort(best.prod(axis=1), kind="stable")]


def _spread(sizes: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """First centres: boxes drawn with the more probability the less the centres before them overlap them."""
    centres = sizes[[rng.integers(len(sizes))]]
    while len(centres) < count:
        distances = 1 - best_overlaps(sizes, centres)
        total = distances.sum()
        chosen = rng.choice(len(sizes), p=distances / total) if total > 0 else rng.integers(len(sizes))
        centres = np.vstack([centres, sizes[chosen]])
    return centres


def _cluster(sizes: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    for _ in range(ROUNDS):
        nearest = _overlaps(sizes, centres).argmax(axis=1)
        moved = np.array([
            np.median(sizes[nearest == k], axis=0) if (nearest == k).any() else centre
            for k, centre in enumerate(centres)
        ])  # fmt: skip
        if np.allclose(moved, centres):
            break
        centres = moved
    return centres


def best_overlaps(sizes: NDArray[Any], shapes: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of each (width, height) with its best shape, both about one centre.

    >>> best_overlaps(np.array([[2.0, 2.0]]), np.array([[2.0, 1.0], [8.0, 8.0]])).tolist()
    [0.5]
    """
    return _overlaps(sizes, shapes).max(axis=1)


def _overlaps(sizes: NDArray[Any], shapes: NDArray[Any]) -> NDArray[np.float64]:
    intersection = np.minimum(sizes[:, None], shapes[None]).prod(axis=2)
    union = sizes.prod(axis=1)[:, None] + shapes.prod(axis=1)[None] - intersection
    return np.asarray(intersection / np.maximum(union, 1e-12), dtype=np.float64)
