"""Find the cases to segment, and look at an image's header before anything is loaded."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medseg3d.dicom import Stack
from medseg3d.dicom.coregistered import Coregistered
from medseg3d.dicom.sidecar import hashed_uid
from medseg3d.errors import CaseError, GeometryError
from medseg3d.geometry import Affine, check_affine, grid_distance_mm
from medseg3d.inference.studies import RefusedSeries, reference_stack, study_cases
from medseg3d.volume import GRID_TOLERANCE_MM, SUFFIXES, case_name, read_geometry, read_volume

__all__ = ["ImageHeader", "count_not_finite", "find_cases", "image_paths", "missing_channels",
           "read_case_header", "read_header",
           "read_image_header", "source_of"]  # fmt: skip

NIFTI_SUFFIXES = (".nii.gz", ".nii")

# nnU-Net's spelling of one file a channel: CASE_0000.nii.gz, CASE_0001.nii.gz.
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True)
class ImageHeader:
    """Grid of an image file, read without its voxels.

    Attributes:
        path: the file.
        shape: voxels along the three spatial axes.
        channels: values a voxel.
        affine_ras: voxel indices to mm, RAS+.
        nifti: the NIfTI header, for what an affine does not say; None for other formats.
    """

    path: Path
    shape: tuple[int, int, int]
    channels: int
    affine_ras: Affine
    nifti: Any = None


def find_cases(path: str | Path, *, modality: str | Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The cases at ``path``: dicts of ``case`` (a name), ``image`` and, if known, ``label`` (a path).

    ``path`` is an image (.nii, .nii.gz, .nrrd, .mha, .mhd); a folder of them, not searched deeper, in which nnU-Net's
    ``_0000``, ``_0001``, … are the channels of one case; a data list (.json), of which the testing cases are taken
    and, where it has none, the training cases; or DICOM: a tree of studies, a zip archive or a file. A folder that
    holds images of the first kind is not searched for DICOM.

    ``image`` is a path, a list of one a channel, or what ``study_cases`` gives for a DICOM series.

    Args:
        modality: of the DICOM series that are taken (CT, MR, PT), or of each channel, see ``study_cases``; None takes
            all.

    Raises:
        CaseError: nothing there, no image in it, two images with one case name, or a channel file missing.
        DataListError: the data list is malformed.
    """
    path = Path(path)
    if not path.exists():
        raise CaseError(
            f"{path}: no such file or folder. Give an image, a folder of images or of DICOM, or a data list (.json)."
        )
    if path.is_dir():
        return _cases_of_folder(path, modality)
    if path.suffix.lower() == ".json":
        return _cases_of_datalist(path)
    if _is_image(path):
        return [{"case": case_name(path), "image": str(path)}]
    cases = study_cases(path, modality=modality)
    if not cases:
        raise CaseError(f"{path}: not an image that can be read ({', '.join(SUFFIXES)}, DICOM).")
    return cases


def read_image_header(image: Any) -> ImageHeader:
    """The header of a case's ``image``, whatever ``find_cases`` gave for it.

    Raises:
        CaseError: a file is missing or damaged.
        DicomError: a series that is refused.
        GeometryError: not a volume, an impossible affine, or channels on different grids.
    """
    if isinstance(image, RefusedSeries):
        image.refuse()
    if isinstance(image, Coregistered):
        return replace(_header_of_stack(image.reference), channels=len(image.stacks))
    if isinstance(image, Stack):
        return _header_of_stack(image)
    header = read_case_header(image_paths(image))
    return replace(header, channels=header.channels + len(missing_channels(image)))


def missing_channels(image: Any) -> tuple[int, ...]:
    """The channels, counted from 0, that a case's ``image`` lacks (None in place of their paths)."""
    return tuple(i for i, path in enumerate(image) if path is None) if isinstance(image, (list, tuple)) else ()


def image_paths(image: Any) -> list[Path]:
    """The files that a case's ``image`` is read from; of a DICOM series the folder or archive."""
    if isinstance(image, RefusedSeries):
        return [image.path]
    if (stack := reference_stack(image)) is not None:
        file = stack.frames[0].source.file
        return [file.path if file.member else file.path.parent]
    return [Path(image)] if isinstance(image, (str, Path)) else [Path(p) for p in image if p is not None]


def read_case_header(paths: Sequence[str | Path]) -> ImageHeader:
    """The header of a case of one file, or of one file a channel, which must then share a grid.

    Raises:
        CaseError: a file is missing or damaged.
        GeometryError: not a volume, an impossible affine, or channels on different grids.
    """
    first, *others = (read_header(path) for path in paths)
    for other in others:
        _check_same_grid(first, other)
    if others and (multiple := next((h for h in (first, *others) if h.channels > 1), None)):
        raise CaseError(
            f"{multiple.path.name} has {multiple.channels} channels itself; give one file, or one file a channel."
        )
    return ImageHeader(first.path, first.shape, first.channels + len(others), first.affine_ras, first.nifti)


def read_header(path: str | Path) -> ImageHeader:
    """The header of one image file.

    Raises:
        CaseError: the file is missing or damaged.
        GeometryError: not a volume, or an impossible affine.
    """
    path = Path(path)
    if not path.is_file():
        raise CaseError(f"{path}: no such file.")
    header = _read_nifti(path) if path.name.lower().endswith(NIFTI_SUFFIXES) else _read_itk(path)
    if min(header.shape) < 2:
        raise GeometryError(f"{path.name}: {'×'.join(map(str, header.shape))} voxels are one slice, not a volume.")
    return header


