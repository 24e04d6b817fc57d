"""Label ids, and regions made of them: what a network answers with, and what files hold.

Numpy is not needed: names and numbers only, for command line, checks and transforms alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from medseg3d.errors import UsageError

__all__ = ["file_ids", "map_regions", "region_label_ids"]


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
