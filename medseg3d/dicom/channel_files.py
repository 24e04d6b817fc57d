"""Further channels beside a converted volume, in nnU-Net's spelling: ``<case>_0000.nii.gz``, ``<case>_0001.nii.gz``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.dicom.conversion import Converted, ConvertOptions
from medseg3d.dicom.coregistered import value_outside
from medseg3d.dicom.frames import Stack
from medseg3d.dicom.nifti import nifti_header, write_nifti
from medseg3d.dicom.sidecar import hashed_uid, raw_uid
from medseg3d.dicom.volume import read_stack
from medseg3d.files import write_json
from medseg3d.geometry import Affine
from medseg3d.resampling import resampled_onto
from medseg3d.volume import read_geometry

__all__ = ["with_channels"]


def with_channels(converted: Converted, stacks: Sequence[Stack], options: ConvertOptions, *, threads: int) -> Converted:
    """Write ``stacks`` onto the grid of a converted volume, which becomes channel 0 of its case.

    The sidecar ``<case>.json`` then lists the channels, with the value that stands where a series has no voxel.

    Raises:
        DicomError: a frame cannot be decoded.
        OutputError: the disk is full.
    """
    if converted.image is None:
        return converted
    first = channel_path(converted.image, converted.name, 0)
    shape, affine = read_geometry(converted.image)
    for number, stack in enumerate(stacks, 1):
        _write(channel_path(converted.image, converted.name, number), stack, shape, affine, threads)
    converted.image.replace(first)
    _describe(first.with_name(f"{converted.name}.json"), converted, stacks, options)
    return replace(converted, image=first)


def channel_path(image: Path, case: str, number: int) -> Path:
    """The file of a channel beside ``image``, with its suffix."""
    return image.with_name(f"{case}_{number:04d}{image.name[len(case) :]}")


def _write(path: Path, stack: Stack, shape: tuple[int, ...], affine: Affine, threads: int) -> None:
    volume = read_stack(stack)
    outside = value_outside(stack.series.modality)
    voxels = resampled_onto(volume.voxels, volume.grid.affine_ras, shape=shape, onto=affine, outside=outside)
    header = nifti_header(shape, affine, np.float32)
    write_nifti(path, header, (voxels[..., k] for k in range(shape[2])), threads=threads)


def _describe(sidecar: Path, converted: Converted, stacks: Sequence[Stack], options: ConvertOptions) -> None:
    uid = raw_uid if options.keep_uids else hashed_uid
    content = json.loads(sidecar.read_text(encoding="utf-8"))
    image = str(content["image"])
    channels: list[dict[str, Any]] = [
        {"modality": converted.series.modality, "unit": converted.series.unit, "series_uid": content["series_uid"]}
    ]
    for stack in stacks:
        series = stack.series
        channels.append({
            "modality": series.modality,
            "unit": series.unit,
            "series_uid": uid(series.uid),
            "own_spacing_mm": list(stack.grid.spacing_mm) if stack.grid else None,
            "resampled": "linear",
            "value_outside": value_outside(series.modality),
        })  # fmt: skip
    for number, channel in enumerate(channels):
        channel["file"] = channel_path(Path(image), converted.name, number).name
    write_json(sidecar, {**content, "image": [channel["file"] for channel in channels], "channels": channels})