def source_of(image: Any) -> Any:
    """What a sidecar says of where a mask comes from: file names, or series by a hash of their UID."""
    if isinstance(image, Coregistered):
        return [source_of(stack) for stack in image.stacks]
    if isinstance(image, Stack):
        series = image.series
        return {
            "modality": series.modality,
            "series_number": series.number,
            "description": series.description,
            "stack": image.label,
            "series_uid": hashed_uid(series.uid),
        }
    names = [path.name for path in image_paths(image)]
    return names[0] if len(names) == 1 else names


def count_not_finite(path: Path) -> int:
    """How many voxels of a file are NaN or infinite; 0 of what is no image file, as a folder of DICOM files."""
    if not _is_image(path):
        return 0
    nifti = path.name.lower().endswith(NIFTI_SUFFIXES)
    voxels = np.asanyarray(nibabel.load(path).dataobj) if nifti else read_volume(path).voxels
    return int(voxels.size - np.isfinite(voxels).sum())


def _cases_of_folder(folder: Path, modality: str | Sequence[str] | None) -> list[dict[str, Any]]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and _is_image(p))
    if not files:
        cases = study_cases(folder, modality=modality)
        if not cases:
            raise CaseError(_nothing_in(folder))
        return cases
    groups: dict[str, list[Path]] = {}
    channel_cases = {m["case"] for p in files if (m := CHANNEL.fullmatch(case_name(p))) and int(m["channel"]) == 0}
    for path in files:
        match = CHANNEL.fullmatch(case_name(path))
        case = match["case"] if match and match["case"] in channel_cases else case_name(path)
        groups.setdefault(case, []).append(path)
    return [
        {"case": case, "image": _checked_group(case, paths, case in channel_cases)} for case, paths in groups.items()
    ]


def _checked_group(case: str, paths: list[Path], channels: bool) -> str | list[str]:
    if not channels:
        if len(paths) > 1:
            raise CaseError(f"{' and '.join(p.name for p in paths)} would both be case {case!r}: rename or remove one.")
        return str(paths[0])
    expected = [f"{case}_{i:04d}" for i in range(len(paths))]
    found = [case_name(p) for p in paths]
    if found != expected:
        missing = sorted(set(expected) - set(found)) or expected
        raise CaseError(f"Case {case!r}: the files {', '.join(p.name for p in paths)} are not one a channel; "
                        f"{missing[0]} is missing or double.")  # fmt: skip
    return [str(p) for p in paths] if len(paths) > 1 else str(paths[0])


def _cases_of_datalist(path: Path) -> list[dict[str, Any]]:
    from medseg3d.datalist import read_datalist

    datalist = read_datalist(path)
    entries = datalist.testing or datalist.training
    if not entries:
        raise CaseError(f"{path}: the data list has no cases.")
    return [_case_of_entry(entry) for entry in entries]


def _case_of_entry(entry: Any) -> dict[str, Any]:
    images = [None if p is None else str(p) for p in entry.image]
    case: dict[str, Any] = {"case": entry.case, "image": images if len(images) > 1 else images[0]}
    if entry.label is not None:
        case["label"] = str(entry.label)
    return case


def _is_image(path: Path) -> bool:
    # A leading dot: macOS's ._ twins of files, and half-written outputs.
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def _nothing_in(folder: Path) -> str:
    message = f"{folder}: no image ({', '.join(SUFFIXES)}) in this folder."
    deeper = next((p for p in sorted(folder.glob("*/*")) if _is_image(p)), None)
    if deeper is not None:
        return f"{message} Subfolders are not searched, {deeper.parent.name}/ has some: give that, or a data list."
    return f"{message} Nor is there DICOM below it."


def _header_of_stack(stack: Stack) -> ImageHeader:
    if stack.grid is None:
        raise GeometryError("The series has no regular grid.")
    return ImageHeader(image_paths(stack)[0], stack.grid.shape, 1, stack.grid.affine_ras)


def _read_nifti(path: Path) -> ImageHeader:
    try:
        image = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise CaseError(f"{path.name}: not a NIfTI file, or damaged ({error}).") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise CaseError(f"{path.name}: cannot be read ({error}).") from error
    shape, channels = _volume_shape(path, image.shape)
    return ImageHeader(path, shape, channels, _checked_affine(path, image.affine), image.header.copy())


def _volume_shape(path: Path, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    trailing = [n for n in shape[3:] if n != 1]  # time, then vector components
    if len(shape) < 3 or len(trailing) > 1:
        raise GeometryError(f"{path.name}: {len(shape)} dimensions ({'×'.join(map(str, shape))}); a volume has 3, "
                            "and a fourth for channels.")  # fmt: skip
    return (int(shape[0]), int(shape[1]), int(shape[2])), int(trailing[0]) if trailing else 1


def _read_itk(path: Path) -> ImageHeader:
    (i, j, k), affine_ras = read_geometry(path)
    return ImageHeader(path, (i, j, k), 1, affine_ras)


def _checked_affine(path: Path, affine: Affine) -> Affine:
    try:
        return check_affine(affine)
    except GeometryError as error:
        raise GeometryError(f"{path.name}: {error}") from error


def _check_same_grid(first: ImageHeader, other: ImageHeader) -> None:
    if first.shape != other.shape:
        raise GeometryError(f"{first.path.name} has {'×'.join(map(str, first.shape))} voxels, {other.path.name} "
                            f"{'×'.join(map(str, other.shape))}: the channels of a case share one grid.")  # fmt: skip
    distance_mm = grid_distance_mm(first.affine_ras, other.affine_ras, first.shape)
    if distance_mm > GRID_TOLERANCE_MM:
        raise GeometryError(f"{first.path.name} and {other.path.name} place the same voxel {distance_mm:.2f} mm apart: "
                            "the channels of a case share one grid. Resample one to the other.")  # fmt: skip
