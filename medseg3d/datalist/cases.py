"""Open one case of a data list: what its files hold, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg3d.datalist.model import Case, DataList, shorten
from medseg3d.errors import CaseError, GeometryError
from medseg3d.geometry import grid_distance_mm, orientation
from medseg3d.volume import GRID_TOLERANCE_MM, Volume, read_channels, read_volume

__all__ = ["CaseFacts", "Finding", "LabelValues", "Part", "Severity", "inspect_case", "label_values"]

Severity = Literal["error", "warning", "note"]
Part = Literal["training", "testing"]

MAX_DISTINCT_LABELS = 1000
"""More distinct values than this in a label map mean that it is an image."""


@dataclass(frozen=True)
class Finding:
    """Something about the data that a person should know.

    Attributes:
        severity: ``error`` where training or evaluation would go wrong, ``warning`` where it probably would,
            ``note`` where it would not.
        case: The case, or empty where it is about the whole list.
        code: What kind of finding it is, in a few fixed words: ``"grid-mismatch"``.
        message: The fact, the numbers, and what to do.
    """

    severity: Severity
    case: str
    code: str
    message: str


@dataclass(frozen=True)
class CaseFacts:
    """What one case's files hold.

    Attributes:
        shape: Voxels along each axis of the first channel; None where it cannot be read.
        spacing_mm: Distance between voxel centres along these axes.
        orientation: Where these axes point, as ``"RAS"``.
        voxels: Label id -> number of voxels, background left out; None without a readable label map.
        contents: A hash of each channel's voxels, whatever their file format or orientation; constant channels,
            which are equal without being the same image, have none.
    """

    case: str
    part: Part
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    orientation: str | None = None
    voxels: Mapping[int, int] | None = None
    contents: tuple[str, ...] = ()

    @property
    def presence(self) -> frozenset[int]:
        """The label ids that occur."""
        return frozenset(self.voxels or ())


@dataclass
class _Notes:
    """Collects the findings of one case."""

    case: str
    findings: list[Finding] = field(default_factory=list)

    def add(self, severity: Severity, code: str, message: str) -> None:
        self.findings.append(Finding(severity=severity, case=self.case, code=code, message=message))


def inspect_case(case: Case, part: Part, datalist: DataList) -> tuple[CaseFacts, tuple[Finding, ...]]:
    """Read the images and the label map of ``case``, and compare them with each other and with the list's labels."""
    notes = _Notes(case.case)
    images = _read_images(case, datalist, notes)
    label = None if case.label is None else _read(case.label, notes)
    if case.label in case.files:
        notes.add("error", "label-is-image", f"{case.label} is listed as image and as label: correct one of them.")
    for other in [*images[1:], *([label] if label else [])]:
        if images and images[0] is not other:
            _compare_grids(images[0], other, notes)
    constant = [_check_intensities(image, notes) for image in images]
    _note_constant(images, constant, notes)
    voxels = None if label is None else _check_label(label, datalist, notes)
    contents = tuple(_content(image) for image, flat in zip(images, constant, strict=True) if not flat)
    if len(set(contents)) < len(contents):
        notes.add(
            "warning",
            "channels-equal",
            "Two channels hold the same voxels: one file was probably copied for the other.",
        )
    first = images[0] if images else None
    facts = CaseFacts(
        case=case.case,
        part=part,
        shape=first.voxels.shape if first else None,
        spacing_mm=first.spacing_mm if first else None,
        orientation=orientation(first.affine) if first else None,
        voxels=voxels,
        contents=contents,
    )
    return facts, tuple(notes.findings)


def _read_images(case: Case, datalist: DataList, notes: _Notes) -> list[Volume]:
    """The channels that can be read, each as a volume of its own."""
    if missing := case.missing(datalist.channels):
        notes.add(
            "warning",
            "channel-missing",
            f"{case.case} lacks {', '.join(missing)}: it is zero for the network, and only bundles with "
            "missing_channels: true take the case.",
        )
    if len(case.image) == len(datalist.channels):
        return [volume for path in case.files if (volume := _read(path, notes)) is not None]
    return _read_file_of_channels(case.files[0], datalist, notes)


