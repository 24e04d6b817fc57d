"""One case from a seed and a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from medseg3d.errors import UsageError
from medseg3d.phantom.anatomy import paint_torso
from medseg3d.phantom.brain import paint_brain
from medseg3d.phantom.model import MIN_SIZE, Modality, PhantomCase, Size
from medseg3d.phantom.scan import draw_head_scan, draw_scan, make_space, store
from medseg3d.phantom.tissue import ct_image, ct_tissue, mri_image, mri_tissue

__all__ = ["check", "make_case"]


def make_case(
    modality: Modality, seed: int, index: int, *, size: Sequence[int] = (128, 128, 64), lesions: bool = True
) -> PhantomCase:
    """Make case ``index`` of the study with ``seed``: the same arguments always give the same voxels.

    The anatomy depends on ``(seed, index)`` alone: CT and MRI, and every ``size``, show the same torso.

    Args:
        modality: ``"ct"`` or ``"mri"`` (T1-weighted), of a torso; or ``"mri_tumor"``, a brain in four channels.
        seed: of the study, at least 0.
        index: of the case in the study, at least 0.
        size: voxels from left to right, back to front and foot to head; the stored order of axes differs by case.
        lesions: whether livers may have a lesion (about six in ten then do), and brains a tumour.

    Raises:
        UsageError: an unknown modality, a negative number, or a size below ``MIN_SIZE``.

    >>> case = make_case("ct", 0, 0, size=(32, 32, 16))
    >>> case.image.shape == case.label.shape, case.image.dtype.name
    (True, 'int16')
    """
    size = check(modality, seed, index, size)
    rng_scan, rng_anatomy, rng_tissue = map(np.random.default_rng, np.random.SeedSequence((seed, index)).spawn(3))
    if modality == "mri_tumor":
        scan = draw_head_scan(rng_scan, size)
        return store(scan, *paint_brain(make_space(rng_anatomy, scan), rng_anatomy, rng_tissue, tumour=lesions))
    scan = draw_scan(rng_scan, size)
    space = make_space(rng_anatomy, scan)
    tissue = ct_tissue(rng_tissue) if modality == "ct" else mri_tissue(rng_tissue)
    canvas = paint_torso(space, tissue, rng_anatomy, lesions=lesions)
    image = ct_image(canvas.value, rng_tissue) if modality == "ct" else mri_image(canvas.value, space, rng_tissue)
    return store(scan, image, canvas.label)


def check(modality: str, seed: int, index: int, size: Sequence[int]) -> Size:
    if modality not in get_args(Modality):
        raise UsageError(f"There is no modality {modality!r}: choose 'ct', 'mri' or 'mri_tumor'.")
    if seed < 0 or index < 0:
        raise UsageError(f"Seed {seed} and case index {index} must both be at least 0.")
    if len(size) != 3 or any(n < least for n, least in zip(size, MIN_SIZE, strict=True)):
        raise UsageError(
            f"A phantom of {'×'.join(map(str, size))} voxels is too small to show the organs: "
            f"use at least {'×'.join(map(str, MIN_SIZE))}."
        )
    return int(size[0]), int(size[1]), int(size[2])
