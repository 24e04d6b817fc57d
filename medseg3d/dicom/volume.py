"""From a stack to its voxels: slice by slice for writers that stream, or as one array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from medseg3d.dicom.checks import SPLITTABLE
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Frame, Series, Stack
from medseg3d.dicom.model import DicomVolume, SeriesGrid
from medseg3d.dicom.parallel import in_processes
from medseg3d.dicom.pixels import stored_frames
from medseg3d.dicom.rescale import ValueRangeError, clean_bits, likely_dtype, rescale, safe_dtype
from medseg3d.dicom.scanning import Scan, scan
from medseg3d.dicom.sidecar import hashed_uid
from medseg3d.errors import DicomError

__all__ = ["iter_slices", "read_grid", "read_series", "read_stack", "require_sound", "stack_dtype"]

# Starting worker processes pays for itself from this much compressed data on, decoded (about a second's work).
_PARALLEL_BYTES = 32 * 2**20
_FRAMES_A_TASK = 8


def stack_dtype(stack: Stack, *, likely: bool = False) -> np.dtype[Any]:
    """The type that the voxels of a stack get, from its headers: the smallest integer type, or float32.

    ``likely`` gives int16 where 16 bits are stored and the headers would allow a little more than it holds, as most
    CT scanners write; ``iter_slices`` raises ``ValueRangeError`` in the rare case that the values do not fit.
    """
    return likely_dtype(stack.frames) if likely else safe_dtype(stack.frames)


def iter_slices(
    stack: Stack,
    *,
    dtype: DTypeLike | None = None,
    workers: int | None = None,
    findings: list[Finding] | None = None,
) -> Iterator[NDArray[Any]]:
    """The slices of a stack in the order of its frames, decoded and rescaled: arrays (i, j) = (column, row).

    Each is the transpose of a C-ordered (row, column) array, so that its bytes are in NIfTI's order already. Frames
    are read one after the other, compressed ones in worker processes where there are many; memory holds a few.

    Args:
        dtype: type of the slices; ``stack_dtype(stack)`` by default.
        workers: processes that decode compressed frames; as many as there are cores by default, 1 for none.
        findings: gets what is found while decoding, such as values outside of BitsStored.

    Raises:
        ValueRangeError: ``dtype`` does not hold a slice's values.
        DicomError: a frame cannot be decoded.
    """
    dtype = np.dtype(dtype) if dtype is not None else stack_dtype(stack)
    unclean = 0
    for frame, stored in zip(stack.frames, _stored(stack.frames, workers), strict=True):
        cleaned, surprising = clean_bits(stored, frame.layout)
        unclean += surprising
        yield rescale(cleaned, frame, dtype).T
    if unclean and findings is not None:
        findings.append(
            Finding(
                "unused_bits",
                "warning",
                f"{unclean} of {len(stack.frames)} slices have bits set above the {stack.frames[0].layout.bits_stored} "
                "that BitsStored declares; they were cleared, as the standard asks.",
                "Compare the values with the scanner's: BitsStored may be wrong.",
            )
        )


def read_stack(stack: Stack, *, workers: int | None = None) -> DicomVolume:
    """Decode a stack into one volume.

    Raises:
        DicomError: the stack is refused (the message names why), a frame cannot be decoded, or memory is short.
    """
    grid = _sound_grid(stack)
    try:
        try:
            voxels, found = _fill(stack, stack_dtype(stack, likely=True), workers)
        except ValueRangeError:
            voxels, found = _fill(stack, stack_dtype(stack), workers)
    except MemoryError as error:
        raise DicomError(f"{_name(stack)}: not enough memory for {len(stack.frames)} slices.") from error
    return DicomVolume(voxels, grid, stack.series.modality, (*stack.findings, *found))


def read_series(
    path: str | Path, *, series_uid: str | None = None, volume: str | None = None, workers: int | None = None
) -> DicomVolume:
    """Read one volume in a folder, zip archive or file.

    Args:
        series_uid: which series, where there are several: its UID, or the hash of it that sidecars have.
        volume: which volume of the series, where it holds several: its label, such as ``e2`` or ``b1000``.

    Raises:
        DicomError: nothing there; several series or volumes (the message lists them and says how to choose); the
            series is refused, and why.
    """
    found, series, stack = _one_volume(path, series_uid, volume, workers)
    read = read_stack(stack, workers=workers)
    about_series = (*map(_overcome, series.findings), *found.unreadable_beside(series))
    return replace(read, findings=(*about_series, *read.findings))


def read_grid(
    path: str | Path, *, series_uid: str | None = None, volume: str | None = None, workers: int | None = None
) -> SeriesGrid:
    """Where one volume in a folder, zip archive or file lies: from headers alone, as ``read_series`` chooses it."""
    return _sound_grid(_one_volume(path, series_uid, volume, workers)[2])


def require_sound(stack: Stack) -> None:
    """Raise ``DicomError`` with the reasons if a stack is refused."""
    refusals = [f for f in stack.findings if f.severity == "refusal"]
    if refusals:
        raise DicomError(f"{_name(stack)} is refused. {' '.join(map(str, refusals))}")


def _sound_grid(stack: Stack) -> SeriesGrid:
    require_sound(stack)
    if stack.grid is None:
        raise DicomError(f"{_name(stack)}: its slices make no regular grid.")
    return stack.grid


def _one_volume(
    path: str | Path, series_uid: str | None, volume: str | None, workers: int | None
) -> tuple[Scan, Series, Stack]:
    """What was scanned, and the series and the stack in it that are asked for."""
    found = scan(path, workers=workers)
    series = _choose(path, found.series, series_uid)
    refusals = [f for f in series.findings if f.severity == "refusal"]
    # Parts that do not share a grid are volumes for themselves.
    if refusals and not (volume is not None and all(f.code in SPLITTABLE for f in refusals)):
        raise DicomError(f"Series {series.uid}: {' '.join(map(str, refusals))}")
    return found, series, _stack(series, volume)


def _stack(series: Series, volume: str | None) -> Stack:
    chosen = [stack for stack in series.stacks if volume in (None, stack.label)]
    if len(chosen) == 1:
        return chosen[0]
    labels = ", ".join(f"{s.label!r} ({len(s.frames)} slices)" for s in series.stacks[:12])
    more = f" and {len(series.stacks) - 12} more" if len(series.stacks) > 12 else ""
    if volume is not None:
        raise DicomError(f"Series {series.uid} has no volume {volume!r}. There are: {labels}{more}.")
    raise DicomError(
        f"Series {series.uid} holds {len(series.stacks)} volumes: {labels}{more}. Choose one: volume=LABEL, or "
        "--volume LABEL."
    )


def _overcome(finding: Finding) -> Finding:
    """A refusal of the series as a whole is a warning about the one volume that was chosen."""
    return replace(finding, severity="warning", remedy="") if finding.severity == "refusal" else finding


def _name(stack: Stack) -> str:
    label = f" ({stack.label})" if stack.label else ""
    return f"Series {stack.series.uid}{label}"


def _choose(path: str | Path, found: Sequence[Series], series_uid: str | None) -> Series:
    if not found:
        raise DicomError(f"{path}: no DICOM images here.")
    chosen = [s for s in found if series_uid in (None, s.uid, hashed_uid(s.uid))]
    if len(chosen) == 1:
        return chosen[0]
    listing = "; ".join(f"{s.uid} ({s.modality} {s.description!r}, {sum(len(t.frames) for t in s.stacks)} slices)"
                        for s in found[:12])  # fmt: skip
    if series_uid is not None:
        raise DicomError(f"{path}: no series {series_uid}. There are: {listing}.")
    raise DicomError(f"{path}: {len(found)} series: {listing}. Choose one by its UID (series_uid, --series-uid).")


def _fill(stack: Stack, dtype: np.dtype[Any], workers: int | None) -> tuple[NDArray[Any], list[Finding]]:
    first = stack.frames[0]
    found: list[Finding] = []
    voxels = np.empty((len(stack.frames), first.rows, first.columns), dtype)
    for k, plane in enumerate(iter_slices(stack, dtype=dtype, workers=workers, findings=found)):
        voxels[k] = plane.T
    return voxels.T, found


def _stored(frames: Sequence[Frame], workers: int | None) -> Iterator[NDArray[Any]]:
    """Stored values of the frames, in their order; in worker processes where that saves time."""
    compressed = sum(f.layout.frame_bytes for f in frames if f.layout.encapsulated and f.tile is None)
    if compressed < _PARALLEL_BYTES:
        yield from stored_frames(frames)
        return
    # Processes, not threads: the decoders hold the interpreter's lock.
    tasks = [frames[n : n + _FRAMES_A_TASK] for n in range(0, len(frames), _FRAMES_A_TASK)]
    for decoded in in_processes(_decode, tasks, workers=workers):
        yield from decoded


def _decode(frames: Sequence[Frame]) -> list[NDArray[Any]]:
    return list(stored_frames(frames))
