"""The mask of a first network as one more channel of the image, for the second stage of a cascade."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, ResampleToMatch

from medseg3d.errors import CaseError, ConfigError, GeometryError
from medseg3d.geometry import grid_distance_mm
from medseg3d.transforms.loading import LoadVolumed
from medseg3d.volume import GRID_TOLERANCE_MM, case_name

__all__ = ["PREVIOUS", "PREVIOUS_CHANNELS", "AddPreviousd"]

PREVIOUS = "previous"
"""Entry of a case with the mask of an earlier network, of shape (1, x, y, z) on the grid of the image's file."""

PREVIOUS_CHANNELS = "previous_channels"
"""Entry that says how many of the image's last channels hold label ids, for ``medseg3d.spatial.RandSpatialPatchd``."""


class AddPreviousd(MapTransform):
    """Normalise an image, and append the mask of an earlier network to it as a last channel of label ids.

    The mask is the case's entry ``previous`` where there is one (``medseg3d.inference.FirstStaged`` makes it), else the
    file ``<folder>/<case>.nii.gz``. It lies on the grid of the image's file, as every mask does, and is brought to the
    image's grid by nearest neighbour: put this behind ``Orientationd`` and ``Spacingd``.

    Ids, and not yet a channel a label: patches and windows are cut and turned with one channel, and
    ``medseg3d.networks.WithPrevious`` makes the channels of it.

    Args:
        keys: images that know the grid of their file, as ``LoadVolumed`` loads them.
        labels: name → id; a mask with another id is refused.
        folder: where masks are; None if the case has its own.
        normalize: applied to the case first, so that it does not see the mask.
        allow_missing_keys: skip keys that are not there.

    Raises:
        CaseError: there is no mask of a case, or it cannot be read.
        GeometryError: a mask on another grid than its image.
        ConfigError: there is neither a folder nor an entry.
    """

    def __init__(
        self,
        keys: KeysCollection,
        labels: Mapping[str, int],
        folder: str | Path | None = None,
        *,
        normalize: Callable[[Any], Any] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.folder = None if folder is None else Path(folder)
        self.normalize = normalize
        self.load = LoadVolumed(PREVIOUS, label_keys=PREVIOUS, labels=labels)
        self.resample = ResampleToMatch(mode="nearest", padding_mode="border", dtype=np.float32)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same case; ``previous_channels`` is 1 then."""
        sample = dict(data)
        if self.normalize is not None:
            sample = dict(self.normalize(sample))
        for key in self.key_iterator(sample):
            image = sample[key]
            mask = self._mask(sample, image)
            on_grid = torch.as_tensor(self.resample(mask.float(), image)).as_subclass(torch.Tensor)
            both = torch.cat([image.as_tensor(), on_grid.to(image.dtype)])
            sample[key] = MetaTensor(both, meta=image.meta, applied_operations=image.applied_operations)
        sample.pop(PREVIOUS, None)
        return sample | {PREVIOUS_CHANNELS: 1}

    def _mask(self, sample: Mapping[Hashable, Any], image: MetaTensor) -> MetaTensor:
        case = str(sample.get("case") or case_name(image.meta["filename_or_obj"]))
        mask, where = sample.get(PREVIOUS), "the first stage's mask"
        if mask is None:
            if self.folder is None:
                raise ConfigError("The second stage of a cascade needs the masks of the first: pass --previous_dir "
                                  "with a folder of <case>.nii.gz.")  # fmt: skip
            path = self.folder / f"{case}.nii.gz"
            if not path.is_file():
                raise CaseError(f"{case}: there is no mask of the first stage, {path}. Segment the case with the first "
                                "network into that folder, or pass another --previous_dir.")  # fmt: skip
            mask, where = self.load({PREVIOUS: path})[PREVIOUS], str(path)
        _require_grid(case, where, mask, image)
        return mask


def _require_grid(case: str, where: str, mask: MetaTensor, image: MetaTensor) -> None:
    """Refuse a mask that does not lie on the grid of the image's file."""
    wanted, found = tuple(int(n) for n in image.meta["spatial_shape"]), tuple(mask.shape[1:])
    remedy = "Masks of the first stage lie on the grid of the image's file: segment this case again."
    if found != wanted:
        sizes = " voxels, its image ".join("×".join(map(str, shape)) for shape in (found, wanted))
        raise GeometryError(f"{case}: {where} has {sizes}. {remedy}")
    distance = grid_distance_mm(np.asarray(image.meta["original_affine"]), np.asarray(mask.affine), wanted)
    if distance > GRID_TOLERANCE_MM:
        raise GeometryError(f"{case}: {where} lies up to {distance:.2f} mm away from its image. {remedy}")
