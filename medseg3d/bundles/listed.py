"""What the data list says of regions, ignored voxels and missing channels, against the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medseg3d.bundles.merge import Merged
from medseg3d.bundles.problems import Problem
from medseg3d.bundles.values import UNKNOWN, Values
from medseg3d.options import flag

if TYPE_CHECKING:
    from medseg3d.datalist import DataList

__all__ = ["check_list_values", "file_labels_of"]


def file_labels_of(values: Values) -> tuple[str, Any]:
    """The id under which a configuration says what the label maps' ids are, and its value.

    ``file_labels`` where the files have other ids than the network, ``labels`` otherwise.
    """
    file_labels = values.get("file_labels")
    return ("labels", values.get("labels")) if file_labels in (UNKNOWN, None) else ("file_labels", file_labels)


def check_list_values(merged: Merged, values: Values, datalist: DataList) -> list[Problem]:
    """Regions, ``ignore_label`` and missing channels of the list, where the bundle must know of them."""
    return [
        *_check_regions(merged, values, datalist),
        *_check_ignore_label(merged, values, datalist),
        *_check_missing_channels(merged, values, datalist),
    ]


def _check_regions(merged: Merged, values: Values, datalist: DataList) -> list[Problem]:
    """The list's regions, if it has any, must be the bundle's; by the labels' names, since ids may be mapped."""
    regions, labels = values.get("regions"), values.get("labels")
    if not isinstance(regions, Mapping) or not isinstance(labels, Mapping) or not datalist.regions:
        return []
    if not all(isinstance(ids, Sequence) for ids in regions.values()):
        return []  # said where values are compared with each other
    configured, listed = _by_name(regions, labels), _by_name(datalist.regions, datalist.labels)
    if configured == listed:
        return []
    ids = {name: sorted(labels[label] for label in of if label in labels) for name, of in listed.items()}
    shown = ", ".join(f"'{name}': {of}" for name, of in ids.items())
    what = f"the regions are {_shown(configured)}, but those of {datalist.path} are {_shown(listed)}."
    return [Problem(merged.where("regions"), what, f'Pass --regions "{{{shown}}}", or correct the data list.')]


def _by_name(regions: Mapping[str, Sequence[int]], labels: Mapping[str, int]) -> dict[str, frozenset[str]]:
    names = {label_id: name for name, label_id in labels.items()}
    return {str(region): frozenset(names.get(i, str(i)) for i in ids) for region, ids in regions.items()}


def _shown(regions: Mapping[str, frozenset[str]]) -> str:
    return "; ".join(f"{region}: {', '.join(sorted(names))}" for region, names in regions.items())


def _check_ignore_label(merged: Merged, values: Values, datalist: DataList) -> list[Problem]:
    if datalist.ignore_label is None:
        return []
    if "ignore_label" not in merged.config:
        what = f"voxels of id {datalist.ignore_label} of {datalist.path} are labelled by nobody (ignore_label), and "
        what += "this bundle has no ignore_label: it would train them as a structure."
        return [Problem(merged.where("datalist"), what, "Leave out the cases that have such voxels.")]
    configured = values.get("ignore_label")
    if configured in (UNKNOWN, datalist.ignore_label):
        return []
    what = f"ignore_label is {configured}, but {datalist.path} says that id {datalist.ignore_label} is labelled by "
    what += "nobody."
    return [Problem(merged.where("ignore_label"), what, f"Pass --ignore_label {datalist.ignore_label}.")]


def _check_missing_channels(merged: Merged, values: Values, datalist: DataList) -> list[Problem]:
    allowed = values.get("missing_channels")
    if isinstance(allowed, (bool, str)) and flag(allowed, "missing_channels"):
        return []
    cases = datalist.training if "train" in merged.config else (*datalist.training, *datalist.testing)
    lacking = [f"{case.case} lacks {', '.join(m)}" for case in cases if (m := case.missing(datalist.channels))]
    if not lacking:
        return []
    what = f"{len(lacking)} cases of {datalist.path} have missing channels: {'; '.join(lacking[:3])}"
    what += "; …." if len(lacking) > 3 else "."
    remedy = "Leave them out, or pass --missing_channels true, which gives the network zeros in their place."
    if "missing_channels" not in merged.config:
        remedy = "Leave them out: the network of this bundle was not trained without a channel."
    return [Problem(merged.where("datalist"), what, remedy)]
