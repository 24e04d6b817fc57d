"""The first stage of a cascade, as a step of the second one's preprocessing."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medseg3d.engines.device import autocast
from medseg3d.errors import CaseError
from medseg3d.inference.cases import read_image_header
from medseg3d.inference.checks import check_values, input_channels, plain
from medseg3d.inference.ensemble import Members, Partner, pool
from medseg3d.inference.grid import ToImageGridd
from medseg3d.options import flag
from medseg3d.transforms.previous import PREVIOUS

__all__ = ["FirstStaged", "first_stage_hashes"]


class FirstStaged(MapTransform):
    """Segment an image by a plan of its own, and put the mask into the case for ``AddPreviousd``.

    First among the preprocessing, before the image is loaded: the plan has a preprocessing of its own. So everything
    that runs a bundle's preprocessing and network runs the whole cascade, without a file in between. The mask is that
    of the mean of the members' probabilities, without corrections, as the masks are that the second stage is trained
    with.

    Args:
        keys: the image, as ``find_cases`` gives it.
        stage: preprocessing, network, inferer and weights of the first stage, for labels that exclude each other.
        device: where the network runs.
        amp: mixed precision, see ``medseg3d.engines.autocast``.
        allow_missing_keys: skip keys that are not there.

    Raises:
        CheckpointError: weights are missing or of another network.
    """

    def __init__(
        self,
        keys: KeysCollection,
        stage: Partner,
        *,
        device: torch.device | str = "cpu",
        amp: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.stage = stage
        self.device, self.amp = torch.device(device), flag(amp, "amp")
        copies = bool(getattr(stage.inferer, "compile", False))
        self.members = Members(stage.network, stage.weights, copies=copies).to(self.device)
        self.to_image_grid = ToImageGridd(PREVIOUS)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[PREVIOUS] = self._mask(sample, key)
        return sample

    def _mask(self, sample: Mapping[Hashable, Any], key: Hashable) -> torch.Tensor:
        self._require_channels(sample[key])
        alone: dict[Any, Any] = {key: sample[key]}
        prepared: dict[Any, Any] = self.stage.preprocessing(alone)
        image = prepared[key]
        check_values(image, sample[key])
        logits = pool((self._logits(image, network) for network in self.members), exclusive=True).logits
        # In main memory: the GPU belongs to the second stage, which may be at work on another case.
        mask: torch.Tensor = self.to_image_grid({"image": image, PREVIOUS: logits.cpu()})[PREVIOUS]
        return mask

    def _logits(self, image: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        # Autocast keeps the weights that it has cast as long as it lasts: for each member it begins anew.
        with torch.no_grad(), autocast(self.device, enabled=self.amp):
            return plain(self.stage.inferer(plain(image)[None].float(), network))[0]

    def _require_channels(self, image: Any) -> None:
        wanted = input_channels(self.stage.network)
        if isinstance(image, torch.Tensor) or wanted is None:
            return  # of an image in memory the network says so itself
        found = read_image_header(image).channels
        if found != wanted:
            raise CaseError(f"The image has {found} channel(s), the first stage's network takes {wanted}.")


def first_stage_hashes(preprocessing: Any) -> list[str]:
    """SHA-256 of the weights that a preprocessing makes masks with; none where it has no first stage."""
    steps = getattr(preprocessing, "transforms", ())
    return [sha256 for step in steps if isinstance(step, FirstStaged) for sha256 in step.members.hashes]
