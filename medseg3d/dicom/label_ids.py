"""``labels.json`` of a conversion: which id means which label in all the label maps of one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from medseg3d.errors import UsageError

__all__ = ["merged_label_ids", "read_label_ids"]


def read_label_ids(path: Path) -> dict[str, int]:
    """Label ids of an earlier conversion into the same folder; none where there was none.

    Raises:
        UsageError: the file is there and holds something else.
    """
    if not path.exists():
        return {}
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable ({error}). Remove it, or choose another folder.") from error
    if not isinstance(ids, dict) or not all(type(number) is int and number > 0 for number in ids.values()):
        raise UsageError(f"{path}: not names of labels with their ids. Remove it, or choose another folder.")
    return ids


def merged_label_ids(earlier: Mapping[str, int], labels: Mapping[str, int], path: Path) -> dict[str, int]:
    """The ids of earlier label maps with those of ``labels``; names are the same in any case of their letters.

    Args:
        path: of the earlier ids, for the message.

    Raises:
        UsageError: a name or an id means something else in the earlier ones: those label maps would be misread.
    """
    known = {name.casefold(): number for name, number in earlier.items()}
    name_of = {number: name for name, number in earlier.items()}
    conflicts = [
        f"{name} is {number} here and {known[name.casefold()]} there"
        for name, number in labels.items()
        if known.get(name.casefold(), number) != number
    ]
    conflicts += [
        f"{number} is {name} here and {name_of[number]} there"
        for name, number in labels.items()
        if name.casefold() not in known and number in name_of
    ]
    if conflicts:
        raise UsageError(
            f"{path} has other ids for the label maps beside it: {'; '.join(conflicts)}. Give labels the same ids, "
            "choose another folder, or remove it with the label maps and convert all of them again."
        )
    return {**earlier, **{name: number for name, number in labels.items() if name.casefold() not in known}}
