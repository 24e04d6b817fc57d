"""Values that must agree: labels, channels and strides with the network, steps with the schedule, metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from medseg3d.bundles.merge import META, SEPARATOR, Merged, lookup
from medseg3d.bundles.network_input import network_channels
from medseg3d.bundles.problems import Problem
from medseg3d.bundles.targets import arguments, find_target
from medseg3d.bundles.values import UNKNOWN, Values

__all__ = ["check_consistency", "stride_of_network"]

NETWORK = "network_def"
# Networks of MONAI whose depth is not among their arguments: each axis is halved four or five times.
_FIXED_STRIDES = {
    "BasicUNet": 16,
    "BasicUnet": 16,
    "BasicUNetPlusPlus": 16,
    "VNet": 16,
    "SwinUNETR": 32,
    "FlexibleUNet": 32,
}


def check_consistency(merged: Merged, values: Values) -> list[Problem]:
    """All comparisons between named values; those whose values are not known are skipped."""
    return [
        *_check_labels(merged, values),
        *_check_channels(merged, values),
        *_check_patch_size(merged, values),
        *_check_schedule(merged, values),
        *_check_data_format(merged, values),
    ]


def _check_labels(merged: Merged, values: Values) -> list[Problem]:
    labels = values.get("labels")
    if not isinstance(labels, Mapping):
        return []
    where = merged.where("labels")
    wrong = {name: id_ for name, id_ in labels.items() if not _is_int(id_) or id_ < 0}
    if wrong:
        shown = ", ".join(f"{name}: {id_!r}" for name, id_ in wrong.items())
        return [Problem(where, f"label ids are whole numbers from 0, not {shown}.", "Write 'labels: {name: id}'.")]
    repeated = sorted({id_ for id_ in labels.values() if list(labels.values()).count(id_) > 1})
    if repeated:
        names = ", ".join(name for name, id_ in labels.items() if id_ in repeated)
        return [
            Problem(where, f"{names} share one id ({', '.join(map(str, repeated))}).", "Give each label its own id.")
        ]
    out_channels = _network_value(merged, values, "out_channels")
    if not _is_int(out_channels) or not labels:
        return []
    regions = values.get("regions")
    if isinstance(regions, Mapping) and regions:
        return _check_regions(merged, regions, labels, out_channels)
    if regions is UNKNOWN and "regions" in merged.config:
        return []
    if values.get("multi_label") is True and merged.config.get("task") == "segmentation_2d":
        out_channels += 1  # a sigmoid a label, and none for the background
    name, highest = max(labels.items(), key=lambda item: item[1])
    if highest >= out_channels:
        what = f"label {name!r} has id {highest}, but the network's output channels are 0 to {out_channels - 1}."
        return [Problem(where, what, f"Set {NETWORK}::out_channels to {highest + 1}, or renumber the labels.")]
    if highest < out_channels - 1:
        what = f"the network has {out_channels} output channels, but the highest label id is {highest}."
        return [Problem(where, what, f"{NETWORK}::out_channels of {highest + 1} is enough.", severity="warning")]
    return []


def _check_regions(
    merged: Merged, regions: Mapping[str, Any], labels: Mapping[str, int], out_channels: int
) -> list[Problem]:
    """With regions the network has a sigmoid a region, and what they paint must be label ids."""
    from medseg3d.errors import UsageError
    from medseg3d.labels import region_label_ids

    where = merged.where("regions")
    if wrong := [name for name, ids in regions.items() if not isinstance(ids, Sequence) or not all(map(_is_int, ids))]:
        return [
            Problem(where, f"{wrong[0]!r} is {regions[wrong[0]]!r}, no list of label ids.", "Write {name: [1, 2]}.")
        ]
    try:
        region_label_ids(regions)
    except UsageError as error:
        return [Problem(where, str(error))]
    named = {id_ for ids in regions.values() for id_ in ids}
    if named != set(labels.values()):
        what = f"the regions are made of the ids {sorted(named)}, the labels have {sorted(labels.values())}."
        return [Problem(where, what, "Give every label to at least one region, and every id of a region a label.")]
    if len(regions) != out_channels:
        what = f"there are {len(regions)} regions, but the network has {out_channels} output channels."
        return [Problem(where, what, f"Set {NETWORK}::out_channels to {len(regions)}: a channel a region.")]
    return []


def _check_channels(merged: Merged, values: Values) -> list[Problem]:
    channels, in_channels = values.get("channels"), _network_value(merged, values, "in_channels")
    if not isinstance(channels, Sequence) or isinstance(channels, str) or not _is_int(in_channels):
        return []
    if len(channels) == in_channels:
        return []
    listed = ", ".join(map(str, channels))
    what = f"there are {len(channels)} channels ({listed}), but the network has {in_channels} input channels."
    return [Problem(merged.where("channels"), what, f"Set {NETWORK}::in_channels to {len(channels)}.")]


def stride_of_network(merged: Merged, values: Values, *, axes: int) -> tuple[int, ...] | None:
    """By what each axis of a patch must be divisible, or None when the network does not say.

    The product of ``strides`` (numbers, or one number an axis), or two to the number of ``blocks_down`` less one.
    """
    strides = _network_value(merged, values, "strides")
    if isinstance(strides, Sequence) and not isinstance(strides, str):
        rows = [[step] * axes if _is_int(step) else list(step) for step in strides]
        if all(len(row) == axes and all(_is_int(step) for step in row) for row in rows):
            return tuple(prod(column) for column in zip(*rows, strict=True)) if rows else None
        return None
    blocks = _network_value(merged, values, "blocks_down")
    if isinstance(blocks, Sequence) and blocks:
        return (2 ** (len(blocks) - 1),) * axes
    name = str(lookup(merged.config, f"{NETWORK}{SEPARATOR}_target_", "")).rpartition(".")[2]
    return (_FIXED_STRIDES[name],) * axes if name in _FIXED_STRIDES else None


def _check_patch_size(merged: Merged, values: Values) -> list[Problem]:
    patch = values.get("patch_size")
    if not isinstance(patch, Sequence) or isinstance(patch, str) or not patch:
        return []
    where = merged.where("patch_size")
    if not all(_is_int(size) and size > 0 for size in patch):
        return [Problem(where, f"{list(patch)} is no size in voxels.", "Give a positive whole number an axis.")]
    stride = stride_of_network(merged, values, axes=len(patch))
    if stride is None or all(size % step == 0 for size, step in zip(patch, stride, strict=True)):
        return []
    legal = [max(step, round(size / step) * step) for size, step in zip(patch, stride, strict=True)]
    what = f"{list(patch)} is not divisible by the network's stride {list(stride)}."
    if any(size < step for size, step in zip(patch, stride, strict=True)):
        what = f"{list(patch)} is smaller than the network's stride {list(stride)} allows."
    return [Problem(where, what, f"The nearest that fits is {legal}; or reduce {NETWORK}::strides.")]


def _check_schedule(merged: Merged, values: Values) -> list[Problem]:
    """OneCycleLR divides by the number of its rising steps less one, which is zero where only one step rises."""
    id_ = "lr_scheduler"
    if not str(lookup(merged.config, f"{id_}{SEPARATOR}_target_", "")).endswith("OneCycleLR"):
        return []
    steps, share = (values.get(f"{id_}{SEPARATOR}{key}") for key in ("total_steps", "pct_start"))
    if not _is_int(steps) or not isinstance(share, float) or share * steps != 1:
        return []
    what = f"OneCycleLR cannot divide {steps} steps in all (epochs times iterations) so that {share:g} of them, "
    what += "a single step, raise the learning rate: it divides by zero."
    return [Problem(merged.where(f"{id_}{SEPARATOR}total_steps"), what, f"Train for {steps + 1} steps or more.")]


def _check_data_format(merged: Merged, values: Values) -> list[Problem]:
    """``network_data_format`` of the metadata against the configuration.

    The metadata describes the bundle as it is published: nothing is compared once a plan or an override changes it.
    """
    data_format = lookup(merged.config, f"_meta_{SEPARATOR}network_data_format")
    if not isinstance(data_format, Mapping) or any(
        merged.is_changed(id_) for id_ in (NETWORK, "labels", "channels", "regions")
    ):
        return []
    problems = []
    for side, item, key in (("inputs", "image", "in_channels"), ("outputs", "pred", "out_channels")):
        id_ = SEPARATOR.join((side, item, "num_channels"))
        stated, actual = lookup(data_format, id_), _network_value(merged, values, key)
        if _is_int(stated) and _is_int(actual) and stated != actual:
            problems.append(_disagreement(merged, id_, stated, f"{NETWORK}::{key}", actual))
    return problems + _check_channel_names(merged, data_format, values)


def _check_channel_names(merged: Merged, data_format: Mapping[str, Any], values: Values) -> list[Problem]:
    problems = []
    labels, channels = values.get("labels"), network_channels(merged.config, values)
    id_ = SEPARATOR.join(("outputs", "pred", "channel_def"))
    stated = lookup(data_format, id_)
    regions = values.get("regions")
    if isinstance(regions, Mapping) and isinstance(stated, Mapping):
        described_regions = _in_order(stated)
        if described_regions != [str(name) for name in regions]:
            problems.append(_disagreement(merged, id_, described_regions, "regions", list(regions)))
    elif isinstance(labels, Mapping) and isinstance(stated, Mapping):
        described = {str(name): int(id_) for id_, name in stated.items() if str(id_).isdecimal() and int(id_) != 0}
        expected = {str(name): id_ for name, id_ in labels.items() if id_ != 0}
        if described != expected:
            problems.append(_disagreement(merged, id_, described, "labels", expected))
    id_ = SEPARATOR.join(("inputs", "image", "channel_def"))
    stated = lookup(data_format, id_)
    if isinstance(channels, list) and isinstance(stated, Mapping):
        described_channels = _in_order(stated)
        if described_channels != channels:
            problems.append(_disagreement(merged, id_, described_channels, "channels", channels))
    return problems


def _in_order(names: Mapping[Any, Any]) -> list[str]:
    """The names of channels by their numbers, which are text in JSON: channel 10 comes after channel 9."""
    return [str(names[key]) for key in sorted(names, key=lambda key: (len(str(key)), str(key)))]


def _disagreement(merged: Merged, meta_id: str, stated: Any, id_: str, actual: Any) -> Problem:
    what = f"network_data_format::{meta_id} is {stated}, but {id_} is {actual}."
    return Problem(merged.origins.get(META, "metadata.json"), what, "Make the two agree: viewers show what it says.")


def _network_value(merged: Merged, values: Values, key: str) -> Any:
    """An argument of the network: as configured, else the default of its signature, else UNKNOWN."""
    id_ = f"{NETWORK}{SEPARATOR}{key}"
    if lookup(merged.config, id_) is not None:
        return values.get(id_)
    target = find_target(lookup(merged.config, f"{NETWORK}{SEPARATOR}_target_")).callable
    accepted = arguments(target) if target else None
    return accepted.defaults.get(key, UNKNOWN) if accepted else UNKNOWN


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
