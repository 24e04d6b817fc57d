"""Read and merge configuration files and overrides as MONAI does, and say what MONAI does not.

MONAI 1.6: later files win; ``a::b`` (or ``a#b``) edits deep and its parent must exist; ``+key`` merges into a mapping
or list; an id that nothing defines is added silently. Here the same steps are taken on plain dicts, and every new id is
noted with the place it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg3d.bundles.problems import Problem, nearest
from medseg3d.bundles.reading import load_file, shown_path

__all__ = [
    "META",
    "SEPARATOR",
    "Merged",
    "iterate_ids",
    "lookup",
    "merge",
    "merge_contents",
    "nearest_id",
    "normalize_id",
]

SEPARATOR = "::"
META = "_meta_"
_MISSING = object()


@dataclass
class Merged:
    """A configuration put together from files and overrides.

    Attributes:
        config: the merged configuration, as MONAI would hold it before references are resolved.
        base: the name of the first file, as :func:`shown_path` gives it.
        origins: for every id that was set, the name of the file, or ``--<id>`` for an override.
        added: ids that a later file or an override brought and nothing before it defined.
        problems: files that cannot be read, edits that cannot be made.
    """

    config: dict[str, Any] = field(default_factory=dict)
    base: str = ""
    origins: dict[str, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def is_changed(self, id_: str) -> bool:
        """Whether a later file or an override has set ``id_`` or something in it."""
        below = id_ + SEPARATOR
        return any(
            origin != self.base for known, origin in self.origins.items() if known == id_ or known.startswith(below)
        )

    def where(self, id_: str) -> str:
        """The place to look for ``id_``: ``--max_epochs`` or ``configs/train.yaml: train::trainer``."""
        prefix = id_
        while prefix not in self.origins and SEPARATOR in prefix:
            prefix = prefix.rpartition(SEPARATOR)[0]
        origin = self.origins.get(prefix, "")
        if origin.startswith("--"):
            return origin if prefix == id_ else f"{origin}: {id_}"
        return f"{origin}: {id_}" if origin else id_

    def report(self, id_: str, what: str, remedy: str = "", **kwargs: Any) -> None:
        """Note a problem with ``id_``."""
        self.problems.append(Problem(self.where(id_), what, remedy, **kwargs))


def merge(
    config_files: Sequence[Path],
    overrides: Mapping[str, Any] | None = None,
    *,
    meta: Mapping[str, Any] | None = None,
    meta_name: str = "configs/metadata.json",
) -> Merged:
    """Merge files in their order, then the overrides. Problems of ``meta`` are reported under ``meta_name``."""
    problems: list[Problem] = []
    names = [shown_path(path, beside=config_files[0]) for path in config_files]
    contents = [load_file(path, problems, where=name) for path, name in zip(config_files, names, strict=True)]
    merged = merge_contents(list(zip(names, contents, strict=True)))
    merged.problems[:0] = problems
    if meta is not None:
        merged.config[META] = _copied(dict(meta))
        merged.origins[META] = meta_name
    for key, value in (overrides or {}).items():
        _apply(merged, key, value, origin=f"--{key}", is_first=False, may_merge=False)
    return merged


def merge_contents(contents: Sequence[tuple[str, Mapping[Any, Any]]]) -> Merged:
    """Merge what files hold, each with the name that problems are reported under, in their order."""
    merged = Merged(base=contents[0][0] if contents else "")
    for position, (name, content) in enumerate(contents):
        for key, value in content.items():
            _apply(merged, key, value, origin=name, is_first=position == 0, may_merge=True)
    return merged


def normalize_id(id_: str) -> str:
    """``a#b`` is an older spelling of ``a::b``."""
    return str(id_).replace("#", SEPARATOR)


def lookup(config: Any, id_: str, default: Any = None) -> Any:
    """The item at ``id_``, or ``default``.

    >>> lookup({"train": {"handlers": ["a", "b"]}}, "train::handlers::1")
    'b'
    """
    item = config
    for part in id_.split(SEPARATOR) if id_ else []:
        item = _child(item, part)
        if item is _MISSING:
            return default
    return item


def iterate_ids(config: Any, id_: str = "") -> Iterator[tuple[str, Any]]:
    """Every id below ``id_`` with its value, outer ones first."""
    if isinstance(config, Mapping):
        pairs: Iterator[tuple[Any, Any]] = iter(config.items())
    elif isinstance(config, list):
        pairs = enumerate(config)
    else:
        return
    for key, value in pairs:
        child = f"{id_}{SEPARATOR}{key}" if id_ else str(key)
        yield child, value
        yield from iterate_ids(value, child)


