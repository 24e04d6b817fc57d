"""Which frames of a series make one volume.

What cannot lie on one grid (matrix, orientation, pixel spacing, frame of reference, stack) is always told apart.
Everything else (echo, time, b-value, acquisition, …) tells volumes apart only where slices would otherwise repeat a
position: an ordinary CT keeps together although its acquisition number changes half way.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from medseg3d.dicom.frames import Frame
from medseg3d.dicom.ordering import distances_mm, duplicate_tolerance_mm, position_ids
from medseg3d.dicom.traits import NUMBERED, RANKED, TRAITS, WITHOUT_ORDER, trait_label

__all__ = ["ORIENTATION_TOLERANCE", "SPACING_TOLERANCE", "Group", "geometry_differences", "group_frames"]

# Direction cosines are written with 4 to 16 digits; 0.001 is 0.06°, or 0.3 mm across a field of view of 300 mm.
ORIENTATION_TOLERANCE = 1e-3
# Relative; 0.1 % is 0.5 mm across 500 mm.
SPACING_TOLERANCE = 1e-3
# Of the six direction cosines, for a number that few orientations share: any that are not alike.
_WEIGHTS = (1.0, 0.618, 0.755, 0.819, 0.857, 0.881)


@dataclass(frozen=True)
class Group:
    """Frames that belong together.

    Attributes:
        label: what tells them from the other groups; "" for an only one.
        frames: in file order.
        part: number, from 1, of the part of the series that could lie on one grid.
        ranked_by: the trait whose order, not value, told volumes apart; "" where none had to.
    """

    label: str
    frames: tuple[Frame, ...]
    part: int
    ranked_by: str = ""


def group_frames(frames: Sequence[Frame], reference_of: Callable[[Frame], str]) -> list[Group]:
    """Groups of the frames of one series, in the order of what separates them: time, phase, b-value, echo, …

    InstanceNumber, which may be empty or begin again in each volume, decides only where nothing else does.
    ``reference_of`` gives a frame's frame of reference.
    """
    ordered = sorted(frames, key=_file_order)
    parts = _parts(ordered, reference_of)
    groups: list[Group] = []
    for number, part in enumerate(parts, 1):
        prefix = f"part{number}" if len(parts) > 1 else ""
        groups += [
            Group("_".join(filter(None, (prefix, *labels))), tuple(members), number, ranked)
            for labels, members, ranked in _split_repeats(part)
        ]
    return _distinct(groups)


def geometry_differences(heads: Sequence[Frame]) -> list[str]:
    """Names of what differs between frames, each of another part: matrix, orientation, spacing."""
    names = {
        "matrix": len({(f.rows, f.columns) for f in heads}) > 1,
        "orientation": any(not _same_orientation(heads[0], f) for f in heads[1:]),
        "spacing": any(not _same_spacing(heads[0], f) for f in heads[1:]),
    }
    return [name for name, differs in names.items() if differs]


def _file_order(frame: Frame) -> tuple[int, str, int, tuple[int, int]]:
    return (frame.instance_number, frame.source.sop_instance_uid, frame.index, frame.tile or (0, 0))


def _parts(frames: Sequence[Frame], reference_of: Callable[[Frame], str]) -> list[list[Frame]]:
    """Frames that could lie on one grid together."""
    parts: list[list[Frame]] = []
    heads: dict[Hashable, list[int]] = defaultdict(list)
    stacks = Counter(frame.traits.get("stack") for frame in frames)
    # Some writers number every frame as a stack of its own: that tells nothing apart.
    use_stacks = min(stacks.values()) > 1
    for frame in frames:
        key = (frame.rows, frame.columns, reference_of(frame), frame.traits.get("stack") if use_stacks else None)
        bucket = _bucket(frame)
        near = sorted(n for b in (bucket - 1, bucket, bucket + 1) for n in heads.get((key, b), ()))
        match = next((n for n in near if _same_plane(parts[n][0], frame)), None)
        if match is None:
            heads[key, bucket].append(len(parts))
            parts.append([frame])
        else:
            parts[match].append(frame)
    return parts


def _bucket(frame: Frame) -> int:
    """A number that differs by 1 at most between frames of one orientation: thousands need not be compared pairwise."""
    if frame.row is None or frame.column is None:
        return 0
    projection = sum(w * cosine for w, cosine in zip(_WEIGHTS, frame.row + frame.column, strict=True))
    return math.floor(projection / (ORIENTATION_TOLERANCE * sum(_WEIGHTS)))


def _same_plane(a: Frame, b: Frame) -> bool:
    return _same_orientation(a, b) and _same_spacing(a, b)


def _same_orientation(a: Frame, b: Frame) -> bool:
    if a.row is None or b.row is None or a.column is None or b.column is None:
        return a.row == b.row and a.column == b.column
    return all(abs(x - y) <= ORIENTATION_TOLERANCE for x, y in zip(a.row + a.column, b.row + b.column, strict=True))


def _same_spacing(a: Frame, b: Frame) -> bool:
    if a.spacing_mm is None or b.spacing_mm is None:
        return a.spacing_mm == b.spacing_mm
    return all(abs(x - y) <= SPACING_TOLERANCE * abs(x) for x, y in zip(a.spacing_mm, b.spacing_mm, strict=True))


_Split = tuple[tuple[str, ...], list[Frame], str]


def _split_repeats(frames: list[Frame]) -> list[_Split]:
    """Split frames of one geometry by their traits until no position repeats, or nothing tells the repeats apart."""
    unsplit: list[_Split] = [((), frames, "")]
    if any(f.position_mm is None or f.row is None or f.column is None for f in frames):
        return unsplit
    ids = position_ids(distances_mm(frames), duplicate_tolerance_mm(frames[0]))
    repeats = Counter(ids.tolist())
    most = max(repeats.values())
    if most == 1 or len(repeats) == 1:
        return unsplit
    for name in TRAITS:
        values = [frame.traits.get(name) for frame in frames]
        distinct = list(dict.fromkeys(values))
        if 1 < len(distinct) <= most and _separates(values, ids, distinct):
            ordered = _in_order(name, distinct, frames)
            names = _names(name, ordered)
            return [
                ((names[value], *labels), members, ranked)
                for value in ordered
                for labels, members, ranked in _split_repeats(
                    [f for f, v in zip(frames, values, strict=True) if v == value]
                )
            ]
    return _split_by_rank(frames, ids, repeats) or unsplit


def _separates(values: Sequence[Hashable], ids: np.ndarray, distinct: Sequence[Hashable]) -> bool:
    """Whether a trait differs between frames at one position, and each of its values covers several positions."""
    covered: dict[Hashable, set[int]] = {value: set() for value in distinct}
    for value, position in zip(values, ids.tolist(), strict=True):
        covered[value].add(position)
    total = sum(map(len, covered.values()))
    return min(map(len, covered.values())) > 1 and total > len(set(ids.tolist()))


def _names(trait: str, values: Sequence[Hashable]) -> dict[Hashable, str]:
    """A label for each of a trait's ordered values; an image type is named by the words that not all have."""
    labels = {v: trait_label(trait, v, rank) for rank, v in enumerate(values, 1)}
    if trait != "image_type" or not all(isinstance(v, tuple) for v in values):
        return labels
    common = set.intersection(*(set(v) for v in values))  # type: ignore[call-overload]
    words = {v: "-".join(_slug(w) for w in v if w not in common)[:16].strip("-") for v in values}  # type: ignore[attr-defined]
    return words if all(words.values()) and len(set(words.values())) == len(words) else labels


