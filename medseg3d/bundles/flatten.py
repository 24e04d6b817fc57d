"""One configuration file out of several: a bundle's own, what is laid over it, and what a training was run with.

MONAI Label and MONAI Deploy read one file each for training and inference. A plan or a variant is written over
``train.yaml``; ``inference.yaml`` lacks many of its ids, and MONAI would add those without a word. So only what a file
has, or refers to, is laid over it here, and what lands nowhere is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.bundles.check import OWN_PER_FILE
from medseg3d.bundles.merge import SEPARATOR, lookup, merge_contents, normalize_id
from medseg3d.bundles.problems import Problem, did_you_mean, errors_in, summary
from medseg3d.bundles.reading import load_file, shown_path
from medseg3d.bundles.references import referenced_ids, resolve_macros
from medseg3d.errors import ConfigError

__all__ = ["PLACES", "Flattened", "base_file", "dump_yaml", "flatten", "read_contents"]

# Where things lie, and how this machine is used: never taken from a run or a plan into what others get.
PLACES = frozenset(
    {
        "bundle_root",
        "cache_rate",
        "ckpt_path",
        "data_list",
        "datalist",
        "dataset_dir",
        "device",
        "fold",
        "initial_weights",
        "num_workers",
        "output_dir",
        "previous_dir",
        "resume",
        "warm_start",
        "weights",
    }
)
# Sections of components, as against named values: a run's own are those of its files.
_SECTIONS = frozenset(
    {"imports", "initialize", "finalize", "run", "training", "evaluating", "train", "validate", "evaluate", "evaluator"}
)
SUFFIXES = (".yaml", ".yml", ".json")
_WIDTH = 110


@dataclass(frozen=True)
class Flattened:
    """A bundle's two configurations, each a file of its own.

    Attributes:
        inference: what ``inference.yaml`` holds.
        train: what ``train.yaml`` holds; None for a bundle that only infers.
        changed: top-level ids whose values differ from those of the bundle's files.
        laid_over: top-level ids that a file over the bundle sets, to whatever value.
    """

    inference: dict[str, Any]
    train: dict[str, Any] | None
    changed: tuple[str, ...]
    laid_over: frozenset[str] = frozenset()


def base_file(bundle: Path, stem: str) -> Path | None:
    """``configs/<stem>.yaml``, ``.yml`` or ``.json``, whichever is there; None if none is."""
    candidates = [bundle / "configs" / f"{stem}{suffix}" for suffix in SUFFIXES]
    return next((path for path in candidates if path.is_file()), None)


def read_contents(paths: Sequence[Path]) -> list[tuple[str, dict[Any, Any]]]:
    """What configuration files hold, each with its name.

    Raises:
        ConfigError: a file that cannot be read.
    """
    problems: list[Problem] = []
    contents = [(shown_path(path), load_file(path, problems, where=shown_path(path))) for path in paths]
    if errors_in(problems):
        raise ConfigError(summary(problems))
    return contents


def flatten(
    bundle: Path,
    *,
    config_files: Sequence[Path] = (),
    runs: Sequence[Mapping[str, Any]] = (),
) -> Flattened:
    """A bundle's configuration for training and for inference, with everything laid over it.

    Args:
        bundle: its folder.
        config_files: laid over both files, later ones win; ids of :data:`PLACES` are left out.
        runs: the merged configurations of the trainings (``config`` of each ``run.json``). Named values that the first
            of them was trained with come last, overrides of the command line included.

    Raises:
        ConfigError: no inference file; an id that neither file knows; trainings that do not belong together.
    """
    inference_file, train_file = base_file(bundle, "inference"), base_file(bundle, "train")
    if inference_file is None:
        raise ConfigError(f"{bundle}: configs/ holds no inference.yaml (or .json), which is what others run.")
    [inference], overlays = read_contents([inference_file]), read_contents(config_files)
    train = read_contents([train_file])[0] if train_file else None
    bases = [base for base in (inference, train) if base]
    for name, content in overlays:
        _require_landed(name, content, [base for _, base in bases])
    trained = runs[0] if runs else {}
    shared = {key for key in trained if key in inference[1] and key not in OWN_PER_FILE}
    _require_same(runs, shared)
    flat_inference = _laid_over(inference, overlays, _values(trained, shared, inference[1]))
    flat_train = _laid_over(train, overlays, _values(trained, set(train[1]), train[1])) if train else None
    changed = _changed(_laid_over(inference, (), {}), flat_inference)
    if train and flat_train:
        changed += _changed(_laid_over(train, (), {}), flat_train)
    laid_over = frozenset(_top(key) for _, content in overlays for key in content)
    return Flattened(flat_inference, flat_train, tuple(dict.fromkeys(changed)), laid_over)


def dump_yaml(config: Mapping[str, Any], *, heading: str = "") -> str:
    """A configuration as YAML: ids in their order, short lists and mappings on one line.

    >>> print(dump_yaml({"labels": {"liver": 1}, "spacing": [1.0, 1.0, 2.5]}, heading="Made by hand."), end="")
    # Made by hand.
    labels: {liver: 1}
    spacing: [1.0, 1.0, 2.5]
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        """Block style for what is nested, or too long for a line."""

        def represent_mapping(self, *args: Any, **kwargs: Any) -> Any:
            return _short_or_block(super().represent_mapping(*args, **kwargs))

        def represent_sequence(self, *args: Any, **kwargs: Any) -> Any:
            return _short_or_block(super().represent_sequence(*args, **kwargs))

        def ignore_aliases(self, data: Any) -> bool:
            return True

    text: str = yaml.dump(
        dict(config), Dumper=Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=math.inf
    )
    return "".join(f"# {line}\n" for line in heading.splitlines()) + text


