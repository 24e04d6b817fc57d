"""The second stage of a cascade: the plan at full resolution, whose network also sees the low resolution's mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from medseg3d.plan.model import Configuration, Value
from medseg3d.plan.template import Template

__all__ = ["has_cascade", "second_stage"]

NEEDED = ("normalize", "previous_dir")

WRAPPED = {"normalize": "normalize", "network_def": "network"}
"""What the second stage wraps → the argument that it becomes."""


def has_cascade(template: Template) -> bool:
    """Whether a bundle can be trained as a second stage: it names ``previous_dir``, and labels exclude each other."""
    return all(id_ in template.config for id_ in NEEDED) and not template.config.get("regions")


def second_stage(full: Configuration, *, file: str, own: Mapping[str, Value]) -> Configuration:
    """nnU-Net's 3d_cascade_fullres: everything as at full resolution, and the first stage's mask beside the image.

    Args:
        full: the plan at full resolution.
        file: of the study.
        own: what the user set for the cascade alone; it wins. Parts (``network_def::norm_name``) are named as in 3d.
    """
    normalize, network = full.values["normalize"], full.values["network_def"]
    values = {
        **full.values,
        "normalize": replace(
            normalize,
            value=_with_mask(normalize.value),
            reason=f"{normalize.reason} Then the low resolution's mask, as one more channel of label ids.",
        ),
        "network_def": replace(
            network,
            value=_seeing_mask(network.value),
            reason=f"{network.reason} It is that of 3d with an input channel more for each label of the mask, which "
            "the memory that was counted leaves out.",
        ),
        **own,
    }
    return Configuration("cascade", file, {_inside(id_): value for id_, value in values.items()}, full.facts)


def _inside(id_: str) -> str:
    """Where a part of the normalisation or the network of 3d is, now that another one has it as an argument.

    >>> _inside("network_def::norm_name"), _inside("network_def"), _inside("batch_size")
    ('network_def::network::norm_name', 'network_def', 'batch_size')
    """
    root, separator, part = id_.partition("::")
    return f"{root}::{WRAPPED[root]}::{part}" if separator and root in WRAPPED else id_


def _with_mask(normalize: Any) -> dict[str, Any]:
    return {
        "_target_": "medseg3d.transforms.AddPreviousd",
        "keys": "image",
        "labels": "@labels",
        "folder": "@previous_dir",
        "normalize": normalize,
    }


def _seeing_mask(network: Mapping[str, Any]) -> dict[str, Any]:
    inner = {**network, "in_channels": "$len(@channels) + max(@labels.values())"}
    return {"_target_": "medseg3d.networks.WithPrevious", "labels": "@labels", "network": inner}