def _slug(word: str) -> str:
    return "".join(c for c in word.lower() if c.isalnum())


def _in_order(name: str, values: Sequence[Hashable], frames: Sequence[Frame]) -> list[Hashable]:
    """The values of a trait as their volumes shall follow each other; ``values`` are in file order."""
    ordered = list(values) if name in WITHOUT_ORDER else _ascending(values)
    if name in WITHOUT_ORDER or name in NUMBERED:
        began: dict[Hashable, float] = {}
        for frame in frames:
            value, moment = frame.traits.get(name), frame.traits.get("moment", -math.inf)
            began[value] = min(moment, began.get(value, math.inf))
        ordered.sort(key=began.__getitem__)
    return ordered


def _ascending(values: Sequence[Hashable]) -> list[Hashable]:
    try:
        return sorted(values, key=lambda v: (v is not None, v))
    except TypeError:
        return sorted(values, key=str)


def _split_by_rank(frames: list[Frame], ids: np.ndarray, repeats: Counter[int]) -> list[_Split]:
    """Volumes by the order of the repeats in time, where every position has as many and each its own time."""
    most = max(repeats.values())
    if set(repeats.values()) != {most}:
        return []
    for name in RANKED:
        if any(frame.traits.get(name) is None for frame in frames):
            continue
        keyed = sorted(zip(ids.tolist(), (f.traits[name] for f in frames), frames, strict=True), key=lambda x: x[:2])
        volumes: list[list[Frame]] = [[] for _ in range(most)]
        for _, members in groupby(keyed, key=lambda x: x[0]):
            at_position = list(members)
            if len({value for _, value, _ in at_position}) < most:
                break
            for volume, (_, _, frame) in zip(volumes, at_position, strict=True):
                volume.append(frame)
        else:
            return [((trait_label(name, None, rank),), sorted(volume, key=_file_order), name)
                    for rank, volume in enumerate(volumes, 1)]  # fmt: skip
    return []


def _distinct(groups: list[Group]) -> list[Group]:
    """Labels made unique by a number where two are the same."""
    counts = Counter(group.label for group in groups)
    seen: Counter[str] = Counter()
    result = []
    for group in groups:
        seen[group.label] += 1
        repeated = counts[group.label] > 1
        label = f"{group.label}_{seen[group.label]}".strip("_") if repeated else group.label
        result.append(Group(label, group.frames, group.part, group.ranked_by))
    return result
