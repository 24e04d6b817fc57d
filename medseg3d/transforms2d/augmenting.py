"""Random changes of an image together with its mask and boxes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable

from medseg3d.errors import UsageError
from medseg3d.transforms2d.photometry import blurred, clahe, erased, jittered
from medseg3d.transforms2d.values import value_range_of, with_values
from medseg3d.transforms2d.warping import draw_warp, warp_boxes, warp_image

__all__ = ["RandAugment2Dd"]

Family = Literal["rotation", "scale_crop", "elastic", "grid_distortion", "colour_jitter", "blur", "erasing", "clahe"]
FAMILIES: tuple[Family, ...] = get_args(Family)


class RandAugment2Dd(Randomizable, MapTransform):
    """Augment an image, and its mask and boxes with the same geometry.

    One strength a family, 0 leaves it out. Mirroring, turning, scaling, cropping and bending are one map with one
    interpolation, linear for images and nearest for masks; boxes follow it, are cut to the image, and left out where
    little of them is left. Then the values of the image change. All randomness is this transform's own generator's, so
    that ``SeededCacheDataset`` determines it by (seed, draw).

    Args:
        image_key: image of shape (channel, row, column); its ``meta`` says what values it can have, before or after
            ``NormalizeImaged``.
        mask_key: mask of the same rows and columns.
        boxes_key: boxes (n, 4), xyxy in pixels.
        box_keys: entries with one value a box, left out with it.
        flips: probabilities of mirroring left-right and top-bottom.
        rotation: largest angle in degrees, to either side.
        scale_crop: largest relative change of size, 0.25 for 0.8 to 1.25 times; enlarged, a random part is shown.
        elastic: standard deviation of a smooth deformation, as a share of the longer side; up to 0.02 nothing folds.
        grid_distortion: largest relative stretching of the rows and columns of a 5×5 grid.
        colour_jitter: largest relative change of brightness, contrast and saturation; hue changes by an eighth of it.
        blur: largest standard deviation in pixels.
        erasing: largest share of the area that one rectangle hides.
        clahe: largest clip limit of adaptive histogram equalisation; 2 to 4 are usual.
        prob: probability of each family, or of some by name; flips have their own.
        padding: outside the image: ``"zeros"`` (the least value), ``"border"`` or ``"reflection"``; masks are 0 there
            but for reflection, which mirrors them too and is refused for boxes.
        box_outline: what is followed when a box turns: its ``"corners"``, or the ``"ellipse"`` in it, nearer for cells.
        min_visible: share of a box that must be left for it to be kept.

    Raises:
        UsageError: a name in ``prob`` that is no family, or boxes with reflection.
    """

    def __init__(
        self,
        image_key: str = "image",
        mask_key: str | None = None,
        boxes_key: str | None = None,
        *,
        box_keys: Sequence[str] = ("box_labels", "difficult"),
        flips: Sequence[float] = (0.5, 0.0),
        rotation: float = 0.0,
        scale_crop: float = 0.0,
        elastic: float = 0.0,
        grid_distortion: float = 0.0,
        colour_jitter: float = 0.0,
        blur: float = 0.0,
        erasing: float = 0.0,
        clahe: float = 0.0,
        prob: float | Mapping[str, float] = 0.5,
        padding: Literal["zeros", "border", "reflection"] = "zeros",
        box_outline: Literal["corners", "ellipse"] = "corners",
        min_visible: float = 0.3,
    ) -> None:
        MapTransform.__init__(self, [key for key in (image_key, mask_key, boxes_key) if key])
        self.image_key, self.mask_key, self.boxes_key, self.box_keys = image_key, mask_key, boxes_key, tuple(box_keys)
        self.flips = (float(flips[0]), float(flips[1]))
        self.strengths: dict[Family, float] = {
            "rotation": rotation, "scale_crop": scale_crop, "elastic": elastic, "grid_distortion": grid_distortion,
            "colour_jitter": colour_jitter, "blur": blur, "erasing": erasing, "clahe": clahe,
        }  # fmt: skip
        self.probs = _probabilities(prob)
        if padding == "reflection" and boxes_key:
            raise UsageError("padding is reflection: mirrored objects would have no box. Take zeros or border.")
        self.padding, self.box_outline, self.min_visible = padding, box_outline, min_visible
        self.drawn: dict[Family, float] = dict.fromkeys(FAMILIES, 0.0)
        self.mirrored = (False, False)

    def randomize(self, data: Any = None) -> None:
        """Choose what is applied: as many numbers are drawn whatever is chosen."""
        self.mirrored = (bool(self.R.rand() < self.flips[0]), bool(self.R.rand() < self.flips[1]))
        for family, strength in self.strengths.items():
            self.drawn[family] = strength if self.R.rand() < self.probs[family] else 0.0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        self.randomize()
        self._move(sample)
        sample[self.image_key] = self._recoloured(sample[self.image_key])
        return sample

    def _move(self, sample: dict[Hashable, Any]) -> None:
        image = sample[self.image_key]
        pixels = torch.as_tensor(image).as_subclass(torch.Tensor)
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        warp = draw_warp(
            self.R,
            size,
            flips=self.mirrored,
            rotation_degrees=self.drawn["rotation"],
            scale_crop=self.drawn["scale_crop"],
            elastic=self.drawn["elastic"],
            grid_distortion=self.drawn["grid_distortion"],
        )
        low = value_range_of(image)[0][:, None, None]
        moved = warp_image(pixels - low, warp, padding=self.padding) + low  # outside is 0, the least value
        sample[self.image_key] = with_values(image, moved, value_range_of(image))
        if self.mask_key is not None:
            mask = torch.as_tensor(sample[self.mask_key]).as_subclass(torch.Tensor)
            outside: Literal["zeros", "reflection"] = "reflection" if self.padding == "reflection" else "zeros"
            sample[self.mask_key] = warp_image(mask, warp, nearest=True, padding=outside)
        if self.boxes_key is not None:
            boxes = np.asarray(sample[self.boxes_key], np.float32).reshape(-1, 4)
            self._keep_boxes(sample, warp_boxes(boxes, warp, outline=self.box_outline), size)

    def _keep_boxes(self, sample: dict[Hashable, Any], moved: np.ndarray, size: tuple[int, int]) -> None:
        """Cut boxes to the image, and leave out those of which too little is left, with what belongs to them."""
        limit = np.array([size[1], size[0]] * 2, np.float32)
        cut = np.clip(moved, 0, limit)
        visible = _areas(cut) >= self.min_visible * _areas(moved)
        keep = visible & ((cut[:, 2:] - cut[:, :2]).min(axis=1, initial=np.inf) >= 1)
        sample[self.boxes_key] = _like(sample[self.boxes_key], cut[keep])
        for key in self.box_keys:
            if key in sample:
                sample[key] = _like(sample[key], np.asarray(sample[key])[keep])

    def _recoloured(self, image: torch.Tensor) -> torch.Tensor:
        changes = {"colour_jitter": jittered, "clahe": clahe, "blur": blurred, "erasing": erased}
        chosen = {family: change for family, change in changes.items() if self.drawn[family]}  # type: ignore[index]
        if not chosen:
            return image
        value_range = value_range_of(image)
        low, span = value_range[0][:, None, None], (value_range[1] - value_range[0]).clamp(min=1e-12)[:, None, None]
        pixels = (torch.as_tensor(image).as_subclass(torch.Tensor) - low) / span
        for family, change in chosen.items():
            pixels = change(pixels, self.R, self.drawn[family])  # type: ignore[index]
        return with_values(image, pixels.clamp(0, 1) * span + low, value_range)


def _probabilities(prob: float | Mapping[str, float]) -> dict[Family, float]:
    if not isinstance(prob, Mapping):
        return dict.fromkeys(FAMILIES, float(prob))
    if unknown := sorted(set(prob) - set(FAMILIES)):
        raise UsageError(f"prob names {', '.join(unknown)}; known are {', '.join(FAMILIES)}.")
    return {family: float(prob.get(family, 0.5)) for family in FAMILIES}


def _areas(xyxy: np.ndarray) -> np.ndarray:
    return (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])


def _like(former: Any, values: np.ndarray) -> Any:
    return torch.from_numpy(values) if isinstance(former, torch.Tensor) else values
