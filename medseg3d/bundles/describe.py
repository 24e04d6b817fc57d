"""``metadata.json`` of a packed bundle: what is true of the weights in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medseg3d.bundles.consistency import stride_of_network
from medseg3d.bundles.merge import META, Merged, lookup
from medseg3d.bundles.network_input import network_channels
from medseg3d.bundles.runs import TrainedWeights, shown_command
from medseg3d.bundles.targets import arguments, find_target
from medseg3d.bundles.values import StaticValues
from medseg3d.versions import package_version

__all__ = ["packed_metadata", "scores", "with_weights"]

SHAPING = frozenset({"network_def", "labels", "regions", "channels", "patch_size"})


def packed_metadata(
    metadata: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    name: str,
    changed: Sequence[str],
    trained: Sequence[TrainedWeights],
    summary: Mapping[str, Any] | None,
    version: str | None = None,
) -> dict[str, Any]:
    """The bundle's metadata with today's versions, the network's channels, the training's record and the scores.

    Args:
        metadata: of the bundle that is packed.
        config: the flattened inference configuration.
        changed: its ids that differ from the bundle's own: with them the data format is worked out anew.
        summary: ``summary.json`` of an evaluation of these weights.
        version: of the packed bundle; None keeps the bundle's.
    """
    content = {**metadata, "name": name}
    if version is not None and version != metadata.get("version"):
        note = f"packed from {metadata.get('name', name)} {metadata.get('version', '')}".rstrip()
        content |= {"version": version, "changelog": {**metadata.get("changelog", {}), version: note}}
    content |= _versions(metadata)
    if SHAPING & set(changed) and isinstance(metadata.get("network_data_format"), Mapping):
        content["network_data_format"] = _data_format(metadata["network_data_format"], config)
    if {"labels", "regions", "channels"} & set(changed):
        content |= _in_words(content.get("network_data_format", {}))
    content["training"] = [_training(member) for member in trained if member.record]
    if summary is not None:
        content["eval_metrics"] = scores(summary)
    return {key: value for key, value in content.items() if key != "training" or value}


def with_weights(metadata: Mapping[str, Any], sha256: Mapping[str, str]) -> dict[str, Any]:
    """The metadata with the SHA-256 of each file in ``models/``, by which `medseg3d bundle check` knows them."""
    return {**metadata, "weights_sha256": dict(sha256)}


def scores(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The headline of an evaluation with its interval, and the mean Dice of each label where there is one."""
    headline = summary.get("headline", {})
    content: dict[str, Any] = {
        "cases": summary.get("cases"),
        "patients": summary.get("patients"),
        str(headline.get("metric", "score")): {
            "over": headline.get("over"),
            "value": headline.get("value"),
            "interval": headline.get("interval"),
            "level": headline.get("level"),
        },
    }
    labels = summary.get("labels", {})
    dice = {label: lookup(values, "metrics::dice") for label, values in labels.items()}
    per_label = {
        label: {"value": metric.get("mean"), "interval": metric.get("interval_mean")}
        for label, metric in dice.items()
        if isinstance(metric, Mapping)
    }
    return content | ({"dice_by_label": per_label} if per_label else {})


def _versions(metadata: Mapping[str, Any]) -> dict[str, Any]:
    required = dict(metadata.get("required_packages_version", {}))
    installed = {package: package_version(package) or version for package, version in required.items()}
    # `python -m monai.bundle` needs it, and MONAI does not bring it.
    installed.setdefault("fire", package_version("fire") or "0.7")
    own = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
    versions = {key: package_version(package) or metadata.get(key, "") for key, package in own.items()}
    return {**{key: value.partition("+")[0] for key, value in versions.items()}, "required_packages_version": installed}


def _training(member: TrainedWeights) -> dict[str, Any]:
    record = member.record
    kept = ("seed", "cases", "data_sha256", "config_sha256", "code_sha256", "versions")
    content = {key: record[key] for key in kept if key in record}
    starts = record.get("starts") or [{}]
    fold = member.config.get("fold")
    about = {"command": shown_command(member.command), "started": starts[0].get("time"), "fold": fold}
    return {key: value for key, value in about.items() if value not in (None, "")} | content


def _data_format(stated: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Channels and shapes as the configuration has them, everything else as it was stated."""
    values = StaticValues(config)
    inputs, outputs = dict(stated.get("inputs", {})), dict(stated.get("outputs", {}))
    image, pred = dict(inputs.get("image", {})), dict(outputs.get("pred", {}))
    channels = network_channels(config, values)
    if channels is not None and "channel_def" in image:
        image["channel_def"] = {str(number): channel for number, channel in enumerate(channels)}
        image["num_channels"] = len(channels)
    names = _channel_names(values, pred)
    if names:
        pred["channel_def"] = names
    out_channels = _out_channels(values, config)
    if isinstance(out_channels, int):
        pred["num_channels"] = out_channels
    shape = _spatial_shape(image, config)
    if shape:
        image["spatial_shape"] = shape
        if "spatial_shape" in pred:
            pred["spatial_shape"] = shape
    return {**stated, "inputs": {**inputs, "image": image}, "outputs": {**outputs, "pred": pred}}


def _in_words(data_format: Mapping[str, Any]) -> dict[str, str]:
    """The metadata's descriptions of image and prediction, for channels and labels that are not the bundle's own."""
    image = lookup(data_format, "inputs::image::channel_def") or {}
    pred = lookup(data_format, "outputs::pred::channel_def") or {}
    named = ", ".join(f"{number} {name}" for number, name in pred.items())
    return {
        "image_classes": f"channels: {', '.join(map(str, image.values()))}",
        "label_classes": named,
        "pred_classes": f"{len(pred)} channels: {named}",
    }


def _out_channels(values: StaticValues, config: Mapping[str, Any]) -> Any:
    for id_ in ("network_def::out_channels", "network_def::network::out_channels"):  # the latter of a wrapped network
        if isinstance(stated := values.get(id_), int):
            return stated
    target = find_target(lookup(config, "network_def::_target_")).callable
    accepted = arguments(target) if target else None
    return accepted.defaults.get("out_channels") if accepted else None


def _channel_names(values: StaticValues, pred: Mapping[str, Any]) -> dict[str, str]:
    """What each output channel means: a region, or a label, after the background where there is one."""
    regions, labels = values.get("regions"), values.get("labels")
    if isinstance(regions, Mapping) and regions:
        return {str(number): str(name) for number, name in enumerate(regions)}
    if not isinstance(labels, Mapping) or "channel_def" not in pred:
        return {}
    has_background = "background" in dict(pred["channel_def"]).values() and 0 not in labels.values()
    return ({"0": "background"} if has_background else {}) | {str(id_): str(name) for name, id_ in labels.items()}


def _spatial_shape(image: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Multiples of the network's strides; none where the stated ones are multiples of them already."""
    stated = image.get("spatial_shape", ())
    merged = Merged(config={key: value for key, value in config.items() if key != META})
    strides = stride_of_network(merged, StaticValues(config), axes=len(stated)) if stated else None
    if strides is None or all(_is_multiple(text, stride) for text, stride in zip(stated, strides, strict=True)):
        return []
    # Twice the stride: one voxel at the lowest resolution has no deviation to be normalised by.
    return [f"{2 * stride}*n" for stride in strides]


def _is_multiple(shape: Any, stride: int) -> bool:
    number = str(shape).partition("*")[0]
    return number.isdecimal() and int(number) % stride == 0
