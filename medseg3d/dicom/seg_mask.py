"""From a mask file and the folder of its series to a DICOM SEG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg3d import __version__
from medseg3d.dicom.codes import read_codes
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.mask_file import read_mask, require_free
from medseg3d.dicom.seg_write import Algorithm, SegKind, write_seg
from medseg3d.dicom.volume import read_grid

__all__ = ["algorithm_of", "write_seg_of_file"]


def write_seg_of_file(
    mask: str | Path,
    series: str | Path,
    output: str | Path,
    *,
    kind: SegKind = "binary",
    labels: Mapping[str, int] | None = None,
    codes: str | Path | None = None,
    series_uid: str | None = None,
    volume: str | None = None,
    series_description: str = "Segmentation",
    force: bool = False,
) -> tuple[Finding, ...]:
    """Write a mask file as a SEG over its series: see ``write_seg``.

    Args:
        mask: NIfTI, NRRD or MetaImage on the grid of the series, in any order and direction of axes.
        series: folder, zip file or file with the series.
        output: the SEG.
        kind: ``"binary"`` or ``"labelmap"``.
        labels: name → id; by default those of the mask's sidecar.
        codes: YAML with codes of labels: see ``read_codes``.
        series_uid: which series, where ``series`` holds several.
        volume: label of the volume, where the series holds several (``t003``, ``b1000``).
        series_description: of the SEG.
        force: replace a file of this name.

    Returns:
        The findings of ``write_seg``.

    Raises:
        UsageError: labels that are not known; an output that exists (without ``force``) or is a file of the series.
        CaseError: a mask or series that cannot be read, or not on one grid; images that a SEG cannot be written over.
    """
    output = Path(output)
    grid = read_grid(series, series_uid=series_uid, volume=volume)
    require_free(output, Path(mask), grid, force=force)
    read = read_mask(mask, grid, labels=labels)
    return write_seg(
        read.voxels,
        grid,
        output,
        labels=read.labels,
        kind=kind,
        codes=read_codes(codes) if codes is not None else None,
        context=str(read.origin.get("bundle") or ""),
        algorithm=algorithm_of(read.origin),
        series_description=series_description,
    )


def algorithm_of(origin: Mapping[str, Any]) -> Algorithm:
    """The algorithm identification that a mask's sidecar gives: the bundle, its version and the hash of its weights.

    >>> algorithm_of({"bundle": "ct_organ_segmentation", "bundle_version": "0.1.0"}).name
    'ct_organ_segmentation'
    """
    name = origin.get("bundle")
    if not name:
        return Algorithm()
    parameters = {key: str(origin[key]) for key in ("weights_sha256", "medseg3d_version") if origin.get(key)}
    return Algorithm(str(name), str(origin.get("bundle_version") or __version__), parameters=parameters)
