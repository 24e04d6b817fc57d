"""One case's part of a fingerprint: what its image and its label map hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.datalist import Case
from medseg3d.geometry import Affine, orientation, spacing_mm, voxel_volume_ml
from medseg3d.volume import label_map, read_channels, read_volume, require_same_grid

__all__ = ["CaseFingerprint", "ChannelIntensities", "fingerprint_case", "measure_case"]

QUANTILES = 500
"""Quantiles kept of each channel's foreground: enough for the 0.5th percentile of all cases together."""

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class ChannelIntensities:
    """Intensities of one channel inside the labels of one case.

    Attributes:
        mean, sd, minimum, maximum: over all voxels of a label.
        quantiles: at (i + ½) / n; each stands for an equal share of the foreground.
    """

    mean: float
    sd: float
    minimum: float
    maximum: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class CaseFingerprint:
    """What one case holds. Axes are those of the patient: left to right, back to front, foot to head (RAS).

    Attributes:
        case: its name.
        key: changes when one of its files does.
        orientation: of the file itself, such as ``"LPS"``.
        spacing_mm: distance between voxel centres.
        shape: voxels of the image.
        cropped_shape: voxels of the box around what is not 0 in any channel.
        channels: intensities inside the labels, a channel each; None of a channel that the case lacks, and empty where
            the case has no label.
        volume_ml: label id → volume; labels that do not occur are left out.
        components: label id → connected components (26 neighbours).
        largest_share: label id → share of the volume that the largest component has.
    """

    case: str
    key: str
    orientation: str
    spacing_mm: Triple
    shape: Shape
    cropped_shape: Shape
    channels: tuple[ChannelIntensities | None, ...]
    volume_ml: Mapping[int, float]
    components: Mapping[int, int]
    largest_share: Mapping[int, float]

    @property
    def kept(self) -> float:
        """Share of the image's voxels that is left after cropping to what is not 0."""
        return math.prod(self.cropped_shape) / math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """The fingerprint as JSON values, quantiles and all."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CaseFingerprint:
        """Back from ``to_json``; JSON turns ids into texts and tuples into lists."""
        channels = tuple(
            None if channel is None else ChannelIntensities(**{**channel, "quantiles": tuple(channel["quantiles"])})
            for channel in values["channels"]
        )
        triples = {name: tuple(values[name]) for name in ("spacing_mm", "shape", "cropped_shape")}
        by_id = {
            name: {int(i): value for i, value in values[name].items()}
            for name in ("volume_ml", "components", "largest_share")
        }
        return cls(**{**values, **triples, **by_id, "channels": channels})


def fingerprint_case(case: Case, *, key: str = "", ignore: int | None = None) -> CaseFingerprint:
    """Read a case's images and label map and measure them.

    Args:
        case: of the training part of a data list.
        key: kept with the result, see ``CaseFingerprint``.
        ignore: the label id of voxels whose truth is not known; it counts as no label.

    Raises:
        CaseError: a file that cannot be read, grids that differ, label values that are not integers.
    """
    image = read_channels(case.image)
    voxels = np.zeros(image.voxels.shape[1:], np.uint8)
    if case.label is not None:
        label = read_volume(case.label)
        require_same_grid(image, label)
        voxels = label_map(label)
    if ignore is not None:
        voxels = np.where(voxels == ignore, 0, voxels)
    lacking = [channel for channel, path in enumerate(case.image) if path is None]
    return measure_case(image.voxels, voxels, affine=image.affine, case=case.case, key=key, lacking=lacking)


def measure_case(
    images: NDArray[Any],
    labels: NDArray[Any],
    *,
    affine: Affine,
    case: str = "",
    key: str = "",
    lacking: Sequence[int] = (),
) -> CaseFingerprint:
    """The fingerprint of arrays.

    Args:
        images: (channel, i, j, k).
        labels: (i, j, k), 0 is background.
        affine: voxel index → RAS+ mm.
        case, key: kept with the result.
        lacking: channels that the case has no image of; their voxels are zeros.
    """
    order = _axes_of_the_patient(affine)
    sizes, counts = _components(labels)
    voxel_ml = voxel_volume_ml(affine)
    spacing = spacing_mm(affine)
    return CaseFingerprint(
        case=case,
        key=key,
        orientation=orientation(affine),
        spacing_mm=_picked([round(mm, 6) for mm in spacing], order),
        shape=_picked(images.shape[1:], order),
        cropped_shape=_picked(_cropped_shape(images), order),
        channels=_intensities(images, labels > 0, lacking),
        volume_ml={i: round(sum(pieces) * voxel_ml, 6) for i, pieces in sizes.items()},
        components=counts,
        largest_share={i: round(max(pieces) / sum(pieces), 6) for i, pieces in sizes.items()},
    )


def _axes_of_the_patient(affine: Affine) -> tuple[int, int, int]:
    """The voxel axes that run mostly left-right, back-front and foot-head, in this order."""
    code = orientation(affine)
    i, j, k = (next(n for n, letter in enumerate(code) if letter in pair) for pair in ("LR", "PA", "IS"))
    return i, j, k


def _picked(values: Any, order: tuple[int, int, int]) -> Any:
    return tuple(values[axis] for axis in order)


def _cropped_shape(images: NDArray[Any]) -> Shape:
    """Size of the box around what is not 0 in any channel; of the whole image where all is 0."""
    present = (images != 0).any(axis=0)
    if not present.any():
        return images.shape[1:]
    spans = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(present.any(axis=others))
        spans.append(int(occupied[-1] - occupied[0] + 1))
    return spans[0], spans[1], spans[2]


def _intensities(
    images: NDArray[Any], foreground: NDArray[np.bool_], lacking: Sequence[int]
) -> tuple[ChannelIntensities | None, ...]:
    if not foreground.any():
        return ()
    return tuple(
        None if channel in lacking else _described(image[foreground].astype(np.float64))
        for channel, image in enumerate(images)
    )


def _described(values: NDArray[np.float64]) -> ChannelIntensities:
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return ChannelIntensities(
        mean=_short(values.mean()),
        sd=_short(values.std()),
        minimum=_short(values.min()),
        maximum=_short(values.max()),
        quantiles=tuple(_short(value) for value in np.quantile(values, at)),
    )


def _short(value: float) -> float:
    """Seven digits: more than any scanner gives, and the same on every machine."""
    return float(f"{value:.7g}")


def _components(labels: NDArray[Any]) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Voxels of each connected component of each label, and how many there are."""
    import cc3d

    numbered = cc3d.connected_components(np.ascontiguousarray(labels), connectivity=26)
    flat = np.asarray(numbered).ravel()
    voxels = np.bincount(flat)
    ids = np.zeros(len(voxels), dtype=np.int64)
    ids[flat] = labels.ravel()
    sizes: dict[int, list[int]] = {}
    for component in range(1, len(voxels)):
        sizes.setdefault(int(ids[component]), []).append(int(voxels[component]))
    sizes = dict(sorted(sizes.items()))
    return sizes, {i: len(pieces) for i, pieces in sizes.items()}
