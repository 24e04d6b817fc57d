"""The page of a plan: what the data set holds, and every value with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medseg3d.plan.fingerprint import Fingerprint
from medseg3d.plan.model import Configuration, Plan, Value
from medseg3d.plan.template import Template

__all__ = ["plan_page"]

TITLES = {
    "3d": "3D",
    "2d": "2D, slice by slice",
    "lowres": "3D at low resolution",
    "cascade": "3D after low resolution",
}

COMPARED = ("spacing", "patch_size", "batch_size", "flip_axes", "rotate_range", "batch_dice")
"""What differs between configurations, and is short enough for a table."""


def plan_page(fingerprint: Fingerprint, plan: Plan, template: Template) -> str:
    """One HTML file without a network, a script or anything else beside it."""
    from medseg3d.report.page import render

    shared = _shared(plan)
    configurations = [_shown(configuration, shared) for configuration in plan.configurations.values()]
    return render(
        "plan.html.j2",
        payloads={},
        title=f"Plan for {fingerprint.name or 'the data set'}",
        plan=plan,
        headline=_headline(plan),
        facts=_facts(fingerprint),
        grid_rows=_grid_rows(fingerprint),
        labels=_labels(fingerprint, plan),
        intensities=_intensities(fingerprint),
        configurations=configurations,
        shared=[_value(id_, value) for id_, value in shared.items()],
        comparison=_comparison(plan),
        advice=[(name, _text(v.value), v.reason) for name, v in plan.advice.items() if name != "tolerance_mm"],
        tolerance=plan.advice["tolerance_mm"].reason,
        user_set=[f"{TITLES[c.name]}: {id_}" for c in plan.configurations.values()
                  for id_, value in c.values.items() if value.source == "user"],
        bundle_version=_version(template),
        titles=TITLES,
    )  # fmt: skip


def _headline(plan: Plan) -> dict[str, str]:
    chosen = plan.configurations[plan.recommended]
    patch = "×".join(str(n) for n in chosen.values["patch_size"].value)
    spacing = " × ".join(f"{mm:.4g}" for mm in chosen.values["spacing"].value)
    return {"patch": patch, "spacing": spacing, "name": TITLES[plan.recommended]}


def _facts(fingerprint: Fingerprint) -> list[tuple[str, str]]:
    orientations = fingerprint.to_json()["orientations"]
    kept = fingerprint.median_kept
    return [
        ("Training cases", str(len(fingerprint.cases))),
        ("Modality", fingerprint.modality or "not stated"),
        ("Channels", ", ".join(fingerprint.channels)),
        ("Axes of the files", ", ".join(f"{axes} ({n})" for axes, n in orientations.items())),
        ("Left after cropping to what is not 0", f"{kept:.0%} of the median image"),
        ("Regions", ", ".join(fingerprint.regions) or "none"),
    ]


def _grid_rows(fingerprint: Fingerprint) -> list[tuple[str, list[str]]]:
    found = fingerprint.to_json()
    rows = []
    for title, key, digits in (("Spacing, mm", "spacing_mm", ".4g"), ("Voxels", "shape", "g"),
                               ("Voxels, cropped", "cropped_shape", "g")):  # fmt: skip
        values = found[key]
        cells = [
            f"{values['median'][axis]:{digits}} ({values['min'][axis]:{digits}} to {values['max'][axis]:{digits}})"
            for axis in range(3)
        ]
        rows.append((title, cells))
    return rows


def _labels(fingerprint: Fingerprint, plan: Plan) -> list[dict[str, Any]]:
    tolerances = plan.advice["tolerance_mm"].value
    rows = []
    for name in fingerprint.labels:
        facts = fingerprint.label(name)
        low, median, high = facts.volume_ml or (math.nan,) * 3
        rows.append(
            {
                "name": name,
                "id": facts.label_id,
                "cases": facts.cases,
                "of": len(fingerprint.cases),
                "share": 100 * facts.cases / len(fingerprint.cases),
                "median": _digits(median) if facts.volume_ml else "–",
                "range": f"{_digits(low)} to {_digits(high)}" if facts.volume_ml else "–",
                "components": f"{facts.components[0]:g} (up to {facts.components[1]})" if facts.cases else "–",
                "largest": f"{facts.largest_share:.0%}" if facts.cases else "–",
                "foreground": f"{facts.share_of_foreground:.1%}",
                "tolerance": f"{tolerances[name]:g}",
            }
        )
    return rows


def _intensities(fingerprint: Fingerprint) -> list[dict[str, str]]:
    rows = []
    for channel, name in enumerate(fingerprint.channels):
        found = fingerprint.intensity(channel)
        values = (
            {}
            if found is None
            else {key: _digits(getattr(found, key), 4) for key in ("low", "median", "high", "mean", "sd")}
        )
        rows.append({"name": name, **dict.fromkeys(("low", "median", "high", "mean", "sd"), "–"), **values})
    return rows


def _digits(value: float, digits: int = 3) -> str:
    """A number of so many digits, never with an exponent: 1290, not 1.29e+03."""
    return f"{float(f'{value:.{digits}g}'):.15g}"


def _comparison(plan: Plan) -> list[tuple[str, list[str]]]:
    rows = []
    for id_ in COMPARED:
        cells = [c.values.get(id_) for c in plan.configurations.values()]
        if any(cells):
            rows.append((id_, ["as the bundle" if cell is None else _text(cell.value) for cell in cells]))
    return rows


def _shared(plan: Plan) -> dict[str, Value]:
    """Values that all configurations have alike."""
    first, *others = plan.configurations.values()
    return {
        id_: value for id_, value in first.values.items() if all(other.values.get(id_) == value for other in others)
    }


def _shown(configuration: Configuration, shared: Mapping[str, Value]) -> dict[str, Any]:
    return {
        "name": configuration.name,
        "title": TITLES[configuration.name],
        "file": configuration.file,
        "values": [
            _value(id_, value)
            for id_, value in configuration.values.items()
            if id_ != "network_def" and id_ not in shared
        ],
        "network": configuration.values.get("network_def"),
        "stages": _stages(configuration),
        "memory": _memory(configuration),
        "facts": [_value(id_, value) for id_, value in configuration.facts.items() if "memory" not in id_],
    }


def _value(id_: str, value: Value) -> dict[str, str]:
    return {"id": id_, "text": _text(value.value), "reason": value.reason, "source": value.source}


def _text(value: Any) -> str:
    """A value as YAML would show it in a line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_text(item) for item in value)}]"
    return str(value)