def _read_file_of_channels(path: Path, datalist: DataList, notes: _Notes) -> list[Volume]:
    file = _read(path, notes, channels=True)
    if file is None:
        return []
    if len(file.voxels) != len(datalist.channels):
        notes.add(
            "error",
            "channels",
            f"{path.name} holds {len(file.voxels)} channel(s), the list names {len(datalist.channels)} "
            f"({', '.join(datalist.channels)}): correct the list, or export the file again.",
        )
    return [
        Volume(voxels, file.affine, path.with_name(f"{path.name} ({name})"))
        for name, voxels in zip(datalist.channels, file.voxels, strict=False)
    ]


def _read(path: Path, notes: _Notes, *, channels: bool = False) -> Volume | None:
    if not path.is_file():
        notes.add("error", "missing", f"{path} does not exist: complete the copy, or correct the path in the list.")
        return None
    try:
        volume = read_channels(path) if channels else read_volume(path)
    except GeometryError as error:
        notes.add("error", "bad-affine", f"{error} Export the file again.")
        return None
    except CaseError as error:
        notes.add("error", "unreadable", str(error))
        return None
    if 0 in volume.voxels.shape:
        notes.add("error", "unreadable", f"{path} has {_by(volume.voxels.shape)} voxels: export the file again.")
        return None
    if volume.voxels.dtype.kind not in "biuf":
        kind = volume.voxels.dtype
        notes.add("error", "unreadable", f"{path} holds {kind} voxels (colours, complex numbers): write plain numbers.")
        return None
    _check_header(path, notes)
    return volume


