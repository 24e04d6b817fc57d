"""nnU-Net's recorded plans, with axes as medseg3d has them, and ours for the same data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medseg3d.plan import Configuration, Fingerprint, Plan, Template, make_plan
from medseg3d.plan.budget import NnunetBudget
from medseg3d.plan.case import CaseFingerprint
from medseg3d.plan.template import PLAIN

RECORD = Path(__file__).parent / "data" / "nnunet_plans.json"

NAMES = {"3d_fullres": "3d", "2d": "2d", "3d_lowres": "lowres"}
"""nnU-Net's configurations, and ours."""

TEMPLATE = Template(
    Path("a_bundle"),
    {
        "labels": {}, "channels": [], "spacing": [1, 1, 1], "patch_size": [32, 32, 32], "batch_size": 2,
        "flip_axes": [], "normalize": {}, "background": 0.0, "rotate_range": [0.5, 0.5, 0.5],
        "batch_dice": False, "max_epochs": 10, "iterations_per_epoch": 50, "train": {}, "network_def": PLAIN,
    },
)  # fmt: skip
"""A bundle with every id that a plan may set."""


@dataclass(frozen=True)
class Shape:
    """What is compared of a configuration; axes are left-right, back-front, foot-head, without that of slices in 2D."""

    spacing: tuple[float, ...]
    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    filters: tuple[int, ...]
    batch_size: int


def read_record() -> dict[str, Any]:
    return json.loads(RECORD.read_text(encoding="utf-8"))


def fingerprint_of(entry: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint of a recorded data set: spacings and sizes, as nnU-Net read them, turned to RAS."""
    labels = entry["labels"]
    cases = tuple(
        case_of(tuple(spacing[::-1]), tuple(shape[::-1]), labels=labels, name=f"case_{number:03d}")
        for number, (spacing, shape) in enumerate(zip(entry["spacings"], entry["shapes_after_crop"], strict=True))
    )
    return Fingerprint("recorded", "", tuple(entry["channels"]), labels, cases, {})


def case_of(
    spacing: tuple[float, ...], shape: tuple[int, ...], *, labels: Mapping[str, int] | None = None, name: str = "case"
) -> CaseFingerprint:
    """A case of a grid alone; every label fills 10 ml."""
    ids = list((labels or {"organ": 1}).values())
    volume, ones = dict.fromkeys(ids, 10.0), dict.fromkeys(ids, 1)
    return CaseFingerprint(name, "", "RAS", spacing, shape, shape, (), volume, ones, dict.fromkeys(ids, 1.0))  # type: ignore[arg-type]


def planned_like(entry: Mapping[str, Any], *, memory: Literal["nnunet", "measured"]) -> Plan:
    """Our plan of a recorded data set, by nnU-Net's constants for the memory or by measuring."""
    fingerprint = fingerprint_of(entry)
    budget = NnunetBudget(8.0, classes=1 + max(entry["labels"].values())) if memory == "nnunet" else None
    return make_plan(fingerprint, TEMPLATE, budget=budget)


def theirs(entry: Mapping[str, Any], name: str) -> Shape:
    """A recorded configuration with axes of the patient."""
    plan = entry["plans"][name]
    # nnU-Net reads foot-head, back-front, left-right, and puts the coarsest first; 2D leaves that one out.
    axes = [2 - axis for axis in entry["transpose_forward"]][-len(plan["patch_size"]) :]
    order = [axes.index(axis) for axis in sorted(axes)]

    def turned(values: Any) -> tuple[Any, ...]:
        return tuple(values[position] for position in order)

    return Shape(
        spacing=turned(plan["spacing"]),
        patch_size=turned([int(n) for n in plan["patch_size"]]),
        strides=tuple(turned(row) for row in plan["strides"]),
        kernels=tuple(turned(row) for row in plan["kernels"]),
        filters=tuple(plan["filters"]),
        batch_size=plan["batch_size"],
    )


def ours(configuration: Configuration) -> Shape:
    """A configuration of ours; DynUNet's least number of stages is undone by ``stages``."""
    values = configuration.overrides()
    network = values["network_def"]
    without = network.get("slice_axis")
    network = network.get("network", network)
    axes = [axis for axis in range(3) if axis != without]

    def rows(items: Any) -> tuple[tuple[int, ...], ...]:
        return tuple((item,) * len(axes) if isinstance(item, int) else tuple(item) for item in items)

    return Shape(
        spacing=tuple(values["spacing"][axis] for axis in axes),
        patch_size=tuple(values["patch_size"][axis] for axis in axes),
        strides=rows(network["strides"]),
        kernels=rows(network["kernel_size"]),
        filters=tuple(network["filters"]),
        batch_size=values["batch_size"],
    )
