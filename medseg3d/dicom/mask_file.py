"""A mask on disk, brought onto the grid of its series, with what is known of its labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.naming import Naming
from medseg3d.dicom.orient import to_series_grid
from medseg3d.errors import CaseError, GeometryError, UsageError
from medseg3d.volume import case_name, label_map, read_volume

__all__ = ["MaskFile", "parse_labels", "read_mask", "require_free"]


@dataclass(frozen=True)
class MaskFile:
    """A label map on the grid of a series.

    Attributes:
        voxels: label ids (i, j, k), uint8 or int16.
        labels: name → id.
        origin: what its sidecar says of the run that made it: ``bundle``, ``bundle_version``, ``weights_sha256``, …;
            empty without a sidecar.
    """

    voxels: NDArray[Any]
    labels: Mapping[str, int]
    origin: Mapping[str, Any] = field(default_factory=dict)


def read_mask(path: str | Path, grid: SeriesGrid, *, labels: Mapping[str, int] | None = None) -> MaskFile:
    """Read a mask (NIfTI, NRRD, MetaImage) in any order and direction of axes, onto the grid of its series.

    Args:
        path: of the mask; ``<case>.json`` beside it, as ``medseg3d segment`` writes it, names the labels.
        grid: of the series.
        labels: name → id, in place of those of the sidecar.

    Raises:
        CaseError: not readable, no label map.
        GeometryError: another grid than the series.
        UsageError: labels that are not given and not in a sidecar; a sidecar that is damaged.
    """
    path = Path(path)
    volume = read_volume(path)
    origin = _sidecar(path)
    labels = labels or origin.get("labels")
    if not labels:
        raise UsageError(
            f"{path}: what its values mean is not known: there is no {case_name(path)}.json beside it that says so. "
            "Give the labels, such as --labels liver=1,tumour=2."
        )
    Naming(labels)
    try:
        voxels = to_series_grid(label_map(volume), volume.affine, grid)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error
    return MaskFile(voxels, dict(labels), origin)


def require_free(output: Path, mask: Path, grid: SeriesGrid, *, force: bool) -> None:
    """Do nothing where a file may be written.

    Raises:
        UsageError: a folder, the mask or a file of the series, which nothing may replace; any other file without
            ``force``.
    """
    place = output.resolve()
    if output.is_dir():
        raise UsageError(f"{output} is a folder: name a file in it.")
    if place == mask.resolve():
        raise UsageError(f"{output} is the mask itself: name another file.")
    if place in {reference.file.path.resolve() for reference in grid.slices}:
        raise UsageError(f"{output} is a file of the series, which must stay as it is: name another file.")
    if output.exists() and not force:
        raise UsageError(f"{output} exists: name another file, or pass --force to replace it.")


def parse_labels(texts: list[str]) -> dict[str, int]:
    """Labels as they are typed: ``name=id``, one or several with commas between them.

    Raises:
        UsageError: another form, a name given twice, or all that ``Naming`` refuses.

    >>> parse_labels(["liver=1,spleen=3", "left kidney=2"])
    {'liver': 1, 'spleen': 3, 'left kidney': 2}
    """
    labels: dict[str, int] = {}
    for text in (part for listed in texts for part in listed.split(",")):
        name, equals, number = text.rpartition("=")
        if not equals or not number.strip().isdecimal():
            raise UsageError(f"The label {text!r} is not of the form name=id, such as liver=1.")
        if name.strip() in labels:
            raise UsageError(f"The label {name.strip()} is given twice.")
        labels[name.strip()] = int(number)
    if labels:
        Naming(labels)
    return labels


def _sidecar(path: Path) -> Mapping[str, Any]:
    file = path.parent / f"{case_name(path)}.json"
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaseError(f"{file}: the mask's sidecar cannot be read ({error}).") from error
    labels = content.get("labels") if isinstance(content, dict) else None
    if labels is not None and not isinstance(labels, dict):
        raise CaseError(f"{file}: labels are {labels!r}, not names with their ids.")
    return content if isinstance(content, dict) else {}