def _short_or_block(node: Any) -> Any:
    if node.flow_style:
        pairs = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        node.flow_style = sum(len(str(part.value)) + 2 for part in pairs) < _WIDTH
    return node


def _laid_over(
    base: tuple[str, Mapping[str, Any]],
    overlays: Sequence[tuple[str, Mapping[str, Any]]],
    values: Mapping[str, Any],
) -> dict[str, Any]:
    landing = [(name, _landing(base[1], content)) for name, content in overlays]
    merged = merge_contents([base, *landing, ("run.json", values)])
    resolve_macros(merged)
    if errors_in(merged.problems):
        raise ConfigError(summary(errors_in(merged.problems)))
    return merged.config


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [key for key, value in new.items() if value != old.get(key)]


def _landing(base: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of an overlay whose ids the base has, or something refers to that has landed."""
    left = {key: value for key, value in content.items() if _top(key) not in PLACES}
    kept: dict[str, Any] = {}
    wanted = {str(key) for key in base} | _referenced(base)
    while found := {key: value for key, value in left.items() if _top(key) in wanted}:
        kept |= found
        left = {key: value for key, value in left.items() if key not in found}
        wanted |= _referenced(found)
    return {key: kept[key] for key in content if key in kept}


def _referenced(config: Mapping[str, Any]) -> set[str]:
    return {id_.partition(SEPARATOR)[0] for id_ in referenced_ids(dict(config))}


def _top(key: Any) -> str:
    return normalize_id(str(key).removeprefix("+")).partition(SEPARATOR)[0]


def _require_landed(name: str, content: Mapping[str, Any], bases: Sequence[Mapping[str, Any]]) -> None:
    landed = {key for base in bases for key in _landing(base, content)}
    lost = [key for key in content if key not in landed and _top(key) not in PLACES]
    known = {str(key) for base in bases for key in base}
    problems = [
        Problem(f"{name}: {key}", "neither train.yaml nor inference.yaml has this id.", did_you_mean(_top(key), known))
        for key in lost
    ]
    if problems:
        raise ConfigError(summary(problems))


def _values(trained: Mapping[str, Any], named: set[str], base: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a run that ``named`` lists, and those that they refer to and the file lacks."""
    mine = {key: value for key, value in trained.items() if key not in PLACES | _SECTIONS}
    kept = {key: value for key, value in mine.items() if key in named}
    while new := {key for key in _referenced(kept) if key in mine and key not in kept and key not in base}:
        kept |= {key: mine[key] for key in new}
    return kept


def _require_same(runs: Sequence[Mapping[str, Any]], shared: set[str]) -> None:
    """Members of an ensemble run through one configuration, so what it says must hold for each."""
    for number, run in enumerate(runs[1:], start=2):
        differing = [key for key in sorted(shared - PLACES) if lookup(run, key) != lookup(runs[0], key)]
        if differing:
            raise ConfigError(
                f"The trainings do not belong together: {', '.join(differing)} of number {number} differ from those of "
                "the first. Pack weights that were trained with one configuration."
            )
