"""How a detector is run on an image: at once, or tile by tile where the image is large and its objects are small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torchvision.ops import batched_nms
from torchvision.transforms.v2 import functional

from medseg3d.errors import UsageError

__all__ = ["Tile", "TiledImage", "WholeImage", "tiles_of"]

Found = dict[str, torch.Tensor]
NEAR_BORDER = 0.1  # of an object's sides


class WholeImage:
    """The detections in an image (channel, row, column), given to the network as it is.

    Returns:
        ``boxes`` (n, 4) xyxy in pixels of the image given, ``scores`` and ``labels``, on the CPU.
    """

    def __call__(self, image: torch.Tensor, network: torch.nn.Module) -> Found:
        # Non-maximum suppression has no gradient.
        with torch.no_grad():
            return _on_cpu(network([image])[0])


@dataclass(frozen=True)
class Tile:
    """A piece of an image, and the core of it that no other tile answers for.

    Attributes:
        left, top, right, bottom: of the piece, in pixels.
        core: left, top, right, bottom: detections with their centre in here are this tile's.
    """

    left: int
    top: int
    right: int
    bottom: int
    core: tuple[float, float, float, float]


class TiledImage:
    """The detections in an image that is cut into overlapping tiles.

    Each tile is scaled to the size that the network was trained on. A detection counts where its centre lies in the
    tile's core; the cores divide the image among them. So an object up to as large as the overlap is always seen whole
    by the tile that answers for it. What two tiles still say twice, at the border of their cores, is suppressed.

    Args:
        tile_size: rows and columns of a tile in pixels of the image: the size of images that the network was trained
            on, before scaling.
        image_size: rows and columns that tiles are scaled to, without distortion.
        overlap: of neighbouring tiles, as a share of their sides; 0.25 of a tile should hold the largest object.
        nms_iou: of two detections of a class that overlap more than this the lower-scored is dropped.
        batch_size: tiles at once.
    """

    def __init__(
        self,
        tile_size: Sequence[int],
        image_size: Sequence[int],
        *,
        overlap: float = 0.25,
        nms_iou: float = 0.5,
        batch_size: int = 4,
    ) -> None:
        if not 0 <= overlap < 1 or min(tile_size) < 1:
            raise UsageError(
                f"tile_size is {list(tile_size)} with an overlap of {overlap:g}; wanted are positive sides and a share "
                "of 0 to less than 1."
            )
        self.tile_size = (int(tile_size[0]), int(tile_size[1]))
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.overlap, self.nms_iou, self.batch_size = overlap, nms_iou, batch_size

    def __call__(self, image: torch.Tensor, network: torch.nn.Module) -> Found:
        tiles = list(tiles_of((image.shape[-2], image.shape[-1]), self.tile_size, overlap=self.overlap))
        found: list[Found] = []
        for start in range(0, len(tiles), self.batch_size):
            found += self._in_tiles(image, tiles[start : start + self.batch_size], network)
        together = {key: torch.cat([one[key] for one in found]) for key in ("boxes", "scores", "labels")}
        kept = batched_nms(together["boxes"], together["scores"], together["labels"], self.nms_iou)
        return {key: value[kept] for key, value in together.items()}

    def _in_tiles(self, image: torch.Tensor, tiles: Sequence[Tile], network: torch.nn.Module) -> list[Found]:
        scale = min(self.image_size[0] / self.tile_size[0], self.image_size[1] / self.tile_size[1])
        pieces = [image[:, tile.top : tile.bottom, tile.left : tile.right] for tile in tiles]
        sizes = [[max(1, round(side * scale)) for side in piece.shape[1:]] for piece in pieces]
        scaled = [functional.resize(p, size, antialias=True) for p, size in zip(pieces, sizes, strict=True)]
        with torch.no_grad():
            answers = [_on_cpu(answer) for answer in network(scaled)]
        return [
            _of_core(answer, tile, (piece.shape[2] / size[1], piece.shape[1] / size[0]))
            for answer, tile, piece, size in zip(answers, tiles, pieces, sizes, strict=True)
        ]


def tiles_of(size: tuple[int, int], tile_size: tuple[int, int], *, overlap: float) -> Iterator[Tile]:
    """Tiles that cover an image of ``size`` (rows, columns), the last of a row or column moved back to end at its edge.

    >>> [(t.left, t.right, t.core[0], t.core[2]) for t in tiles_of((10, 25), (10, 10), overlap=0.2)]
    [(0, 10, 0.0, 9.0), (8, 18, 9.0, 16.5), (15, 25, 16.5, 25.0)]
    """
    rows, columns = (list(_spans(n, side, overlap)) for n, side in zip(size, tile_size, strict=True))
    for top, bottom, core_top, core_bottom in rows:
        for left, right, core_left, core_right in columns:
            yield Tile(left, top, right, bottom, (core_left, core_top, core_right, core_bottom))


def _spans(length: int, side: int, overlap: float) -> Iterator[tuple[int, int, float, float]]:
    """Start and end of each tile along one axis, and of its core: borders lie amid the overlaps."""
    step = max(1, round(side * (1 - overlap)))
    starts = [*range(0, max(length - side, 0), step), max(length - side, 0)]
    ends = [min(start + side, length) for start in starts]
    borders = [0.0, *((end + start) / 2 for end, start in zip(ends, starts[1:], strict=False)), float(length)]
    yield from zip(starts, ends, borders, borders[1:], strict=False)


def _of_core(found: Found, tile: Tile, scale_xy: tuple[float, float]) -> Found:
    """A tile's detections in pixels of the image, those whose centre lies in the tile's core."""
    boxes = found["boxes"] * torch.tensor([*scale_xy, *scale_xy])
    boxes = boxes + torch.tensor([tile.left, tile.top] * 2, dtype=boxes.dtype)
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).unbind(dim=1)
    left, top, right, bottom = tile.core
    # Two tiles place the same object a little differently: near a border both answer for it, or each could leave it to
    # the other. What both say is suppressed afterwards.
    near_x, near_y = (NEAR_BORDER * (boxes[:, 2:] - boxes[:, :2])).unbind(dim=1)
    mine = (x >= left - near_x) & (x <= right + near_x) & (y >= top - near_y) & (y <= bottom + near_y)
    return {"boxes": boxes[mine], "scores": found["scores"][mine], "labels": found["labels"][mine]}


def _on_cpu(found: Found) -> Found:
    return {key: value.float().cpu() if value.is_floating_point() else value.cpu() for key, value in found.items()}
