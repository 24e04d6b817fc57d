"""Transforms that MONAI and TorchIO lack, in MONAI's dictionary style."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from medseg3d.errors import CaseError
from medseg3d.volume import SUFFIXES, Volume, label_map, read_channels, require_same_grid

__all__ = ["LoadStudyd", "LoadVolumed", "RandTorchIOd"]

logger = logging.getLogger(__name__)


class LoadVolumed(MapTransform):
    """Load images and label maps from NIfTI, NRRD or MetaImage, and refuse what does not fit together.

    MONAI's ``LoadImaged`` stacks channels and labels of any affine, and tries the next reader when one refuses. Here
    the files of one sample must share one grid, label maps must hold integers, images must be finite, and the reason
    of a refusal reaches the user.

    Each key's path (or list of paths, one a channel) becomes a ``MetaTensor`` of shape (channel, i, j, k), float32 for
    images and uint8 for labels (int16 where ids exceed 255), with the RAS+ ``affine`` and ``filename_or_obj``.

    Args:
        keys: entries to load.
        label_keys: those among ``keys`` that hold label maps.
        labels: name → id; a label map with another id is refused. None takes any.
        allow_missing_keys: leave out keys that a sample lacks, as inference has no labels.

    Raises:
        CaseError: see above and ``medseg3d.volume.read_volume``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_keys: KeysCollection = ("label",),
        labels: Mapping[str, int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = labels
        self.label_keys = (label_keys,) if isinstance(label_keys, str) else tuple(label_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        first: Volume | None = None
        for key in self.key_iterator(sample):
            volume = self.read(sample[key])
            if first is not None:
                require_same_grid(first, volume)
            first = first or volume
            voxels = _as_labels(volume, self.labels) if key in self.label_keys else _as_image(volume)
            meta = {
                "filename_or_obj": str(volume.path),
                "original_affine": volume.affine,
                "spatial_shape": np.array(voxels.shape[1:]),
            }
            sample[key] = MetaTensor(torch.from_numpy(voxels), affine=torch.from_numpy(volume.affine), meta=meta)
        return sample

    def read(self, image: Any) -> Volume:
        """The volume of one entry: voxels (channel, i, j, k)."""
        if not isinstance(image, (str, Path, list, tuple)):
            raise CaseError("The image is a DICOM series: the bundle must load it with medseg3d.transforms.LoadStudyd.")
        return read_channels(image)


class LoadStudyd(LoadVolumed):
    """Load what ``LoadVolumed`` loads, and DICOM: a series in a folder, a zip archive or a file.

    A series has the same geometry as its NIfTI by ``medseg3d dicom convert``: axes (column, row, slice), the affine in
    RAS+ mm. What ``medseg3d.dicom`` refuses (a gap, a tilted gantry, mixed orientations, …) is refused here, with its
    reason; MONAI's ``LoadImaged`` would try its next reader, which gives a volume at a wrong place. Warnings, such as
    of files in the folder that cannot be read, are logged.

    Each key holds the path of an image file (or a list, one a channel), of a folder or zip archive with one image
    series, of one multi-frame DICOM file; or a ``medseg3d.dicom.Stack`` of a scan; or several stacks as channels
    (``medseg3d.dicom.coregistered.Coregistered``), which are resampled onto the grid of the first.

    Raises:
        DicomError: a series that is refused, several series in a folder, or none.
    """

    def read(self, image: Any) -> Volume:
        if isinstance(image, (list, tuple)):
            volumes = [self.read(one) for one in image]
            for other in volumes[1:]:
                require_same_grid(volumes[0], other)
            return Volume(np.concatenate([v.voxels for v in volumes]), volumes[0].affine, volumes[0].path)
        return read_channels(image) if is_volume_file(image) else _read_dicom(image)


def is_volume_file(image: Any) -> bool:
    """Whether ``image`` is the path of a NIfTI, NRRD or MetaImage file, by its suffix."""
    return isinstance(image, (str, Path)) and str(image).lower().endswith(SUFFIXES) and not Path(image).is_dir()


def _read_dicom(image: Any) -> Volume:
    from medseg3d.dicom import Stack, read_series, read_stack
    from medseg3d.dicom.coregistered import Coregistered, read_coregistered

    if isinstance(image, Coregistered):
        voxels, grid = read_coregistered(image)
        return Volume(voxels, grid.affine_ras, image.reference.frames[0].source.file.path.parent)
    if isinstance(image, Stack):
        volume, path = read_stack(image), image.frames[0].source.file.path.parent
    else:
        volume, path = read_series(image), Path(image)
        for finding in volume.findings:
            if finding.severity == "warning":
                logger.warning("%s: %s", path, finding)
    return Volume(volume.voxels[None], volume.grid.affine_ras, path)


def _as_image(volume: Volume) -> np.ndarray:
    voxels = np.ascontiguousarray(volume.voxels, dtype=np.float32)
    bad = int(voxels.size - np.isfinite(voxels).sum())
    if bad:
        raise CaseError(f"{volume.path}: {bad} voxels are NaN or infinite. Replace them with the background's value.")
    return voxels


def _as_labels(volume: Volume, labels: Mapping[str, int] | None) -> np.ndarray:
    voxels = label_map(volume)
    unknown = set(np.unique(voxels).tolist()) - {0, *labels.values()} if labels is not None else set()
    if unknown:
        raise CaseError(
            f"{volume.path}: holds ids {sorted(unknown)}, which labels does not name (it has {dict(labels or {})}). "
            "Name them in labels, or set those voxels to another id."
        )
    return voxels


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
