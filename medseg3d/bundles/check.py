"""The static check: everything that files, overrides and signatures can tell. No expression is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from medseg3d.bundles.consistency import check_consistency
from medseg3d.bundles.hashes import check_hashes
from medseg3d.bundles.merge import META, SEPARATOR, Merged, iterate_ids, lookup, merge, nearest_id
from medseg3d.bundles.metadata import check_metadata, read_metadata
from medseg3d.bundles.problems import Problem, nearest, unique
from medseg3d.bundles.reading import load_file, shown_path
from medseg3d.bundles.references import check_references, referenced_ids, resolve_macros
from medseg3d.bundles.review import review_bundle, review_configs
from medseg3d.bundles.targets import SPECIAL_KEYS, check_targets, find_target
from medseg3d.bundles.values import StaticValues, Values
from medseg3d.errors import UsageError

__all__ = ["OWN_PER_FILE", "WORKFLOW_OPTIONS", "check_bundle", "check_config", "check_merged", "load", "workflow_type"]

# Options of `python -m monai.bundle run` itself; everything else that is typed overrides an id.
WORKFLOW_OPTIONS = frozenset(
    {
        "run_id",
        "init_id",
        "final_id",
        "meta_file",
        "config_file",
        "logging_file",
        "tracking",
        "args_file",
        "workflow_type",
        "workflow_name",
        "properties_path",
    }
)
# Ids that nothing needs to refer to: MONAI, its command line, or `tracking` looks them up by name.
_STANDARD_IDS = frozenset(
    {
        "imports",
        "initialize",
        "run",
        "finalize",
        "training",
        "evaluating",
        "calibrating",
        "inferring",
        "testing",
        "train",
        "validate",
        "handlers",
        "evaluator",
        "dataset",
        "dataloader",
        "save_execute_config",
        "experiment_name",
        "run_name",
        "tracking_uri",
    }
)
# What train.yaml and inference.yaml may say differently: where data is and goes, and what each does with it.
OWN_PER_FILE = frozenset(
    {
        "imports",
        "dataset_dir",
        "datalist",
        "data_list",
        "output_dir",
        "images",
        "dataset",
        "dataloader",
        "data",
        "loader",
        "batch_size",
        "num_workers",
        "cache_rate",
        "device",
        "amp",
        "seed",
        "fold",
        "evaluator",
        "handlers",
        "initialize",
        "finalize",
        "run",
        "training",
        "evaluating",
        "inferring",
        "checkpoint",
        "ckpt_path",
        "weights",
        "resume",
        "key_metric",
        "train",
        "validate",
    }
)


def check_config(
    config_files: Sequence[Path | str],
    overrides: Mapping[str, Any] | None = None,
    *,
    meta_file: Path | str | None = None,
    logging_file: Path | str | Literal[False] | None = None,
) -> list[Problem]:
    """What is wrong with a configuration, found without running any of it.

    Args:
        config_files: YAML or JSON, merged in order, as in ``--config_file``.
        overrides: id → value, as typed on the command line; the options of ``monai.bundle run`` itself are left out.
        meta_file: default ``metadata.json`` beside the first file.
        logging_file: default ``logging.conf`` beside the first file; False when none is wanted.

    Returns:
        Problems in the order: files, ids, references, targets, properties, values. Empty when all is well.
    """
    merged, problems = load(config_files, overrides, meta_file=meta_file, logging_file=logging_file)
    return unique([*problems, *check_merged(merged)])


def load(
    config_files: Sequence[Path | str],
    overrides: Mapping[str, Any] | None = None,
    *,
    meta_file: Path | str | None = None,
    logging_file: Path | str | Literal[False] | None = None,
) -> tuple[Merged, list[Problem]]:
    """The merged configuration, and what is wrong with the files beside it. Arguments as in :func:`check_config`."""
    files = [Path(path) for path in config_files]
    if not files:
        raise UsageError("No configuration file was given: name at least one, for example configs/train.yaml.")
    problems: list[Problem] = []
    root = files[0].parent
    meta_path = Path(meta_file) if meta_file is not None else root / "metadata.json"
    metadata = read_metadata(meta_path, problems)
    meta_name = shown_path(meta_path, beside=files[0])
    problems += check_metadata(metadata, name=meta_name)
    problems += _check_logging_file(root / "logging.conf" if logging_file is None else logging_file, beside=files[0])
    return merge(files, overrides, meta=metadata, meta_name=meta_name), problems


def check_merged(merged: Merged, values: Values | None = None) -> list[Problem]:
    """The checks of :func:`check_config` on a merged configuration; ``values`` of a run tell more than files do."""
    if not merged.config.keys() - {META}:
        return merged.problems
    resolve_macros(merged)
    return [
        *merged.problems,
        *_check_added(merged),
        *check_references(merged),
        *check_targets(merged),
        *_check_properties(merged),
        *check_consistency(merged, values or StaticValues(merged.config)),
    ]


def check_bundle(
    bundle: Path, *, config_files: Sequence[Path | str] | None = None, overrides: Mapping[str, Any] | None = None
) -> list[Problem]:
    """Check a bundle as a whole, or only ``config_files`` of it.

    As a whole means: train.yaml and inference.yaml (or .json) each alone, then together; every other file of
    ``configs/`` laid over train.yaml unless it stands alone (has a ``bundle_root``). Overrides go to the first of them.
    Then the hashes of the weights, and everything that would run code (:mod:`medseg3d.bundles.review`).
    """
    if config_files:
        paths = [_inside(bundle, path) for path in config_files]
        problems = check_config(paths, overrides)
        beside = bundle / "configs" / "train.yaml"
        contents = [(shown_path(path, beside=beside), load_file(path, [])) for path in paths]
        return unique([*problems, *review_configs(contents)])
    files = [path for path in sorted((bundle / "configs").iterdir()) if path.suffix in {".yaml", ".yml", ".json"}]
    files = [path for path in files if path.name != "metadata.json"]
    files.sort(key=lambda path: {"train": 0, "inference": 1}.get(path.stem, 2))
    if not files:
        return [Problem("configs", "holds no configuration file.", "Add train.yaml or inference.yaml.")]
    problems = check_config(files[:1], overrides)
    for path in files[1:]:
        problems += check_config([path] if _stands_alone(path) else [files[0], path])
    by_stem = {path.stem: path for path in files}
    if {"train", "inference"} <= set(by_stem):
        problems += _check_agreement(by_stem["train"], by_stem["inference"])
    return unique([*problems, *check_hashes(bundle), *review_bundle(bundle)])


def workflow_type(config: Mapping[str, Any]) -> Literal["train", "infer"]:
    """``"train"`` when the configuration has a ``train`` section, else ``"infer"``."""
    return "train" if "train" in config else "infer"


def _inside(bundle: Path, path: Path | str) -> Path:
    """``path`` as given, or else inside the bundle or its configs."""
    candidates = [Path(path), bundle / path, bundle / "configs" / path]
    return next((candidate for candidate in candidates if candidate.is_file()), Path(path))


def _stands_alone(path: Path) -> bool:
    return "bundle_root" in merge([path]).config


def _check_logging_file(path: Path | str | Literal[False], *, beside: Path) -> list[Problem]:
    if path is False or Path(path).is_file():
        return []
    where = shown_path(Path(path), beside=beside)
    return [Problem(where, "the file does not exist.", "Copy one from another bundle, or pass --logging_file.")]


def _check_added(merged: Merged) -> list[Problem]:
    """Ids that a later file or an override adds: allowed when something refers to them or looks them up by name."""
    wanted = referenced_ids(merged.config) | _property_ids()
    return [problem for id_ in merged.added if not _is_wanted(id_, wanted) for problem in _check_new_id(merged, id_)]


def _is_wanted(id_: str, wanted: Iterable[str]) -> bool:
    if id_ in _STANDARD_IDS or id_ == META or id_.startswith(META + SEPARATOR):
        return True
    return any(other == id_ or other.startswith(id_ + SEPARATOR) for other in wanted)


def _check_new_id(merged: Merged, id_: str) -> list[Problem]:
    parent_id, _, last = id_.rpartition(SEPARATOR)
    parent = lookup(merged.config, parent_id)
    if isinstance(parent, dict) and "_target_" in parent:
        if last in SPECIAL_KEYS or find_target(parent["_target_"]).callable:
            return []  # the signature decides, in check_targets
        near = nearest(last, [key for key in parent if key != last])
        if near is None:
            return []
        return [
            Problem(
                merged.where(id_), f"{parent['_target_']} is given a new argument {last!r}.", f"Did you mean {near!r}?"
            )
        ]
    if parent_id:
        what = f"there is no {last!r} in {parent_id!r}, and nothing refers to it: it would change nothing."
        near = nearest(last, [str(key) for key in parent if key != last]) if isinstance(parent, dict) else None
        near = f"{parent_id}{SEPARATOR}{near}" if near else None
    else:
        what = f"there is no id {id_!r}, and nothing refers to it: it would change nothing."
        near = _nearest_top_level(id_, merged)
    return [Problem(merged.where(id_), what, f"Did you mean {near!r}?" if near else _known_ids(merged, parent_id))]


def _nearest_top_level(id_: str, merged: Merged) -> str | None:
    others = {key: value for key, value in merged.config.items() if key not in merged.added}
    option = get_close_matches(id_, WORKFLOW_OPTIONS, n=1, cutoff=0.85)
    return option[0] if option else nearest_id(id_, others)


def _known_ids(merged: Merged, parent_id: str) -> str:
    parent = lookup(merged.config, parent_id)
    names = [str(key) for key in parent if key != META] if isinstance(parent, dict) else []
    names = [name for name in names if (f"{parent_id}{SEPARATOR}{name}" if parent_id else name) not in merged.added]
    return f"It has: {', '.join(names)}." if names else ""


def _property_ids() -> set[str]:
    """Ids by which MONAI's applications look parts of a bundle up."""
    from monai.bundle.properties import InferProperties, TrainProperties
    from monai.utils import BundlePropertyConfig

    properties = [*TrainProperties.values(), *InferProperties.values()]
    return {str(property_[BundlePropertyConfig.ID]) for property_ in properties}


