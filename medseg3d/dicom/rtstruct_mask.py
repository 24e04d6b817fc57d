"""From a mask file and the folder of its series to an RTSTRUCT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medseg3d.dicom.codes import read_codes
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.mask_file import read_mask, require_free
from medseg3d.dicom.rtstruct_encode import Holes
from medseg3d.dicom.rtstruct_write import write_rtstruct
from medseg3d.dicom.seg_mask import algorithm_of
from medseg3d.dicom.volume import read_grid

__all__ = ["write_rtstruct_of_file"]


def write_rtstruct_of_file(
    mask: str | Path,
    series: str | Path,
    output: str | Path,
    *,
    labels: Mapping[str, int] | None = None,
    holes: Holes = "keyhole",
    codes: str | Path | None = None,
    series_uid: str | None = None,
    volume: str | None = None,
    series_description: str = "Contours",
    force: bool = False,
) -> tuple[Finding, ...]:
    """Write a mask file as an RTSTRUCT over its series: see ``write_rtstruct``.

    Args:
        mask: NIfTI, NRRD or MetaImage on the grid of the series, in any order and direction of axes.
        series: folder, zip file or file with the series.
        output: the RTSTRUCT.
        labels: name → id; by default those of the mask's sidecar.
        holes: ``"keyhole"`` or ``"xor"``.
        codes: YAML with codes and colours of labels: see ``read_codes``.
        series_uid: which series, where ``series`` holds several.
        volume: label of the volume, where the series holds several (``t003``, ``b1000``).
        series_description: of the RTSTRUCT.
        force: replace a file of this name.

    Returns:
        The findings of ``write_rtstruct``.

    Raises:
        UsageError: labels that are not known; an output that exists (without ``force``) or is a file of the series.
        CaseError: a mask or series that cannot be read, or not on one grid; a series that cannot be referred to.
    """
    output = Path(output)
    grid = read_grid(series, series_uid=series_uid, volume=volume)
    require_free(output, Path(mask), grid, force=force)
    read = read_mask(mask, grid, labels=labels)
    return write_rtstruct(
        read.voxels,
        grid,
        output,
        labels=read.labels,
        holes=holes,
        codes=read_codes(codes) if codes is not None else None,
        context=str(read.origin.get("bundle") or ""),
        algorithm=algorithm_of(read.origin),
        series_description=series_description,
    )
