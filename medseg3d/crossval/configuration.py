"""What a plan makes of a bundle's configurations, and from several plans' the configuration of one ensemble."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medseg3d.crossval.cascade import previous_dir
from medseg3d.crossval.study import CASCADE, Configuration, Study
from medseg3d.errors import ConfigError

__all__ = ["EnsemblePart", "ensemble_config", "inference_config", "training_config", "with_first_stage"]

# Of a plan these concern a run, not what is run; inference.yaml has its own.
OF_A_RUN = frozenset(
    {"imports", "bundle_root", "dataset_dir", "datalist", "output_dir", "weights", "device", "initialize", "run"}
)
# What a further plan of an ensemble brings; and what it has of its own even where the first plan's is equal.
PARTS = ("preprocessing", "network", "inferer")
ALWAYS_OWN = frozenset({*PARTS, "network_def"})

# What the choice replaces; other transforms of the post-processing, such as those that rename ids, stay.
CORRECTIONS = frozenset(
    f"medseg3d.inference.{name}" for name in ("KeepLargestComponentd", "RemoveSmallComponentsd", "FillHolesd")
)

REFERENCE = re.compile(r"@([A-Za-z_]\w*)")


@dataclass(frozen=True)
class EnsemblePart:
    """One plan in an ensemble.

    Attributes:
        name: of the configuration.
        config: its inference configuration, see ``inference_config``.
        weights: of its members, as the configuration will name them: paths, or expressions.
    """

    name: str
    config: Mapping[str, Any]
    weights: Sequence[str]


def training_config(study: Study, configuration: Configuration) -> dict[str, Any]:
    """The bundle's ``train.yaml`` with the plan laid over it, as a run merges them."""
    from monai.bundle import ConfigParser

    files = [study.bundle / "configs" / "train.yaml", configuration.plan]
    return dict(ConfigParser.load_config_files([str(file) for file in files]))


def inference_config(study: Study, configuration: Configuration) -> dict[str, Any]:
    """The bundle's ``inference.yaml`` with what the plan says of ids that are in it.

    A plan is written for training: ids that only training has (batch size, rates) are left out here. The cascade's
    reads the masks that the first stage made out of fold.
    """
    from monai.bundle import ConfigParser
    from monai.bundle.config_parser import merge_kv

    base = ConfigParser.load_config_file(str(study.bundle / "configs" / "inference.yaml"))
    parser = ConfigParser(copy.deepcopy(base))
    for key, value in ConfigParser.load_config_file(str(configuration.plan)).items():
        root = re.split("::|#", key.removeprefix("+"))[0]
        if root in base and root not in OF_A_RUN:
            merge_kv(parser, key, value)
    own = {"previous_dir": str(previous_dir(study))} if configuration.name == CASCADE else {}
    return dict(parser.get()) | own


def with_first_stage(config: Mapping[str, Any], first: EnsemblePart) -> dict[str, Any]:
    """A cascade's inference configuration that makes the first stage's masks itself, in front of its preprocessing.

    Args:
        config: of the second stage, which reads masks from ``previous_dir``.
        first: the first stage, and the weights of its members.
    """
    changed = copy.deepcopy(dict(config)) | {"previous_dir": None}
    section, content, stage = _partner(replace(first, name="first_stage"), first.config, changed)
    step = {"_target_": "medseg3d.inference.FirstStaged", "keys": "image", "stage": stage}
    changed["preprocessing"]["transforms"].insert(0, step | {"device": "@device", "amp": "@amp"})
    return _before(changed, "preprocessing", {section: content})


