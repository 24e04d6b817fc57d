"""What a packed configuration says otherwise than the bundle's, so that other programs can run it. Values stay equal.

Tried with MONAI Label 0.8.5 (``BundleInferTask``, ``BundleTrainTask``) and MONAI 1.6.1:

- MONAI Label adds an entry ``image_path`` to the data. ``Spacingd`` takes every entry whose key begins with ``image_``
  for metadata that it may write to, and fails on the path; ``Spacing`` does the same to the image and sees no other
  entry.
- MONAI Label hands what it trains from to ``train::handlers``, which the trainer must take; and sets
  ``train::trainer::max_epochs`` alone, which the schedule must follow. It calls ``run`` again and again and names no
  folder: the run before is set aside, and what came out is offered among ``models/*.pt``, which Label lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from medseg3d.bundles.targets import arguments, find_target

if TYPE_CHECKING:
    from medseg3d.bundles.flatten import Flattened

__all__ = ["for_applications", "note_on"]

_NOTE = "Spacing stands in a Lambdad: MONAI Label's data has an entry 'image_path', which Spacingd would write to."
EPOCHS = "@train::trainer::max_epochs"
_REFUSAL = "medseg3d.engines.require_free("
_SET_ASIDE = "$medseg3d.engines.set_aside(@output_dir, resume=@resume)"
_OFFER = "$medseg3d.engines.offer_weights(@output_dir, @bundle_root)"
_EPOCHS = re.compile(r"@max_epochs(?![\w#:])")
_OF_THE_DICTIONARY = frozenset({"keys", "allow_missing_keys", "_disabled_", "_requires_", "_desc_"})
_A_VALUE_A_KEY = frozenset({"mode", "padding_mode", "align_corners", "dtype", "scale_extent"})


def for_applications(flat: Flattened) -> Flattened:
    """The same two configurations, as MONAI Label can run and train them."""
    train = None if flat.train is None else with_repeated_runs(with_one_count_of_epochs(with_handlers(flat.train)))
    return replace(flat, inference=without_spacingd(flat.inference), train=train)


def note_on(config: Mapping[str, Any]) -> str:
    """What a reader of the configuration may wonder at; "" if nothing."""
    return _NOTE if "'func': {'_target_': 'Spacing'," in str(config.get("preprocessing")) else ""


def without_spacingd(config: Mapping[str, Any]) -> dict[str, Any]:
    """The preprocessing with ``Spacing`` in place of every ``Spacingd`` of one image.

    >>> resample = {"_target_": "Spacingd", "keys": "image", "pixdim": "@spacing", "mode": "bilinear"}
    >>> without_spacingd({"preprocessing": {"transforms": [resample]}})["preprocessing"]["transforms"][0]["func"]
    {'_target_': 'Spacing', 'pixdim': '@spacing', 'mode': 'bilinear'}
    """
    preprocessing = config.get("preprocessing")
    transforms = preprocessing.get("transforms") if isinstance(preprocessing, Mapping) else None
    if not isinstance(preprocessing, Mapping) or not isinstance(transforms, list):
        return dict(config)
    return {**config, "preprocessing": {**preprocessing, "transforms": [_as_function(item) for item in transforms]}}


def _as_function(transform: Any) -> Any:
    if not isinstance(transform, Mapping) or str(transform.get("_target_")).rpartition(".")[2] != "Spacingd":
        return transform
    keys = transform.get("keys")
    if not isinstance(keys, str) and not (isinstance(keys, list) and len(keys) == 1):
        return transform  # several keys may have to get one shape, which Spacing alone does not see to
    outer = {key: value for key, value in transform.items() if key in _OF_THE_DICTIONARY}
    inner = {
        key: value[0] if key in _A_VALUE_A_KEY and isinstance(value, list) and len(value) == 1 else value
        for key, value in transform.items()
        if key not in _OF_THE_DICTIONARY | {"_target_", "ensure_same_shape"}
    }
    return {"_target_": "Lambdad", **outer, "func": {"_target_": "Spacing", **inner}}


def with_handlers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The training with an empty list ``train::handlers``, which the trainer takes; as it was where it has one."""
    section = config.get("train")
    trainer = section.get("trainer") if isinstance(section, Mapping) else None
    if not isinstance(section, Mapping) or not isinstance(trainer, Mapping):
        return dict(config)
    if "handlers" in section or "train_handlers" in trainer:
        return dict(config)
    target = find_target(trainer.get("_target_")).callable
    accepted = arguments(target) if target else None
    if accepted is None or "train_handlers" not in accepted.names:
        return dict(config)
    # In front of the trainer, as what it refers to.
    before = {key: value for key, value in section.items() if key != "trainer"}
    after = {"handlers": [], "trainer": {**trainer, "train_handlers": "@train::handlers"}}
    return {**config, "train": {**before, **after}}


def with_one_count_of_epochs(config: Mapping[str, Any]) -> dict[str, Any]:
    """The training with everything that counts epochs counting those of the trainer, which are ``max_epochs``."""
    section = config.get("train")
    trainer = section.get("trainer") if isinstance(section, Mapping) else None
    if not isinstance(trainer, Mapping) or trainer.get("max_epochs") != "@max_epochs":
        return dict(config)
    counted = {key: _counting(value) for key, value in config.items()}
    own = {**counted["train"]["trainer"], "max_epochs": "@max_epochs"}
    return {**counted, "train": {**counted["train"], "trainer": own}}


def with_repeated_runs(config: Mapping[str, Any]) -> dict[str, Any]:
    """The training with a ``run`` that may be called again; ``training`` still refuses a folder that holds a run."""
    steps = config.get("run")
    if not isinstance(steps, list) or not any(_REFUSAL in str(step) for step in steps):
        return dict(config)
    kept = [step for step in steps if _REFUSAL not in str(step)]
    return {**config, "run": [_SET_ASIDE, *kept, _OFFER]}


def _counting(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {key: _counting(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_counting(value) for value in item]
    return _EPOCHS.sub(EPOCHS, item) if isinstance(item, str) and item.startswith(("@", "$")) else item
