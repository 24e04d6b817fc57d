"""Reading volumes: voxels and where they lie. numpy, nibabel and SimpleITK; no torch.

Every reader here returns voxels in the file's own axis order with an affine in RAS+ millimetres, or raises
``CaseError`` with the reason. Nothing is guessed and no second reader is tried when one refuses.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import CaseError, GeometryError
from medseg3d.geometry import Affine, check_affine, grid_distance_mm, lps_to_ras, spacing_mm

__all__ = ["GRID_TOLERANCE_MM", "SUFFIXES", "Volume", "case_name", "label_map", "read_channels", "read_geometry",
           "read_volume", "require_same_grid"]  # fmt: skip

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)

# Writers round affines to float32 (NIfTI's qform to about 1e-3 mm over a torso); a tenth of the finest voxel in
# common use is far above that and far below anything that moves a mask.
GRID_TOLERANCE_MM = 0.05


@dataclass(frozen=True)
class Volume:
    """A 3D image and its grid.

    Attributes:
        voxels: array of shape (i, j, k), in the file's type after its own scaling.
        affine: 4×4, voxel index → RAS+ mm.
        path: the file it came from.
    """

    voxels: NDArray[Any]
    affine: Affine
    path: Path

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return spacing_mm(self.affine)


def case_name(path: str | Path) -> str:
    """File name without its image suffix.

    >>> case_name("study/liver_01.nii.gz")
    'liver_01'
    """
    name = Path(path).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def read_volume(path: str | Path) -> Volume:
    """Read one 3D volume from NIfTI, NRRD or MetaImage.

    A trailing fourth axis of length 1 is dropped. Values are the file's integers, or float32 where it is scaled or
    holds floats.

    Raises:
        CaseError: missing, unreadable or truncated file; not three-dimensional; colours or complex numbers; an unknown
            suffix.
        GeometryError: an affine that no image can have.
    """
    path = _existing(Path(path))
    return _read_nifti(path) if path.name.lower().endswith(NIFTI_SUFFIXES) else _read_itk(path)


def read_geometry(path: str | Path, *, channels: bool = False) -> tuple[tuple[int, ...], Affine]:
    """Shape (i, j, k) and RAS+ affine from the header alone, with ``read_volume``'s errors.

    With ``channels`` a NIfTI file may have a fourth axis, of channels, as ``read_channels`` takes it.
    """
    path = _existing(Path(path))
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        image = _open_nifti(path)
        is_3d = len(image.shape) == 4 and (channels or image.shape[3] == 1)
        shape = image.shape[:3] if is_3d else image.shape
        return _require_3d(tuple(int(n) for n in shape), path), _affine_of(image.affine, path)
    return _itk_geometry(_open_itk(path, voxels=False), path)


def read_channels(paths: str | Path | Sequence[str | Path | None]) -> Volume:
    """Read one file, or several as the channels of one image; voxels get a leading channel axis (c, i, j, k).

    One NIfTI file alone may hold the channels along its fourth axis, as in Task01 of the Medical Segmentation
    Decathlon. ``None`` in place of a path is a channel that the case lacks: zeros on the grid of the others.

    Raises:
        CaseError: as ``read_volume``; no file; a channel on another grid than the first, with the distance in mm.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    present = [file for file in files if file is not None]
    if not present:
        raise CaseError("The list of an image's channels is empty: name one file a channel.")
    if len(files) == 1:
        return _read_file_of_channels(present[0])
    volumes = [read_volume(file) for file in present]
    first = volumes[0]
    for other in volumes[1:]:
        require_same_grid(first, other)
    voxels = iter(volume.voxels for volume in volumes)
    nothing = np.zeros_like(first.voxels)
    return Volume(np.stack([nothing if file is None else next(voxels) for file in files]), first.affine, first.path)


def _read_file_of_channels(path: str | Path) -> Volume:
    """One file as (c, i, j, k): the fourth axis of a NIfTI file comes first."""
    path = _existing(Path(path))
    if not path.name.lower().endswith(NIFTI_SUFFIXES) or len(_open_nifti(path).shape) != 4:
        volume = read_volume(path)
        return Volume(volume.voxels[None], volume.affine, volume.path)
    image, voxels = _nifti_voxels(path)
    return Volume(np.moveaxis(voxels, 3, 0), _affine_of(image.affine, path), path)