def _check_properties(merged: Merged) -> list[Problem]:
    """Required properties that are missing, and handlers in a form that MONAI's own check crashes on."""
    from monai.bundle.properties import InferProperties, TrainProperties
    from monai.utils import BundleProperty, BundlePropertyConfig

    kind = workflow_type(merged.config)
    known = {id_ for id_, _ in iterate_ids(merged.config)}
    problems = []
    for name, property_ in (TrainProperties if kind == "train" else InferProperties).items():
        id_ = str(property_[BundlePropertyConfig.ID])
        if property_[BundleProperty.REQUIRED] and id_ not in known:
            what = f"a bundle for {kind}ing must define {id_!r} ({property_[BundleProperty.DESC]})"
            parent = lookup(merged.config, id_.rpartition(SEPARATOR)[0])
            near = nearest(id_.rpartition(SEPARATOR)[2], map(str, parent)) if isinstance(parent, dict) else None
            problems.append(Problem(f"{merged.base}: {id_}", what, f"Is {near!r} meant for it?" if near else "Add it."))
        problems += _check_alias(merged, id_, property_.get(BundlePropertyConfig.REF_ID), name)
    handlers = lookup(merged.config, f"train{SEPARATOR}handlers")
    if isinstance(handlers, (dict, str)):
        what = "MONAI's check_properties() crashes on handlers that are no plain list."
        problems.append(Problem(merged.where(f"train{SEPARATOR}handlers"), what, "Write a list of components."))
    return problems