def ensemble_config(
    parts: Sequence[EnsemblePart],
    *,
    mirrored: bool,
    corrections: Sequence[Mapping[str, Any]],
    temperature: float = 1.0,
) -> dict[str, Any]:
    """One inference configuration of all plans: the first gives the frame, the others become its ``partners``.

    Args:
        mirrored: average over mirror images along each plan's ``flip_axes``.
        corrections: take the place of the post-processing's own, behind its first transform, which makes labels of
            logits.
        temperature: of the calibration.

    Raises:
        ConfigError: the bundle's post-processing is no list of transforms, or a plan's network cannot be told apart.
    """
    first, *others = (_mirrored(part.config) if mirrored else copy.deepcopy(dict(part.config)) for part in parts)
    transforms = first.get("postprocessing", {}).get("transforms")
    if not isinstance(transforms, list) or not transforms:
        raise ConfigError("The bundle's inference.yaml has no postprocessing::transforms, of which the first makes "
                          "labels of logits. Write it so, as the other bundles do.")  # fmt: skip
    kept = [t for t in transforms[1:] if not (isinstance(t, Mapping) and t.get("_target_") in CORRECTIONS)]
    first["postprocessing"]["transforms"] = [transforms[0], *map(dict, corrections), *kept]
    first["weights"] = list(parts[0].weights) if len(parts[0].weights) > 1 else parts[0].weights[0]
    _set_temperature(first, temperature)
    partners = [_partner(part, config, first) for part, config in zip(parts[1:], others, strict=True)]
    frame = _before(first, "evaluator", {name: section for name, section, _ in partners})
    if partners:
        frame["evaluator"]["partners"] = [reference for _, _, reference in partners]
    return frame


def _set_temperature(config: dict[str, Any], temperature: float) -> None:
    """Also where it is 1: the bundle's own temperature is that of the weights that it came with."""
    evaluator = config["evaluator"]
    stated = evaluator.get("temperature", 1.0)
    if isinstance(stated, str) and stated.removeprefix("@") in config:
        config[stated.removeprefix("@")] = temperature
    elif temperature != stated:
        evaluator["temperature"] = temperature


def _mirrored(config: Mapping[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(dict(config))
    if changed.get("flip_axes"):
        changed["inferer"]["mirror_axes"] = "@flip_axes"
    return changed


def _before(config: Mapping[str, Any], key: str, new: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with ``new`` in front of ``key``: a reader finds things above the place that names them."""
    result: dict[str, Any] = {}
    for name, value in config.items():
        if name == key:
            result |= new
        result[name] = value
    return result


def _partner(
    part: EnsemblePart, config: Mapping[str, Any], first: Mapping[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name and content of a partner's section, and the argument that refers to it."""
    section = "plan_" + re.sub(r"\W", "_", part.name)
    needed = _reachable(config, PARTS)
    own = {key for key in needed if key in ALWAYS_OWN or config[key] != first.get(key)}
    while grown := {k for k in needed - own if own & set(_references(config[k]))}:
        own |= grown  # what refers to something of the partner's own is its own as well
    content = {key: _redirected(value, own, section) for key, value in config.items() if key in own}
    content["weights"] = list(part.weights)
    names = (*PARTS, "weights")
    reference = {"_target_": "medseg3d.inference.Partner", **{name: f"@{section}::{name}" for name in names}}
    return section, content, reference


def _reachable(config: Mapping[str, Any], start: Sequence[str]) -> set[str]:
    """Top-level ids that the ids of ``start`` refer to, directly or through others, and these themselves."""
    found: set[str] = set()
    waiting = [key for key in start if key in config]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += [other for other in _references(config[key]) if other in config]
    return found


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from REFERENCE.findall(value) if value[:1] in "@$" else ()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _redirected(value: Any, own: set[str], section: str) -> Any:
    """``value`` with references to the partner's own ids leading into its section."""
    if isinstance(value, str) and value[:1] in "@$":
        return REFERENCE.sub(lambda m: f"@{section}::{m[1]}" if m[1] in own else m[0], value)
    if isinstance(value, Mapping):
        return {key: _redirected(item, own, section) for key, item in value.items()}
    if isinstance(value, list):
        return [_redirected(item, own, section) for item in value]
    return value
