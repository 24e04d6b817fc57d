"""Masks and maps on disk: NIfTI with the geometry of the image they were made from, and a JSON sidecar.

Every file is written under a temporary name in the same folder and renamed, so that it is there whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import CaseError
from medseg3d.files import whole_or_not_at_all, write_json
from medseg3d.inference.cases import ImageHeader

__all__ = ["mask_path", "read_sidecar", "sidecar_path", "write_nifti", "write_sidecar"]

# The fields by which a NIfTI header places voxels in space. They are copied bit by bit: writing a quaternion back from
# a matrix would round it, and some viewers read the sform, others the qform.
GEOMETRY_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
SCANNER = 1  # NIfTI's code of coordinates in the scanner's own frame


def mask_path(folder: Path, case: str, kind: str = "") -> Path:
    """``folder/<case>.nii.gz``, or ``folder/<case>_<kind>.nii.gz`` of a map."""
    return folder / f"{case}{'_' if kind else ''}{kind}.nii.gz"


def sidecar_path(folder: Path, case: str) -> Path:
    """``folder/<case>.json``."""
    return folder / f"{case}.json"


def write_nifti(path: Path, voxels: NDArray[Any], image: ImageHeader) -> None:
    """Write voxels of the image's shape, or (x, y, z, n), with the image's geometry.

    A NIfTI image gives its qform, sform, their codes and its units; of other formats the affine becomes both forms,
    with the code for scanner coordinates.
    """
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32 if voxels.dtype == np.float16 else voxels.dtype)  # NIfTI knows no float16
    header.set_data_shape(voxels.shape)
    if image.nifti is None:
        header.set_sform(image.affine_ras, code=SCANNER)
        header.set_qform(image.affine_ras, code=SCANNER)
        header.set_xyzt_units("mm")
    else:
        for field in GEOMETRY_FIELDS:
            header[field] = image.nifti[field]
        pixdim = np.ones(8, dtype=np.float32)
        pixdim[:4] = image.nifti["pixdim"][:4]  # the first is the quaternion's handedness
        header["pixdim"] = pixdim
    with whole_or_not_at_all(path) as temporary:
        nibabel.save(nibabel.Nifti1Image(voxels, None, header), temporary)


def read_sidecar(folder: Path, name: str) -> dict[str, Any]:
    """The sidecar of a case; empty where there is none that can be read."""
    try:
        content = json.loads(sidecar_path(folder, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_sidecar(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that any parser reads: NaN and infinity are refused."""
    write_json(path, content)


def refuse_overwriting(outputs: list[Path], inputs: list[Path]) -> None:
    """Keep a mask from taking the place of the image it was made from.

    Raises:
        CaseError: an output is one of the inputs.
    """
    known = {p.resolve() for p in inputs}
    for output in outputs:
        if output.resolve() in known:
            raise CaseError(f"{output.name}: the mask would overwrite its image. Choose another output folder.")
