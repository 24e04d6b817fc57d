"""What only a run can check: the data list and its files, the device, and the memory for the cache."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg3d.bundles.images import check_images, shown_labels
from medseg3d.bundles.listed import check_list_values, file_labels_of
from medseg3d.bundles.merge import Merged
from medseg3d.bundles.problems import Problem
from medseg3d.bundles.references import referenced_ids
from medseg3d.bundles.values import Values
from medseg3d.errors import CaseError, DataListError, UsageError

if TYPE_CHECKING:
    from medseg3d.datalist import Case, DataList

__all__ = ["available_bytes", "cache_bytes", "check_data", "check_device"]

# Headers are read from this many cases, evenly spread: about a millisecond each.
_SAMPLE = 64
_IMAGE_BYTES, _LABEL_BYTES = 4, 1  # float32 a channel, uint8
# Left for the network, augmentation and everything else when a smaller cache is proposed.
_SHARE_FOR_CACHE = 0.8
_SHOWN = 3


def check_data(merged: Merged, values: Values) -> list[Problem]:
    """The data list opens, has the fold and the labels, its files exist, and the cache fits into memory.

    Nothing is checked when no ``datalist`` is defined, or nothing refers to it (an application that feeds its own
    cases replaces the data sets' ``data``).
    """
    path = values.get("datalist")
    if not isinstance(path, (str, Path)) or not str(path) or "datalist" not in referenced_ids(merged.config):
        return []
    from medseg3d.datalist import read_datalist
    from medseg3d.images import is_image_list

    where = merged.where("datalist")
    try:
        if is_image_list(path):
            return check_images(merged, values, path)
        datalist = read_datalist(path)
    except DataListError as error:
        return [Problem(where, str(error))]
    is_training = "train" in merged.config
    cases = list(datalist.training) if is_training else [*datalist.training, *datalist.testing]
    problems = [
        *(_check_fold(merged, values, path) if is_training else []),
        *_check_list_labels(merged, values, datalist),
        *check_list_values(merged, values, datalist),
        *_check_list_channels(merged, values, datalist),
        *_check_files(where, cases),
    ]
    if not problems:
        problems += _check_headers(where, cases)
    return problems or _check_memory(merged, values, cases, channels=len(datalist.channels))


def check_device(merged: Merged, values: Values) -> list[Problem]:
    """A CUDA device that is asked for and is not there."""
    import torch

    device = values.get("device")
    if not isinstance(device, (str, torch.device)):
        return []
    try:
        device = torch.device(device)
    except RuntimeError:
        return [Problem(merged.where("device"), f"{device!r} is no device.", "Use cpu, cuda or cuda:0.")]
    if device.type != "cuda":
        return []
    if not torch.cuda.is_available():
        what = f"{device} is asked for, but torch finds no CUDA device."
        return [Problem(merged.where("device"), what, "Pass --device cpu, or check the driver and the build of torch.")]
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        what = f"{device} is asked for, but there are {count} CUDA devices, numbered from 0."
        return [Problem(merged.where("device"), what, "Pass --device cuda:0.")]
    return []


def cache_bytes(shape: Sequence[int], from_mm: Sequence[float], to_mm: Sequence[float], *, channels: int) -> int:
    """Memory of one cached case: float32 images and a uint8 label, after resampling to ``to_mm``.

    >>> cache_bytes((100, 100, 50), (1.0, 1.0, 2.0), (1.0, 1.0, 1.0), channels=1)
    5000000
    """
    sizes = (max(1, round(n * old / new)) for n, old, new in zip(shape, from_mm, to_mm, strict=True))
    return prod(sizes) * (_IMAGE_BYTES * channels + _LABEL_BYTES)


def available_bytes() -> int:
    """Memory that can still be taken: what the system has free, or less where a container's limit is lower."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, int(limit) - used) if limit.isdecimal() else free


def _check_fold(merged: Merged, values: Values, path: str | Path) -> list[Problem]:
    from medseg3d.datalist import training_items

    fold = values.get("fold")
    if not isinstance(fold, int):
        return []
    try:
        training_items(path, fold=fold)
    except UsageError as error:
        return [Problem(merged.where("fold"), str(error))]
    except DataListError as error:
        return [Problem(merged.where("datalist"), str(error))]
    return []


def _check_list_labels(merged: Merged, values: Values, datalist: DataList) -> list[Problem]:
    """The names and ids that the configuration and the data list give must be the same, background aside."""
    id_, labels = file_labels_of(values)
    if not isinstance(labels, Mapping):
        return []
    configured = {str(name): label_id for name, label_id in labels.items() if label_id != 0}
    if configured == dict(datalist.labels):
        return []
    what = (
        f"the labels are {shown_labels(configured)}, but those of {datalist.path} are {shown_labels(datalist.labels)}."
    )
    # Where the names agree, the files only have other ids than the network: a bundle with file_labels maps them.
    override = id_ if configured.keys() == datalist.labels.keys() else "labels"
    remedy = f'Pass --{override} "{shown_labels(datalist.labels)}", or correct the data list.'
    return [Problem(merged.where(override), what, remedy)]


def _check_list_channels(merged: Merged, values: Values, datalist: DataList) -> list[Problem]:
    channels = values.get("channels")
    if not isinstance(channels, (list, tuple)) or len(channels) == len(datalist.channels):
        return []
    what = f"there are {len(channels)} channels ({', '.join(map(str, channels))}), but each case of {datalist.path} "
    what += f"has {len(datalist.channels)} ({', '.join(datalist.channels)})."
    return [Problem(merged.where("channels"), what, "Use a data list with the channels that the bundle was made for.")]


def _check_files(where: str, cases: Sequence[Case]) -> list[Problem]:
    missing = [path for case in cases for path in _files(case) if not path.is_file()]
    if not missing:
        return []
    first = ", ".join(map(str, missing[:_SHOWN])) + (", …" if len(missing) > _SHOWN else "")
    total = sum(len(_files(case)) for case in cases)
    what = f"{len(missing)} of {total} files of the data list do not exist: {first}."
    return [Problem(where, what, "Complete the copy, or correct the paths (they are relative to the list).")]


def _files(case: Case) -> list[Path]:
    return [*case.files, *([case.label] if case.label else [])]


def _sample(cases: Sequence[Case]) -> list[Case]:
    """Up to ``_SAMPLE`` cases, evenly spread; only NIfTI, whose header can be read without the voxels."""
    nifti = [case for case in cases if all(path.name.lower().endswith((".nii", ".nii.gz")) for path in _files(case))]
    step = max(1, -(-len(nifti) // _SAMPLE))
    return nifti[::step]


def _check_headers(where: str, cases: Sequence[Case]) -> list[Problem]:
    """Images and labels of a sample have readable headers and one grid; ``medseg3d datalist check`` reads all."""
    from medseg3d.geometry import grid_distance_mm
    from medseg3d.volume import GRID_TOLERANCE_MM, read_geometry

    faults = []
    for case in _sample(cases):
        try:
            (shape, affine), *others = [read_geometry(path, channels=True) for path in _files(case)]
            for other_shape, other in others:
                if other_shape != shape:
                    faults.append(f"{case.case}: {list(other_shape)} voxels beside {list(shape)}")
                elif (apart := grid_distance_mm(affine, other, shape)) > GRID_TOLERANCE_MM:
                    faults.append(f"{case.case}: grids {apart:.2f} mm apart")
        except CaseError as error:
            faults.append(str(error))
    if not faults:
        return []
    first = "; ".join(faults[:_SHOWN]) + ("; …" if len(faults) > _SHOWN else "")
    what = f"{len(faults)} of {len(_sample(cases))} cases looked at cannot be used: {first}."
    return [Problem(where, what, "Run `medseg3d datalist check` on the list: it names every case.")]


def _check_memory(merged: Merged, values: Values, cases: Sequence[Case], *, channels: int) -> list[Problem]:
    rate, spacing = values.get("cache_rate"), values.get("spacing")
    sizes = [_size(case, spacing, channels) for case in _sample(cases)]
    if not isinstance(rate, (int, float)) or rate <= 0 or not sizes:
        return []
    mean, processes = sum(sizes) / len(sizes), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    whole, free = mean * len(cases) * processes, available_bytes()  # each of torchrun's processes has its own cache
    needed = whole * min(rate, 1.0)
    if needed <= free:
        return []
    affordable = int(_SHARE_FOR_CACHE * 100 * free / whole) / 100
    shared = f" in each of {processes} processes" if processes > 1 else ""
    what = (
        f"caching {min(rate, 1.0):.0%} of {len(cases)} cases, {_gigabytes(mean)} each,{shared} takes about "
        f"{_gigabytes(needed)} of memory; {_gigabytes(free)} are free."
    )
    return [
        Problem(merged.where("cache_rate"), what, f"Pass --cache_rate {max(affordable, 0):g}, or a larger spacing.")
    ]


def _size(case: Case, spacing: Any, channels: int) -> float:
    from medseg3d.geometry import spacing_mm
    from medseg3d.volume import read_geometry

    shape, affine = read_geometry(case.files[0], channels=True)
    own = spacing_mm(affine)
    is_resampled = isinstance(spacing, (list, tuple)) and len(spacing) == 3 and all(spacing)
    return cache_bytes(shape, own, spacing if is_resampled else own, channels=channels)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
