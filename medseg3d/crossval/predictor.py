"""Probabilities of one trained fold, on the image's own grid."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from medseg3d.engines.device import autocast
from medseg3d.engines.memory import keep_freed_memory
from medseg3d.errors import ConfigError
from medseg3d.inference.checks import plain
from medseg3d.inference.ensemble import as_logits, as_probabilities, stand_in
from medseg3d.inference.grid import map_to_image_grid, probabilities_on_grid
from medseg3d.inference.weights import load_weights

__all__ = ["Answer", "Predictor", "labels_of_mean", "parsed"]

Decoder = Callable[[dict[str, Any]], dict[str, Any]]

SLAB_VOXELS = 4_000_000
"""Of so many voxels at a time labels are made."""


@dataclass(frozen=True)
class Answer:
    """What one configuration says of a case.

    Attributes:
        probabilities: (channel, x, y, z) on the image's own grid, in half precision.
        image: stands for the image on that grid, for the post-processing.
    """

    probabilities: torch.Tensor
    image: torch.Tensor


class Predictor:
    """A fold's network with the preprocessing and the inferer of its configuration.

    Args:
        config: see ``inference_config``.
        bundle: its folder.
        weights: of the fold.
        device: where to compute; None leaves it to the configuration.

    Raises:
        CheckpointError: the weights are missing or of another network.
        ConfigError: the configuration has no such parts.
    """

    def __init__(self, config: Mapping[str, Any], *, bundle: Path, weights: Path, device: str | None = None) -> None:
        parser = parsed(config, bundle=bundle, device=device)
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.network: torch.nn.Module = parser.get_parsed_content("network")
        self.inferer: Any = parser.get_parsed_content("inferer")
        self.decode: Decoder = _decoder(parser.get_parsed_content("postprocessing"))
        self.flip_axes: tuple[int, ...] = tuple(parser.get_parsed_content("flip_axes")) if "flip_axes" in parser else ()
        self.exclusive = not (parser.get_parsed_content("regions") if "regions" in parser else None)
        self.device = torch.device(parser.get_parsed_content("device"))
        self.amp = bool(parser.get_parsed_content("amp")) if "amp" in parser else True
        self.sha256 = load_weights(self.network, weights)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.network.to(self.device).eval()

    @property
    def can_mirror(self) -> bool:
        """Whether the network was trained on mirror images, and the inferer can average over them."""
        return bool(self.flip_axes) and hasattr(self.inferer, "mirror_axes")

    def load(self, item: Mapping[str, Any]) -> torch.Tensor:
        """The preprocessed image of a case."""
        image: torch.Tensor = self.preprocessing(dict(item))["image"]
        return image

    def answer(self, image: torch.Tensor, *, mirrored: bool = False) -> Answer:
        """Probabilities of a preprocessed image, averaged over its mirror images or not."""
        inferer = self.inferer
        if mirrored:
            inferer = copy.copy(self.inferer)
            inferer.mirror_axes = tuple(sorted(set(self.flip_axes)))
        with torch.no_grad(), autocast(self.device, enabled=self.amp):
            logits = plain(inferer(plain(image)[None].float(), self.network))[0]
        probabilities = as_probabilities(logits.cpu(), exclusive=self.exclusive)
        grid_map = map_to_image_grid(image)
        result = torch.empty((len(probabilities), *grid_map.target_shape), dtype=torch.float16)
        channels = probabilities_on_grid(probabilities, grid_map, exclusive=self.exclusive)
        for place, channel in zip(result, channels, strict=True):
            place.copy_(channel)
        return Answer(result, stand_in(image))

    def labels_of(self, parts: Sequence[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """The label map that ``parts`` make together, without any correction; see ``labels_of_mean``."""
        return labels_of_mean(parts, image, self.decode, exclusive=self.exclusive)


def labels_of_mean(
    parts: Sequence[torch.Tensor], image: torch.Tensor, decode: Decoder, *, exclusive: bool
) -> torch.Tensor:
    """The label map (x, y, z) of the mean of probabilities (channel, x, y, z) on the image's own grid.

    Computed slab by slab: in single precision, all channels of a whole CT would take as much memory as two or three
    plans' answers.

    Args:
        parts: one a plan.
        image: as in ``Answer``.
        decode: the first transform of the post-processing, which makes labels of logits.
        exclusive: whether labels exclude each other.
    """
    whole = tuple(parts[0].shape[1:])
    thickness = max(1, SLAB_VOXELS // math.prod(whole[1:]))
    labels = []
    for start in range(0, whole[0], thickness):
        slabs = [part[:, start : start + thickness].float() for part in parts]
        mean = torch.stack(slabs).mean(dim=0)
        shape = tuple(mean.shape[1:])
        # Image and file share their grid here, and so do their slabs, wherever these begin.
        meta = {"original_affine": image.affine, "spatial_shape": shape}  # type: ignore[attr-defined]
        grid = MetaTensor(torch.zeros(1).expand(1, *shape), affine=image.affine, meta=meta)  # type: ignore[attr-defined]
        labels.append(plain(decode({"image": grid, "pred": as_logits(mean, exclusive=exclusive)})["pred"])[0])
    return torch.cat(labels)


def parsed(config: Mapping[str, Any], *, bundle: Path, device: str | None = None, **values: Any) -> Any:
    """MONAI's parser over a configuration of ``bundle``; ``values`` replace ids of it."""
    from monai.bundle import ConfigParser

    content = copy.deepcopy(dict(config)) | {"bundle_root": str(bundle)} | values
    if device is not None:
        content["device"] = f"$__import__('torch').device('{device}')"
    return ConfigParser(content)


def _decoder(postprocessing: Any) -> Decoder:
    transforms = getattr(postprocessing, "transforms", ())
    if not transforms:
        raise ConfigError("The bundle's inference.yaml has no postprocessing::transforms, of which the first makes "
                          "labels of logits. Write it so, as the other bundles do.")  # fmt: skip
    decoder: Decoder = transforms[0]
    return decoder
