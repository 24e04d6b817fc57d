"""Loading images and label maps, of which all parts must fit together."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medseg3d.errors import CaseError, UsageError
from medseg3d.geometry import check_affine
from medseg3d.labels import file_ids
from medseg3d.options import flag
from medseg3d.volume import SUFFIXES, Volume, label_map, read_channels, require_same_grid

__all__ = ["LoadStudyd", "LoadVolumed", "is_volume_file"]

logger = logging.getLogger(__name__)


class LoadVolumed(MapTransform):
    """Load images and label maps from NIfTI, NRRD or MetaImage, and refuse what does not fit together.

    MONAI's ``LoadImaged`` stacks channels and labels of any affine, and tries the next reader when one refuses. Here
    the files of one sample must share one grid, label maps must hold integers, images must be finite, and the reason
    of a refusal reaches the user.

    Each key's path (or list of paths, one a channel; or one 4D NIfTI file of channels) becomes a ``MetaTensor`` of
    shape (channel, i, j, k), float32 for images and uint8 for labels (int16 where ids exceed 255), with the RAS+
    ``affine`` and ``filename_or_obj``. Its ``meta["findings"]`` says what a reader of the result should know.

    Args:
        keys: entries to load.
        label_keys: those among ``keys`` that hold label maps.
        labels: name → id; a label map with another id is refused. None takes any.
        allow_missing_keys: leave out keys that a sample lacks, as inference has no labels.
        file_labels: name → id in the files, where that is another one than in ``labels``: it is mapped by name.
        ignore_label: id, in files and after mapping, of voxels that nobody labelled.
        channels: names of the image's channels, for messages.
        missing_channels: make a channel whose path is None zero, instead of refusing the case.

    Raises:
        CaseError: see above and ``medseg3d.volume.read_volume``.
        UsageError: labels and file_labels do not name the same, or ``ignore_label`` is the id of a label.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_keys: KeysCollection = ("label",),
        labels: Mapping[str, int] | None = None,
        allow_missing_keys: bool = False,
        *,
        file_labels: Mapping[str, int] | None = None,
        ignore_label: int | None = None,
        channels: Sequence[str] = (),
        missing_channels: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = dict(labels) if labels is not None else None
        self.file_labels = dict(file_labels) if file_labels is not None else self.labels
        self.ignore_label, self.channels = ignore_label, tuple(channels)
        self.missing_channels = flag(missing_channels, "missing_channels")
        self.label_keys = (label_keys,) if isinstance(label_keys, str) else tuple(label_keys)
        self.ids = None
        if labels is not None and self.file_labels is not None:
            _require_own_ignore_label(ignore_label, labels, self.file_labels)
            self.ids = {theirs: ours for ours, theirs in file_ids(labels, self.file_labels).items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        first: Volume | None = None
        for key in self.key_iterator(sample):
            findings = self._missing(sample[key])
            volume = self.read(sample[key])
            if first is not None:
                require_same_grid(first, volume)
            first = first or volume
            voxels = self._as_labels(volume) if key in self.label_keys else _as_image(volume)
            meta = {
                "filename_or_obj": str(volume.path),
                "original_affine": volume.affine,
                "spatial_shape": np.array(voxels.shape[1:]),
                "findings": findings,
            }
            if isinstance(sample[key], MetaTensor):  # what another program knows of it, and may want back
                known = sample[key].meta
                meta = {name: known[name] for name in known if name not in {"affine", "original_channel_dim"}} | meta
            sample[key] = MetaTensor(torch.from_numpy(voxels), affine=torch.from_numpy(volume.affine), meta=meta)
        return sample

    def _missing(self, image: Any) -> tuple[str, ...]:
        """A finding for every channel that is None, or the refusal of the case."""
        numbers = [i for i, path in enumerate(image) if path is None] if isinstance(image, (list, tuple)) else []
        names = [self.channels[i] if i < len(self.channels) else f"channel {i}" for i in numbers]
        if names and not self.missing_channels:
            beside = next((path for path in image if path is not None), "no file")
            raise CaseError(
                f"{', '.join(names)} is missing (beside {beside}). Add the file, leave the case out, or let a bundle "
                "that was trained so go without it: missing_channels: true."
            )
        return tuple(f"{name}: missing, the network was given zeros" for name in names)

    def _as_labels(self, volume: Volume) -> np.ndarray:
        voxels = label_map(volume)
        if len(voxels) > 1:
            raise CaseError(f"{volume.path}: has {len(voxels)} channels, a label map has one. Write one id a voxel.")
        if self.ids is None:
            return voxels
        present = np.unique(voxels).tolist()
        known = {0: 0, **self.ids} | ({} if self.ignore_label is None else {self.ignore_label: self.ignore_label})
        if unknown := sorted(set(present) - known.keys()):
            raise CaseError(
                f"{volume.path}: holds ids {unknown}, which labels does not name (it has {self.file_labels}). "
                "Name them in labels, or set those voxels to another id."
            )
        if all(known[i] == i for i in present):
            return voxels
        table = np.zeros(max(present) + 1, dtype=np.int16)
        table[present] = [known[i] for i in present]
        mapped = table[voxels]
        return mapped.astype(np.uint8) if mapped.max(initial=0) < 256 else mapped

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
    (``medseg3d.dicom.coregistered.Coregistered``), which are resampled onto the grid of the first; or a ``MetaTensor``
    that another program has read, as MONAI Deploy hands images over: with its affine (RAS+ mm), and without channels
    or with ``original_channel_dim`` in its ``meta``.

    Raises:
        DicomError: a series that is refused, several series in a folder, or none.
        CaseError: an image in memory that does not say where it lies.
    """

    def read(self, image: Any) -> Volume:
        if isinstance(image, MetaTensor):
            return _in_memory(image)
        if isinstance(image, (list, tuple)):
            if all(one is None or is_volume_file(one) for one in image):
                return read_channels(image)
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


def _in_memory(image: MetaTensor) -> Volume:
    affine = np.asarray(image.affine, dtype=np.float64)
    # A MetaTensor that was given no affine has the identity: voxels of a millimetre that nobody has measured.
    if "original_affine" not in image.meta and np.array_equal(affine, np.eye(4)):
        raise CaseError(
            "The image in memory does not say where it lies: it has no affine, so the size of its voxels is not known. "
            "Hand it over with 'affine' and 'original_affine' (RAS+ mm) in its metadata, as MONAI Deploy's "
            "DICOMSeriesToVolumeOperator does; or pass a file's path."
        )
    space = str(image.meta.get("space", "RAS"))
    if space != "RAS":
        raise CaseError(
            f"The image in memory has its affine in {space}: hand it over in RAS+ mm, as MONAI Deploy's "
            "DICOMSeriesToVolumeOperator does unless it is told otherwise (affine_lps_to_ras)."
        )
    voxels = image.as_tensor().detach().cpu().numpy()
    channel_axis = image.meta.get("original_channel_dim")
    if voxels.ndim == 3:
        voxels = voxels[None]
    elif voxels.ndim == 4 and isinstance(channel_axis, int):
        voxels = np.moveaxis(voxels, channel_axis, 0)
    else:
        raise CaseError(
            f"The image in memory has the shape {tuple(voxels.shape)} and original_channel_dim {channel_axis!r}: give "
            "(x, y, z), or four axes and the number of that of the channels."
        )
    return Volume(voxels, check_affine(affine), Path(str(image.meta.get("filename_or_obj", "image in memory"))))


def _as_image(volume: Volume) -> np.ndarray:
    voxels = np.ascontiguousarray(volume.voxels, dtype=np.float32)
    bad = int(voxels.size - np.isfinite(voxels).sum())
    if bad:
        raise CaseError(f"{volume.path}: {bad} voxels are NaN or infinite. Replace them with the background's value.")
    return voxels


def _require_own_ignore_label(
    ignore_label: int | None, labels: Mapping[str, int], file_labels: Mapping[str, int]
) -> None:
    taken = {*labels.values(), *file_labels.values(), 0}
    if ignore_label is not None and ignore_label in taken:
        raise UsageError(
            f"ignore_label is {ignore_label}, which background or a label has too (ids {sorted(taken)}): voxels that "
            "nobody labelled need an id of their own, in the files and in labels."
        )
