"""TorchIO's artefacts under MONAI's seeds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

__all__ = ["RandTorchIOd"]


class RandTorchIOd(RandomizableTransform, MapTransform):
    """Apply one of TorchIO's random intensity transforms with a probability, seeded as MONAI's are.

    TorchIO draws from torch's global random state, which knows neither MONAI's seeds nor other workers. Here that
    state is set from this transform's own generator, and put back afterwards.

    Args:
        keys: images of shape (channel, i, j, k); each is changed alike.
        transform: for example ``torchio.RandomMotion()``; it must keep shape and position.
        prob: probability of applying it to a sample.

    Source: Pérez-García et al. 2021, TorchIO.
    """

    def __init__(
        self, keys: KeysCollection, transform: Callable, prob: float = 0.1, allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.transform = transform
        self.seed = 0

    def randomize(self, data: Any = None) -> None:
        super().randomize(None)
        self.seed = int(self.R.randint(2**31 - 1))

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        sample = dict(data)
        self.randomize()
        if not self._do_transform:
            return sample
        for key in self.key_iterator(sample):
            with torch.random.fork_rng(devices=[]):
                # torch.manual_seed would seed the GPU's generators too, which are not put back.
                torch.default_generator.manual_seed(self.seed)
                changed = torch.as_tensor(self.transform(torch.as_tensor(sample[key])))
            sample[key] = changed.to(sample[key].dtype)
        return sample
