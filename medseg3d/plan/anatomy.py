"""What labels mean for a plan: sides that forbid a mirror image, tolerances of surfaces, rare labels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medseg3d.plan.fingerprint import Fingerprint
from medseg3d.plan.model import Value

__all__ = ["case_weights", "flip_axes", "rare_labels", "repeat_weights", "tolerances_mm"]

AXES = ("left-right", "back-front", "foot-head")

ENDS: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (frozenset({"left", "lt", "sinister", "sinistra"}), frozenset({"right", "rt", "dexter", "dextra"})),
    (frozenset({"anterior", "ventral", "front"}), frozenset({"posterior", "dorsal", "back"})),
    (frozenset({"superior", "upper", "cranial"}), frozenset({"inferior", "lower", "caudal"})),
)  # fmt: skip
"""Words in the names of labels for the two ends of each axis. One letter counts only where both letters occur."""

LETTERS = ((frozenset("l"), frozenset("r")), (frozenset("a"), frozenset("p")), (frozenset("s"), frozenset("i")))

RARE_BELOW = 0.25
"""A label in fewer of the cases is rare."""

TOLERANCE_OF_DIAMETER = 0.05


def flip_axes(names: Sequence[str], *, without: Sequence[int] = ()) -> Value:
    """The axes along which images may be mirrored: all, but for those whose ends the labels tell apart.

    >>> flip_axes(["kidney_left", "kidney_right"]).value
    [1, 2]
    >>> flip_axes(["edema", "core"]).value
    [0, 1, 2]
    """
    forbidden = {axis: found for axis in range(3) if (found := _sided(names, axis))}
    allowed = [axis for axis in range(3) if axis not in forbidden and axis not in without]
    parts = [
        f"{_listed(found)} {'names' if len(found) == 1 else 'name'} an end of the {AXES[axis]} axis: mirrored along "
        "it, labels would be wrong"
        for axis, found in forbidden.items()
    ]
    parts += [f"{AXES[axis]} is the axis of the slices" for axis in without if axis not in forbidden]
    if not parts:
        return Value(allowed, "No label names a side: images may be mirrored along every axis, as nnU-Net does.")
    return Value(allowed, f"{'; '.join(parts)}. The other axes may be mirrored, as nnU-Net does.")


def _sided(names: Sequence[str], axis: int) -> list[str]:
    """Labels that name an end of an axis."""
    words = {name: _words(name) for name in names}
    first, second = ENDS[axis]
    found = [name for name in names if words[name] & (first | second)]
    letters = [[name for name in names if words[name] & end] for end in LETTERS[axis]]
    return found + [name for name in names if all(letters) and name not in found and name in letters[0] + letters[1]]


def _words(name: str) -> set[str]:
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return set(re.split(r"[^a-z]+", apart.lower()))


def tolerances_mm(fingerprint: Fingerprint, spacing_mm: Sequence[float]) -> Value:
    """By how much the surface of each label may be off in the normalised surface distance.

    A twentieth of the diameter of a ball of the label's median volume, and at least the edge of a cube as large as a
    voxel, since no outline is known better; rounded to 0.1 mm. Raters differ by about that: the Medical Segmentation
    Decathlon takes 7 mm for the liver, 3 mm for the spleen, 1 mm for the hippocampus.
    """
    edge = math.prod(spacing_mm) ** (1 / 3)
    values = {}
    for name in fingerprint.labels:
        volume = fingerprint.label(name).volume_ml
        diameter = 2 * (3 * volume[1] * 1000 / (4 * math.pi)) ** (1 / 3) if volume else 0.0
        values[name] = round(max(TOLERANCE_OF_DIAMETER * diameter, edge), 1)
    return Value(
        values,
        "Millimetres for the normalised surface distance: a twentieth of the diameter of a ball of the label's median "
        f"volume, at least the edge of a voxel ({edge:.2g} mm).",
    )


def rare_labels(fingerprint: Fingerprint) -> dict[str, float]:
    """Labels in fewer than a quarter of the cases, and in what share; those that never occur are left out."""
    shares = {name: fingerprint.label(name).cases / len(fingerprint.cases) for name in fingerprint.labels}
    return {name: share for name, share in shares.items() if 0 < share < RARE_BELOW}


def repeat_weights(fingerprint: Fingerprint) -> dict[str, float]:
    """How much more often than the others each case with a rare label is drawn; cases without one are left out.

    The square root of a quarter over the label's share of the cases, for the rarest label of the case.
    Source: repeat factor sampling, Gupta et al. 2019 (LVIS).
    """
    factors = {
        fingerprint.labels[name]: math.sqrt(RARE_BELOW / share) for name, share in rare_labels(fingerprint).items()
    }
    weights = {
        case.case: max((factors[i] for i in case.volume_ml if i in factors), default=1.0) for case in fingerprint.cases
    }
    return {name: round(weight, 3) for name, weight in weights.items() if weight > 1}


def case_weights(items: Sequence[Mapping[str, Any]], weights: Mapping[str, float]) -> list[float]:
    """A weight an item for ``training_loader``: 1, but for the cases that ``weights`` names.

    >>> case_weights([{"case": "a"}, {"case": "b"}], {"b": 2.5})
    [1.0, 2.5]
    """
    return [float(weights.get(item["case"], 1.0)) for item in items]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
