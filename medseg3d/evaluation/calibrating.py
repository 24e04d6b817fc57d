"""Whether the probabilities beside a mask mean what they say."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import GeometryError
from medseg3d.evaluation.grids import grid_difference, onto_box
from medseg3d.evaluation.model import EvaluationCase, RefusedError, Scoring
from medseg3d.metrics import Calibration, calibration
from medseg3d.metrics.regions import crops
from medseg3d.volume import Volume, case_name

__all__ = ["MARGIN_MM", "calibrate"]

MARGIN_MM = 10.0
"""How far around a structure its probabilities are judged; farther out, certain background hides every error."""


@dataclass(frozen=True)
class _Map:
    """Probabilities in a file, of which boxes are read channel by channel; ``resample`` where its grid is another."""

    image: Any
    path: Path
    resample: bool


def calibrate(
    case: EvaluationCase, reference: NDArray[Any], prediction: NDArray[Any], grid: Volume, scoring: Scoring
) -> dict[str, Calibration]:
    """Calibration of every region in the box around it on both sides, ``MARGIN_MM`` wider.

    A region's probability is the sum over its ids. A region that neither side has is left out. Probabilities on another
    grid than the reference's are resampled linearly where ``scoring.resample`` asks for it.

    Raises:
        RefusedError: the probability map is missing, damaged, or of another grid or number of channels.
    """
    probability = _open(case, grid, scoring)
    found = {}
    for region, box, *_ in crops(reference, prediction, scoring.regions):
        if box is not None:
            wider = _widened(box, reference.shape, grid.spacing_mm)
            total = sum(_channel(probability, i, wider, grid) for i in region.ids)
            inside = np.isin(reference[wider], region.ids)
            found[region.name] = calibration(np.clip(total, 0.0, 1.0), inside)
    return found


def _open(case: EvaluationCase, grid: Volume, scoring: Scoring) -> _Map:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    prediction = case.prediction or Path()
    path = prediction.parent / f"{case_name(prediction)}_probability.nii.gz"
    if not path.is_file():
        # Without the case's name, so that many cases are one row of the table of problems.
        raise RefusedError(
            "no-probability",
            "There is no <case>_probability.nii.gz beside the mask: segment with --probability for its calibration.",
        )
    try:
        image: Any = nibabel.load(path)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise RefusedError("unreadable", f"{path}: not a readable NIfTI file ({error}).") from error
    channels = 1 + max(scoring.labels.values())
    if image.shape[3:] != (channels,):
        raise RefusedError(
            "shape-mismatch",
            f"{path.name} has {'×'.join(map(str, image.shape))} voxels; a fourth axis of {channels} is needed, "
            "a channel a label id with the background first.",
        )
    return _Map(image, path, resample=_is_elsewhere(image, path, grid, scoring))


def _is_elsewhere(image: Any, path: Path, grid: Volume, scoring: Scoring) -> bool:
    try:
        code, message = grid_difference(grid, image.shape[:3], image.affine, path)
    except GeometryError as error:
        raise RefusedError("bad-affine", f"{path}: {error}") from error
    if code and not scoring.resample:
        raise RefusedError(code, f"{message} Write it on the image's own grid, or pass --resample.")
    return bool(code)


def _channel(probability: _Map, index: int, box: tuple[slice, ...], grid: Volume) -> NDArray[np.float64]:
    image = probability.image
    try:
        if not probability.resample:
            return np.asarray(image.dataobj[(*box, index)], dtype=np.float64)
        whole = np.asarray(image.dataobj[..., index], dtype=np.float64)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RefusedError("unreadable", f"{probability.path}: cannot be read ({error}).") from error
    return onto_box(whole, image.affine, like=grid.affine, box=box, linear=True)


def _widened(box: Sequence[slice], shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    margins = [int(np.ceil(MARGIN_MM / size)) for size in spacing_mm]
    return tuple(
        slice(max(0, part.start - margin), min(n, part.stop + margin))
        for part, n, margin in zip(box, shape, margins, strict=True)
    )
