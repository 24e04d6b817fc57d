"""Whether the probabilities beside a mask mean what they say."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.evaluation.model import EvaluationCase, RefusedError, Scoring
from medseg3d.metrics import Calibration, calibration
from medseg3d.metrics.regions import crops
from medseg3d.volume import Volume, case_name

__all__ = ["MARGIN_MM", "calibrate"]

MARGIN_MM = 10.0
"""How far around a structure its probabilities are judged; farther out, certain background hides every error."""


def calibrate(
    case: EvaluationCase, reference: NDArray[Any], prediction: NDArray[Any], grid: Volume, scoring: Scoring
) -> dict[str, Calibration]:
    """Calibration of every region in the box around it on both sides, ``MARGIN_MM`` wider.

    A region's probability is the sum over its ids. A region that neither side has is left out.

    Raises:
        RefusedError: the probability map is missing, damaged, or of another grid or number of channels.
    """
    probability = _open(case, reference.shape, scoring)
    found = {}
    for region, box, *_ in crops(reference, prediction, scoring.regions):
        if box is not None:
            wider = _widened(box, reference.shape, grid.spacing_mm)
            total = sum(_channel(probability, i, wider, case) for i in region.ids)
            inside = np.isin(reference[wider], region.ids)
            found[region.name] = calibration(np.clip(total, 0.0, 1.0), inside)
    return found


def _open(case: EvaluationCase, shape: Sequence[int], scoring: Scoring) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    prediction = case.prediction or Path()
    path = prediction.parent / f"{case_name(prediction)}_probability.nii.gz"
    if not path.is_file():
        raise RefusedError("no-probability", f"{path}: no such file. Segment with --probability, or leave it out here.")
    try:
        image: Any = nibabel.load(path)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise RefusedError("unreadable", f"{path}: not a readable NIfTI file ({error}).") from error
    channels = 1 + max(scoring.labels.values())
    if image.shape != (*shape, channels):
        raise RefusedError(
            "shape-mismatch",
            f"{path.name} has {'×'.join(map(str, image.shape))} voxels; {'×'.join(map(str, (*shape, channels)))} are "
            "needed, a channel a label id with the background first.",
        )
    return image


def _channel(image: Any, index: int, box: tuple[slice, ...], case: EvaluationCase) -> NDArray[np.float64]:
    try:
        return np.asarray(image.dataobj[(*box, index)], dtype=np.float64)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RefusedError("unreadable", f"{case.case}: the probabilities cannot be read ({error}).") from error


def _widened(box: Sequence[slice], shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    margins = [int(np.ceil(MARGIN_MM / size)) for size in spacing_mm]
    return tuple(
        slice(max(0, part.start - margin), min(n, part.stop + margin))
        for part, n, margin in zip(box, shape, margins, strict=True)
    )
