"""Label ids, and regions made of them: what a network answers with, and what files hold.

Numpy is not needed: names and numbers only, for command line, checks and transforms alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from medseg3d.errors import UsageError

__all__ = ["Repainting", "file_ids", "map_regions", "region_label_ids", "repainting"]


@dataclass(frozen=True)
class Repainting:
    """What becomes of label ids where the extent of one structure changes.

    Attributes:
        paints: id of voxels that it gains.
        takes: ids whose voxels it may gain; the background is among them.
        leaves: each of its own ids → the id that a voxel has once the structure has lost it.
    """

    paints: int
    takes: tuple[int, ...]
    leaves: Mapping[int, int] = field(hash=False)


def region_label_ids(regions: Mapping[str, Iterable[int]]) -> tuple[int, ...]:
    """The id that each region paints when regions are painted one over the other, in their order.

    It is the one that the region holds and no later region does, so that painting the regions of a label map gives
    the label map back. This is nnU-Net's ``regions_class_order``, derived instead of stated.

    >>> region_label_ids({"whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]})
    (2, 1, 3)

    Raises:
        UsageError: no region; or one that holds not exactly one id that the later ones lack, so that it is not clear
            what to paint.
    """
    if not regions:
        raise UsageError("There is no region: name at least one, as in {'tumour': [1]}.")
    later: set[int] = set()
    painted: list[int] = []
    for name, ids in reversed(list(regions.items())):
        own = set(ids) - later
        if len(own) != 1:
            what = f"the ids {sorted(own)}" if own else "no id"
            raise UsageError(
                f"Region {name!r} ({sorted(set(ids))}) holds {what} that no later region has; exactly one is needed, "
                "the id that it paints. List regions from the outermost to the innermost, each with one id more than "
                "what comes after it."
            )
        later |= own
        painted += own
    return tuple(reversed(painted))


def repainting(regions: Mapping[str, Iterable[int]], name: str) -> Repainting:
    """How label ids follow when the region ``name`` grows or shrinks, and every other region keeps what it can.

    What the region loses, the regions inside of it lose too; it falls to the innermost of the others that holds it,
    or to the background. What it gains may have an id of other regions only if these hold the id that it paints: the
    core may take from the oedema around it, an organ nothing from its neighbour. Labels that exclude each other are
    regions of one id.

    >>> brats = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]}
    >>> repainting(brats, "core")
    Repainting(paints=1, takes=(0, 2), leaves={1: 2, 3: 2})
    >>> repainting(brats, "whole").leaves, repainting({"left": [1], "right": [2]}, "left").takes
    ({1: 0, 2: 0, 3: 0}, (0,))

    Raises:
        UsageError: no such region, or it is not clear which id one paints, see ``region_label_ids``.
    """
    if name not in regions:
        raise UsageError(f"There is no region {name!r}, only {', '.join(regions)}.")
    sets = {key: set(ids) for key, ids in regions.items()}
    painted = dict(zip(sets, region_label_ids(sets), strict=True))
    own, paints = sets[name], painted[name]
    leaves = {
        i: next((painted[key] for key in reversed(sets) if i in sets[key] and painted[key] not in own), 0)
        for i in sorted(own)
    }
    others = sorted(set().union(*sets.values()) - own)
    takes = [i for i in others if all(paints in ids for ids in sets.values() if i in ids)]
    return Repainting(paints, (0, *takes), leaves)


def file_ids(labels: Mapping[str, int], file_labels: Mapping[str, int]) -> dict[int, int]:
    """The network's id of each label → the id that it has in files.

    >>> file_ids({"core": 1, "enhancing": 3}, {"core": 1, "enhancing": 4})
    {1: 1, 3: 4}

    Raises:
        UsageError: the two do not name the same labels, or an id stands for two of them.
    """
    if labels.keys() != file_labels.keys():
        differing = sorted(labels.keys() ^ file_labels.keys())
        raise UsageError(
            f"labels and file_labels must name the same labels; only one of them has {', '.join(differing)}."
        )
    for which in (labels, file_labels):
        if len(set(which.values())) < len(which) or min(which.values(), default=1) < 1:
            raise UsageError(f"Label ids must be different whole numbers from 1 on, not {dict(which)}.")
    return {labels[name]: file_labels[name] for name in labels}


def map_regions(
    regions: Mapping[str, Iterable[int]] | None, labels: Mapping[str, int], file_labels: Mapping[str, int]
) -> dict[str, list[int]]:
    """Regions in the ids that files have, for the evaluation of masks; none where there are none.

    >>> map_regions({"core": [1, 3]}, {"necrotic": 1, "enhancing": 3}, {"necrotic": 1, "enhancing": 4})
    {'core': [1, 4]}
    """
    ids = file_ids(labels, file_labels)
    return {name: [ids[i] for i in members] for name, members in (regions or {}).items()}