def require_same_grid(first: Volume, second: Volume, *, tolerance_mm: float = GRID_TOLERANCE_MM) -> None:
    """Raise ``GeometryError`` unless two volumes have the same shape and place their voxels alike.

    Shapes are compared over the last three axes, so that an image with channels can be held against its label.
    """
    shape_a, shape_b = first.voxels.shape[-3:], second.voxels.shape[-3:]
    if shape_a != shape_b:
        raise GeometryError(
            f"{second.path.name} has {_by(shape_b)} voxels, {first.path.name} {_by(shape_a)}. "
            "Resample one onto the other's grid before it is used."
        )
    distance = grid_distance_mm(first.affine, second.affine, shape_a)
    if distance > tolerance_mm:
        raise GeometryError(
            f"{second.path.name} lies up to {distance:.2f} mm away from {first.path.name} (tolerance {tolerance_mm} "
            "mm). Their headers disagree: resample one onto the other's grid, or repair the header."
        )


def label_map(volume: Volume) -> NDArray[Any]:
    """The voxels of a label map as uint8, or int16 where ids exceed 255.

    Raises:
        CaseError: values that are not integers (NaN too), or outside 0 to 32767.
    """
    rounded = np.rint(volume.voxels)
    if not np.array_equal(rounded, volume.voxels):
        raise CaseError(
            f"{volume.path}: label values are not integers. Was it resampled by interpolation? Use nearest neighbour."
        )
    low, high = rounded.min(initial=0), rounded.max(initial=0)
    if low < 0 or high > np.iinfo(np.int16).max:
        raise CaseError(f"{volume.path}: label ids from {low:g} to {high:g}; 0 to 32767 are possible.")
    return np.ascontiguousarray(rounded, dtype=np.uint8 if high < 256 else np.int16)


def _existing(path: Path) -> Path:
    if not path.name.lower().endswith(SUFFIXES):
        raise CaseError(f"{path}: not a volume that can be read here; known are {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise CaseError(f"{path}: no such file.")
    return path


def _open_nifti(path: Path) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        return nibabel.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise CaseError(f"{path}: not a readable NIfTI file ({error}). Is it complete?") from error


def _nifti_voxels(path: Path) -> tuple[Any, NDArray[Any]]:
    """The opened image and its voxels, of any number of axes."""
    image = _open_nifti(path)
    try:
        voxels = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise CaseError(
            f"{path}: the voxels cannot be read ({error}). The file is probably truncated: copy it again."
        ) from error
    if voxels.dtype.kind not in "iuf":
        raise CaseError(f"{path}: voxels are colours or complex numbers ({voxels.dtype}): write plain numbers.")
    return image, voxels.astype(np.float32) if voxels.dtype == np.float64 else voxels


def _read_nifti(path: Path) -> Volume:
    image, voxels = _nifti_voxels(path)
    if voxels.ndim == 4 and voxels.shape[3] == 1:
        voxels = voxels[..., 0]
    _require_3d(voxels.shape, path)
    return Volume(voxels, _affine_of(image.affine, path), path)


def _open_itk(path: Path, *, voxels: bool) -> Any:
    """A SimpleITK image, or the reader that holds its header."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        return reader.Execute() if voxels else reader
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CaseError(f"{path}: not readable ({reason}). Is it complete?") from error


def _read_itk(path: Path) -> Volume:
    import SimpleITK as sitk

    image = _open_itk(path, voxels=True)
    shape, affine = _itk_geometry(image, path)
    # SimpleITK hands arrays over as (k, j, i), after a fourth axis of length 1 where there is one.
    voxels = sitk.GetArrayFromImage(image).reshape(shape[::-1])
    return Volume(np.ascontiguousarray(voxels.T), affine, path)


def _itk_geometry(image: Any, path: Path) -> tuple[tuple[int, ...], Affine]:
    size = tuple(image.GetSize())
    shape = _require_3d(size[:3] if len(size) == 4 and size[3] == 1 else size, path)
    components = getattr(image, "GetNumberOfComponentsPerPixel", None) or image.GetNumberOfComponents
    if components() != 1:
        raise CaseError(f"{path}: {components()} components a voxel; one file a channel is needed.")
    axes = len(size)
    affine_lps = np.eye(4)
    affine_lps[:3, :3] = np.reshape(image.GetDirection(), (axes, axes))[:3, :3] @ np.diag(image.GetSpacing()[:3])
    affine_lps[:3, 3] = image.GetOrigin()[:3]
    return shape, _affine_of(lps_to_ras(affine_lps), path)


def _affine_of(affine: Any, path: Path) -> Affine:
    try:
        return check_affine(affine)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error


def _require_3d(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    if len(shape) != 3:
        raise CaseError(
            f"{path}: {_by(shape)} voxels, {len(shape)} axes; a volume has three. "
            "Write one file a channel or time point."
        )
    return shape


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