def _stages(configuration: Configuration) -> list[dict[str, str]]:
    """The network from full resolution to the bottleneck: channels, kernel, and the size of a patch there."""
    network = configuration.values["network_def"].value
    network = network.get("network", network) if isinstance(network, Mapping) else {}
    if not {"filters", "kernel_size", "strides"} <= set(network):
        return []
    axes = network.get("spatial_dims", 3)
    patch = configuration.values["patch_size"].value
    size = [n for n in patch if axes == 3 or n > 1] if len(patch) != axes else list(patch)
    stages = []
    for number, (channels, kernel, strides) in enumerate(
        zip(network["filters"], network["kernel_size"], network["strides"], strict=False), start=1
    ):
        steps = strides if isinstance(strides, list) else [strides] * axes
        size = [math.ceil(n / step) for n, step in zip(size, steps, strict=False)]
        kernels = kernel if isinstance(kernel, list) else [kernel] * axes
        stages.append(
            {
                "number": str(number),
                "channels": str(channels),
                "width": f"{100 * channels / max(network['filters']):.0f}",
                "kernel": "×".join(map(str, kernels)),
                "strides": "×".join(map(str, steps)),
                "size": "×".join(map(str, size)),
            }
        )
    return stages


def _memory(configuration: Configuration) -> list[dict[str, str]]:
    return [
        {"name": name, "reason": configuration.facts[key].reason}
        for name, key in (("Measured", "memory"), ("nnU-Net's constants", "nnunet_memory"))
        if key in configuration.facts
    ]


def _version(template: Template) -> str:
    from medseg3d.bundles.metadata import describe

    return describe(template.folder).version