def _check_alias(merged: Merged, id_: str, reference_id: str | None, name: str) -> list[Problem]:
    """An engine that takes a property from another id than the one under which applications look it up."""
    used = lookup(merged.config, reference_id) if reference_id and SEPARATOR in reference_id else None
    if not isinstance(used, str) or not used.startswith("@") or used == f"@{id_}":
        return []
    what = f"is {used!r}, but MONAI's applications look for {name} at {id_!r}."
    remedy = f"Write '@{id_}' here and, if it is shared, '{id_}: \"{used}\"'."
    return [Problem(merged.where(str(reference_id)), what, remedy, severity="warning")]


def _check_agreement(train: Path, inference: Path) -> list[Problem]:
    """Top-level ids that both files define, with different values."""
    ours, theirs = merge([train]).config, merge([inference]).config
    shared = [key for key in ours if key in theirs and key not in OWN_PER_FILE]
    return [
        Problem(
            f"{shown_path(train)} and {shown_path(inference)}: {id_}",
            f"the two files differ: {_shown(left)} and {_shown(right)}.",
            "What the network was trained with must hold at inference: make them equal.",
        )
        for key in shared
        for id_, left, right in _differences(key, ours[key], theirs[key])
    ]


def _differences(id_: str, left: Any, right: Any) -> list[tuple[str, Any, Any]]:
    """The innermost ids in which two values differ."""
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return [] if left == right else [(id_, left, right)]
    absent = "nothing"
    keys = dict.fromkeys([*left, *right])
    return [
        found
        for key in keys
        for found in _differences(f"{id_}{SEPARATOR}{key}", left.get(key, absent), right.get(key, absent))
    ]


def _shown(value: Any, *, length: int = 80) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"