def _check_header(path: Path, notes: _Notes) -> None:
    """What a NIfTI header says twice, or in other units, is read differently by different programs."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return
    import nibabel

    image: Any = nibabel.load(path)
    unit = image.header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        notes.add(
            "warning",
            "units",
            f"{path.name} measures in units of {unit}; its numbers are taken for millimetres. Convert its header.",
        )
    try:
        sform, qform = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        return  # an impossible quaternion: no program can use the qform, all fall back to the sform
    if sform is None and qform is None:
        notes.add(
            "note",
            "no-orientation",
            f"{path.name} does not say how the patient lies (sform and qform codes are 0): left and right "
            "may be swapped.",
        )
    elif sform is not None and qform is not None:
        _compare_forms(sform, qform, image.shape, path, notes)


def _compare_forms(sform: Any, qform: Any, shape: Sequence[int], path: Path, notes: _Notes) -> None:
    try:
        distance = grid_distance_mm(sform, qform, shape)
    except GeometryError:
        return  # a qform that no image can have; the sform has been checked already
    if distance > GRID_TOLERANCE_MM:
        notes.add(
            "warning",
            "two-affines",
            f"{path.name} holds two affines that are {distance:.2f} mm apart (sform and qform). The sform is used "
            "here, other programs may use the qform: make them equal.",
        )


def _compare_grids(image: Volume, other: Volume, notes: _Notes) -> None:
    if image.voxels.shape != other.voxels.shape:
        notes.add(
            "error",
            "shape-mismatch",
            f"{other.path.name} has {_by(other.voxels.shape)} voxels, {image.path.name} {_by(image.voxels.shape)}: "
            "resample one onto the other's grid (labels with nearest neighbour).",
        )
        return
    distance = grid_distance_mm(image.affine, other.affine, image.voxels.shape)
    if distance > GRID_TOLERANCE_MM:
        notes.add(
            "error",
            "grid-mismatch",
            f"{other.path.name} lies up to {distance:.2f} mm away from {image.path.name}, though both have "
            f"{_by(image.voxels.shape)} voxels (tolerance {GRID_TOLERANCE_MM} mm): resample one onto the other's grid, "
            "or repair the header that is wrong.",
        )


def _check_intensities(image: Volume, notes: _Notes) -> bool:
    """Look for NaN and infinity; return whether the image is constant."""
    voxels = image.voxels
    if voxels.dtype.kind == "f":
        damaged = sum(int(np.count_nonzero(~np.isfinite(slab))) for slab in _slabs(voxels))
        if damaged:
            notes.add(
                "error",
                "not-finite",
                f"{image.path.name} has {damaged} of {voxels.size} voxels that are NaN or infinite: the loss would "
                "become NaN. Export it again, or replace them.",
            )
            return False
    return bool(voxels.min() == voxels.max())


def _note_constant(images: Sequence[Volume], constant: Sequence[bool], notes: _Notes) -> None:
    for image, flat in zip(images, constant, strict=True):
        if flat:
            notes.add(
                "error" if all(constant) else "warning",
                "constant",
                f"{image.path.name} is {image.voxels.flat[0]:g} in every voxel, so it shows nothing: "
                "export it again, or leave the case out.",
            )


def _check_label(label: Volume, datalist: DataList, notes: _Notes) -> Mapping[int, int]:
    values, name = label_values(label.voxels), label.path.name
    if values.not_finite:
        notes.add("error", "label-not-finite", f"{name} has {values.not_finite} voxels that are NaN or infinite.")
    if values.too_many:
        notes.add(
            "error",
            "label-is-image",
            f"{name} holds more than {MAX_DISTINCT_LABELS} different values: it is an image, not a label map.",
        )
        return {}
    if values.fractions:
        notes.add(
            "error",
            "label-not-integer",
            f"{name} holds values that are no whole numbers ({_counted(values.fractions)}): it was probably resampled "
            "with interpolation. Make it again with nearest neighbour.",
        )
    elif label.voxels.dtype.kind == "f" and not values.not_finite:
        notes.add("note", "label-as-float", f"{name} stores its whole numbers as {label.voxels.dtype}: read as labels.")
    known = {*datalist.labels.values(), datalist.ignore_label}
    unknown = {i: n for i, n in values.voxels.items() if i not in known}
    if unknown:
        notes.add(
            "error",
            "label-unknown",
            f"{name} has labels that the list does not name: {_counted(unknown)}. It names "
            f"{', '.join(f'{text} = {i}' for text, i in datalist.labels.items())}: add them, or correct the label map.",
        )
    if not values.voxels and not values.fractions:
        notes.add("warning", "label-empty", f"{name} is empty: leave it so only where there is nothing to find.")
    return values.voxels


def _counted(voxels: Mapping[Any, int]) -> str:
    return shorten(f"{value:g} ({count} voxels)" for value, count in sorted(voxels.items()))


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


@dataclass(frozen=True)
class LabelValues:
    """The values of a label map, and in how many voxels they occur; background (0) is left out.

    Attributes:
        voxels: Whole numbers.
        fractions: Values that are no whole numbers.
        not_finite: Number of voxels that are NaN or infinite.
        too_many: Counting stopped, because there are more than ``MAX_DISTINCT_LABELS`` values.
    """

    voxels: Mapping[int, int]
    fractions: Mapping[float, int]
    not_finite: int
    too_many: bool


def label_values(voxels: NDArray[Any]) -> LabelValues:
    """Count the values of a label map.

    >>> label_values(np.array([[[0.0, 2.0, 2.0, 0.5]]])).voxels
    {2: 2}
    """
    counts: Counter[float] = Counter()
    not_finite = 0
    for slab in _slabs(voxels):
        finite = slab[np.isfinite(slab)] if slab.dtype.kind == "f" else slab
        not_finite += slab.size - finite.size
        values, numbers = np.unique(finite, return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        if len(counts) > MAX_DISTINCT_LABELS:
            return LabelValues(voxels={}, fractions={}, not_finite=not_finite, too_many=True)
    counts.pop(0, None)
    whole = {int(value): n for value, n in sorted(counts.items()) if value == int(value)}
    fractions = {value: n for value, n in sorted(counts.items()) if value != int(value)}
    return LabelValues(voxels=whole, fractions=fractions, not_finite=not_finite, too_many=False)


def _slabs(voxels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Pieces along the last axis, which is the slowest in NIfTI's order: a whole CT needs no second copy of itself."""
    return (voxels[..., k] for k in range(voxels.shape[-1]))


def _content(image: Volume) -> str:
    """A hash of what the image shows: of its voxels in RAS+ order as float32, and not of the file around them."""
    from nibabel.orientations import apply_orientation, io_orientation

    canonical = apply_orientation(image.voxels, io_orientation(image.affine))
    digest = hashlib.blake2b(repr(canonical.shape).encode(), digest_size=16)
    for slab in _slabs(canonical):
        digest.update(slab.astype(np.float32).tobytes())
    return digest.hexdigest()
