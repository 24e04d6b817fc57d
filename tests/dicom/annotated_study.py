"""A small CT and its annotation of two organs, which the tests of the converter share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np

from medseg3d.dicom import Converted
from medseg3d.dicom.rtstruct_write import write_rtstruct
from medseg3d.dicom.seg_write import write_seg
from medseg3d.phantom.dicom import Patient, write_ct_series

RAS = np.diag([-2.0, -2.0, 3.0, 1.0])
SHAPE = (16, 14, 10)


def only(results: list[Converted]) -> Converted:
    (result,) = results
    return result


def body(hu: int = 40) -> np.ndarray:
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[2:14, 2:12, 1:9] = hu
    return voxels


def organs() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:7, 3:8, 2:8] = 1
    mask[9:13, 4:10, 3:7] = 2
    return mask


def study(
    folder: Path,
    *,
    patient: str = "one",
    names: Sequence[str] = ("liver", "GTV 1"),
    kind: Literal["rtstruct", "seg"] = "rtstruct",
    mask: np.ndarray | None = None,
) -> Path:
    """A CT and its annotation: the ids of ``mask`` get ``names`` in turn."""
    grid = write_ct_series(body(40 + len(patient)), RAS, folder / "ct", patient=Patient(patient))
    labels = {name: number for number, name in enumerate(names, 1)}
    write = write_rtstruct if kind == "rtstruct" else write_seg
    write(organs() if mask is None else mask, grid, folder / f"{kind}.dcm", labels=labels)
    return folder


def slice_file(folder: Path, k: int) -> Path:
    """The file of a study's slice ``k``."""
    return folder / "ct" / f"CT_{k + 1:04d}.dcm"


def label_of(result: Converted) -> np.ndarray:
    return np.asanyarray(nibabel.load(result.label).dataobj)


def refusals(result: Converted) -> str:
    return " ".join(str(finding) for finding in result.findings if finding.severity == "refusal")