def nearest_id(id_: str, config: Any) -> str | None:
    """The id that was probably meant: a neighbour at the top first, else one that ends alike."""
    top = [str(key) for key in config if key != META]
    ids = [known for known, _ in iterate_ids(config) if not known.startswith(META)]
    near = nearest(id_, top) if SEPARATOR not in id_ else nearest(id_, ids, cutoff=0.8)
    if near:
        return near
    by_last = {known.rpartition(SEPARATOR)[2]: known for known in reversed(ids)}
    last = nearest(id_.rpartition(SEPARATOR)[2], by_last, cutoff=0.8)
    return by_last[last] if last else None


def _child(item: Any, part: str) -> Any:
    if isinstance(item, Mapping):
        if part in item:
            return item[part]
        # YAML keys may be numbers: "changelog: {0.1: ...}".
        return next((value for key, value in item.items() if str(key) == part), _MISSING)
    if isinstance(item, list) and part.isdecimal() and int(part) < len(item):
        return item[int(part)]
    return _MISSING


def _apply(merged: Merged, key: Any, value: Any, *, origin: str, is_first: bool, may_merge: bool) -> None:
    where = origin if origin.startswith("--") else f"{origin}: {key}"
    if not isinstance(key, str):
        merged.problems.append(Problem(where, f"an id must be text, this is a {type(key).__name__}.", "Quote it."))
        return
    is_merge = key.startswith("+")
    if is_merge and not may_merge:
        remedy = f"Drop the '+' and give the whole value, or put '{key}: ...' into a file of the list."
        merged.problems.append(Problem(where, "MONAI does not merge overrides of the command line.", remedy))
        return
    id_ = normalize_id(key.removeprefix("+"))
    parent_id, _, last = id_.rpartition(SEPARATOR)
    parent = lookup(merged.config, parent_id, _MISSING)
    if not isinstance(parent, (dict, list)):
        merged.problems.append(_no_parent(merged.config, where, parent_id, is_missing=parent is _MISSING))
        return
    old = _child(parent, last)
    if isinstance(parent, list) and old is _MISSING:
        what = f"the list {parent_id!r} has {len(parent)} items, numbered from 0: there is no {last!r}."
        merged.problems.append(Problem(where, what))
        return
    merged.origins[id_] = origin
    value = _copied(value)
    if old is not _MISSING and is_merge:
        _merge_into(merged, id_, old, value, where=where, origin=origin, is_first=is_first)
        return
    if isinstance(parent, list):
        parent[int(last)] = value
    else:
        parent[last] = value
    if is_first:
        return
    if old is _MISSING:
        merged.added.append(id_)
    else:
        merged.problems.extend(_replaced_keys(old, value, where=where))


def _copied(value: Any) -> Any:
    """A copy of mappings and lists only: an application may pass objects that cannot be copied."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _merge_into(merged: Merged, id_: str, old: Any, value: Any, *, where: str, origin: str, is_first: bool) -> None:
    if isinstance(old, list) and isinstance(value, list):
        old.extend(value)
    elif isinstance(old, dict) and isinstance(value, dict):
        for key in value:
            child = f"{id_}{SEPARATOR}{key}"
            merged.origins[child] = origin
            if key not in old and not is_first:
                merged.added.append(child)
        old.update(value)
    else:
        what = f"'+' merges mappings or lists; here {type(value).__name__} meets {type(old).__name__}."
        merged.problems.append(Problem(where, what, "Drop the '+' to replace the value."))


def _no_parent(config: dict[str, Any], where: str, parent_id: str, *, is_missing: bool) -> Problem:
    if not is_missing:
        return Problem(where, f"{parent_id!r} is a single value: nothing lies below it.")
    near = nearest_id(parent_id, config)
    return Problem(where, f"there is no {parent_id!r} to edit.", f"Did you mean {near!r}?" if near else "")


def _replaced_keys(old: Any, new: Any, *, where: str) -> list[Problem]:
    """Keys of a mapping that replaces another and look like misspellings of keys that it lost.

    Only for groups of components (``train``, ``validate``): the arguments of a ``_target_`` are compared with its
    signature, and plain data (``labels``) may be renamed.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)) or "_target_" in old or "_target_" in new:
        return []
    if not any(isinstance(value, (dict, list)) for value in old.values()):
        return []
    lost = [key for key in old if key not in new]
    near = {key: nearest(str(key), map(str, lost), cutoff=0.75) for key in new if key not in old}
    return [
        Problem(where, f"replaces the whole mapping and has a new key {key!r}.", f"Did you mean {meant!r}?")
        for key, meant in near.items()
        if meant
    ]
