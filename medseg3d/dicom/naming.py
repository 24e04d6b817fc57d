"""Which ROI or segment name is which label id: a small YAML, written once for a data set.

::

    labels: {liver: 1, tumour: 2}
    names:                 # ROI names as the contours spell them; * ? [] are wildcards, case does not matter
      "GTV*": tumour
      "hepar": liver
      "Couch*": null       # known, and left out without a remark

A label's own name always means that label. Where several patterns fit a name, the first in the file counts.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medseg3d.errors import UsageError

__all__ = ["Naming", "read_naming"]

MAX_ID = int(np.iinfo(np.int16).max)  # label maps are uint8 or int16 everywhere in the package
KEYS = ("labels", "names")


@dataclass(frozen=True)
class Naming:
    """Labels with their ids, and the names that mean them. Valid once constructed.

    Attributes:
        labels: name of each label → its id, 1 to 32767; the order is the priority where segments overlap.
        names: pattern → name of a label, or None for a structure that is left out on purpose.

    Raises:
        UsageError: no label; an id that is not a whole number from 1 to 32767; two labels with one id or with names
            that differ only in case; a pattern for a label that is not defined.
    """

    labels: Mapping[str, int]
    names: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_labels(self.labels)
        for pattern, label in self.names.items():
            if not isinstance(pattern, str) or not pattern.strip():
                raise UsageError(f"The name pattern {pattern!r} is not a text: put it in quotes.")
            if label is not None and label not in self.labels:
                raise UsageError(
                    f"The name pattern {pattern!r} means the label {label!r}, which is not defined; "
                    f"defined are {', '.join(self.labels)}. Add it under labels, or write null to leave it out."
                )

    @classmethod
    def of(cls, labels: Mapping[str, int] | Naming) -> Naming:
        """``labels`` itself where it is a naming, else the naming in which every label has just its own name."""
        return labels if isinstance(labels, Naming) else cls(labels)

    def label_of(self, name: str) -> str | None:
        """The label that an ROI name means; None where it means none (see ``ignores``).

        >>> Naming({"liver": 1, "tumour": 2}, {"GTV*": "tumour"}).label_of(" gtv_primary")
        'tumour'
        """
        key = _key(name)
        for label in self.labels:
            if _key(label) == key:
                return label
        pattern = self._pattern_of(key)
        return None if pattern is None else self.names[pattern]

    def ignores(self, name: str) -> bool:
        """Whether a name is known and left out on purpose: its pattern maps to null.

        >>> Naming({"liver": 1}, {"Couch*": None}).ignores("CouchSurface")
        True
        """
        key = _key(name)
        if any(_key(label) == key for label in self.labels):
            return False
        pattern = self._pattern_of(key)
        return pattern is not None and self.names[pattern] is None

    def _pattern_of(self, key: str) -> str | None:
        return next((pattern for pattern in self.names if fnmatchcase(key, _key(pattern))), None)


def read_naming(path: str | Path) -> Naming:
    """Read the YAML that maps ROI names to labels.

    Raises:
        UsageError: no such file, not YAML, an unknown or repeated key, and all that ``Naming`` refuses.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not readable as YAML ({error}).") from error
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply.") from error
    try:
        return _naming_of(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a repeated key is an error: PyYAML keeps the last one and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key!r} stands there twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def _naming_of(content: Any) -> Naming:
    if not isinstance(content, Mapping) or "labels" not in content:
        raise UsageError("no mapping with the key labels, such as labels: {liver: 1, tumour: 2}.")
    unknown = [str(key) for key in content if key not in KEYS]
    if unknown:
        raise UsageError(f"unknown key {', '.join(unknown)}; known are {', '.join(KEYS)}.")
    for key in KEYS:
        if key in content and not isinstance(content[key], Mapping):
            raise UsageError(f"{key} is not a mapping but {content[key]!r}.")
    return Naming(dict(content["labels"]), dict(content.get("names", {})))


def _check_labels(labels: Mapping[str, int]) -> None:
    if not labels:
        raise UsageError("No label is defined: write labels: {liver: 1}.")
    ids: dict[int, str] = {}
    keys: dict[str, str] = {}
    for name, number in labels.items():
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"The label name {name!r} is not a text: put it in quotes.")
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_ID:
            raise UsageError(f"The label {name} has the id {number!r}: a whole number from 1 to {MAX_ID} is needed.")
        if number in ids:
            raise UsageError(f"The labels {ids[number]} and {name} have the same id, {number}.")
        if _key(name) in keys:
            raise UsageError(f"The labels {keys[_key(name)]} and {name} differ only in case.")
        ids[number], keys[_key(name)] = name, name


def _key(name: str) -> str:
    """What names are compared by: case and surrounding blanks do not count."""
    return name.strip().casefold()
