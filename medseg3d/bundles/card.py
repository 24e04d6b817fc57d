"""The model card of a packed bundle, ``docs/README.md``: what it is for, how it was made, how well it does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from medseg3d.bundles.merge import lookup

__all__ = ["model_card", "section_of"]

NOT_A_DEVICE = "For research. Not a medical device, and not for diagnosis or treatment."
# Metric → heading, the statistic that is shown, its interval. Distances may be infinite: their median is shown.
_COLUMNS = {
    "dice": ("Dice, mean", "mean", "interval_mean"),
    "nsd": ("NSD, mean", "mean", "interval_mean"),
    "hd95_mm": ("HD95 in mm, median", "median", "interval_median"),
}


def model_card(
    metadata: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    data_licence: str = "",
    source_card: str = "",
    summary: Mapping[str, Any] | None = None,
    exports: Sequence[Mapping[str, Any]] = (),
    changed: Sequence[str] = (),
) -> str:
    """The card as Markdown.

    Args:
        metadata: of the packed bundle, with ``weights_sha256`` and ``training``.
        config: the flattened inference configuration.
        data_licence: the text of ``docs/data_license.txt``.
        source_card: the card of the bundle that was packed; its section "Limits" is kept.
        summary: ``summary.json`` of an evaluation of these weights; None says that there is none.
        exports: ``file``, ``difference`` and ``tolerance`` of each exported network.
        changed: ids that differ from the bundle that was packed.
    """
    sections = [
        f"# {metadata.get('task', metadata.get('name', 'Bundle'))}",
        f"{str(metadata.get('description', '')).rstrip('.')}.\n\n{NOT_A_DEVICE}",
        _table(_facts(metadata, config)),
        "## Use\n\n" + _use(metadata, config),
        "## Data and licence\n\n" + _data(metadata, data_licence),
        "## Training\n\n" + _training(metadata, changed),
        "## Results\n\n" + _results(summary),
        "## Intended use\n\n" + str(metadata.get("intended_use", NOT_A_DEVICE)),
        "## Limits\n\n" + _limits(source_card),
    ]
    if exports:
        sections.insert(-2, "## Exports\n\n" + _exports(exports))
    return "\n\n".join(sections) + "\n"


def section_of(card: str, heading: str) -> str:
    """The text below a heading of the second level, or ``""``.

    >>> section_of("# A\\n\\n## Limits\\n\\nSmall.\\n\\n## More\\n\\nText.", "Limits")
    'Small.'
    """
    found = re.search(rf"^## {re.escape(heading)}\s*\n(.*?)(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)
    return found.group(1).strip() if found else ""


def _facts(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    weights = metadata.get("weights_sha256", {})
    facts = {
        "version": f"{metadata.get('version', '?')}, of {metadata.get('authors', 'unknown authors')}",
        "input": metadata.get("image_classes", ""),
        "output": metadata.get("pred_classes", metadata.get("label_classes", "")),
        "labels": _listed(config.get("labels")),
        "channels": _listed(config.get("channels")),
        "spacing in mm": _listed(config.get("spacing")),
        "patch": _listed(config.get("patch_size")),
        "network": str(lookup(config, "network_def::_target_", "")),
        "weights": "<br>".join(f"`{file}`, SHA-256 `{digest}`" for file, digest in weights.items()),
        "made with": f"MONAI {metadata.get('monai_version')}, PyTorch {metadata.get('pytorch_version')}, NumPy "
        f"{metadata.get('numpy_version')}; " + _listed(metadata.get("required_packages_version")),
    }
    return [(key, str(value)) for key, value in facts.items() if value]


def _use(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    packages = metadata.get("required_packages_version", {})
    others = " ".join(f"{package}=={version}" for package, version in packages.items() if package != "medseg3d")
    return (
        "From the bundle's folder, in an environment with the packages above "
        f"(`medseg3d` from its repository, then `pip install {others}`):\n\n"
        "```bash\n"
        "python -m monai.bundle run --config_file configs/inference.yaml --dataset_dir IMAGES --output_dir OUT\n"
        f"{_command(config)} IMAGES OUT --bundle .\n"
        "```\n\n"
        "From elsewhere: `--bundle_root` and the configuration's path for the first, the bundle's path for the "
        f"second.\n\n{_in_other_programs(config)}"
    )


def _in_other_programs(config: Mapping[str, Any]) -> str:
    parts = [
        "MONAI Label reads `configs/inference.yaml`, `configs/train.yaml`, `configs/metadata.json` and "
        "`models/model.pt`; MONAI Deploy reads `models/model.ts`, where it was packed, with metadata and configuration "
        "inside. Both need the packages above beside them, and compute in float32. What MONAI Label trains lies in "
        "`runs/`; it offers the best weights as `models/trained.pt`, and those that were packed stay as they are."
    ]
    weights = config.get("weights")
    if isinstance(weights, list) and len(weights) > 1:
        parts.append(
            f"These are {len(weights)} networks whose probabilities are averaged: `models/model.ts` is all of them, "
            "`models/model.pt` alone the first; MONAI Label offers each by its file."
        )
    if config.get("temperature", 1) != 1:
        parts.append("Neither program applies the temperature, which masks that are resampled depend on a little.")
    if config.get("regions"):
        parts.append(
            "Masks hold label ids, while MONAI Label names what it shows by the network's channels, which are regions: "
            "go by the ids."
        )
    return " ".join(parts)


def _command(config: Mapping[str, Any]) -> str:
    runs = str(lookup(config, "evaluator::_target_", "")).rpartition(".")[2]
    return {"Classifier": "medseg3d classify", "ObjectDetector": "medseg3d detect"}.get(runs, "medseg3d segment")


def _data(metadata: Mapping[str, Any], licence: str) -> str:
    source = metadata.get("data_source", "The bundle does not say what data it was trained on.")
    terms = licence.strip() or "The bundle does not say under which licence the data is."
    return f"{source}.\n\n{terms}\n\nThe bundle's own licence is in `LICENSE`; no image is distributed with it."


def _training(metadata: Mapping[str, Any], changed: Sequence[str]) -> str:
    runs = metadata.get("training", [])
    if not runs:
        return "No record (`run.json`) lay beside the weights: how they were trained is not known here."
    parts = [_run(number, run, len(runs)) for number, run in enumerate(runs, start=1)]
    if changed:
        named = ", ".join(f"`{id_}`" for id_ in changed)
        parts.append(f"Different from the bundle that was packed: {named}; see `configs/train.yaml`.")
    return "\n\n".join(parts)


def _run(number: int, run: Mapping[str, Any], runs: int) -> str:
    facts = {
        "seed": run.get("seed"),
        "cases": run.get("cases"),
        "fold held out": run.get("fold"),
        "started": run.get("started"),
        "SHA-256 of data, configuration, code": " ".join(
            f"`{str(run[key])[:12]}…`" for key in ("data_sha256", "config_sha256", "code_sha256") if key in run
        ),
        "versions": _listed(run.get("versions")),
    }
    heading = f"Member {number} of {runs}:\n\n" if runs > 1 else ""
    rows = _table([(key, str(value)) for key, value in facts.items() if value not in (None, "")])
    return f"{heading}```bash\n{run.get('command', '')}\n```\n\n{rows}"


def _results(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return "These weights come with no evaluation: how well they do is not known."
    headline = summary.get("headline", {})
    level = headline.get("level") or 0.95
    intro = f"{_count(summary.get('cases'), 'case')} of {_count(summary.get('patients'), 'patient')}"
    if headline.get("value") is not None:
        intro += f"; {headline.get('metric', 'score')} over {headline.get('over', 'all')}: "
        intro += _with_interval(headline["value"], headline.get("interval"))
    method = f", {level:.0%} intervals in brackets"
    if headline.get("method"):
        method += f" ({headline['method']})"
    lines = [intro + method + ".", _label_table(summary.get("labels", {}))]
    lines += [str(headline["warning"])] if headline.get("warning") else []
    failed = summary.get("failed") or {}
    lines += [f"{_count(len(failed), 'case')} could not be scored."] if failed else []
    return "\n\n".join(line for line in lines if line)


def _label_table(labels: Mapping[str, Any]) -> str:
    columns = [name for name in _COLUMNS if any(lookup(values, f"metrics::{name}") for values in labels.values())]
    if columns:
        rows = [["label", *(_COLUMNS[name][0] for name in columns), "missed"]]
        for label, values in labels.items():
            cells = [_cell(lookup(values, f"metrics::{name}"), *_COLUMNS[name][1:]) for name in columns]
            rows.append([label, *cells, str(lookup(values, "status::missed", ""))])
        return _rows(rows)
    return _value_table(labels)


def _value_table(labels: Mapping[str, Any]) -> str:
    """Metrics that are a value with an interval, as those of classifiers and detectors."""
    metrics = {label: values.get("metrics", {}) for label, values in labels.items() if isinstance(values, Mapping)}
    named = [name for name, metric in next(iter(metrics.values()), {}).items() if _has_value(metric)]
    if not named:
        return ""
    rows = [["label", *named]]
    rows += [
        [label, *(_cell(values.get(name), "value", "interval") for name in named)] for label, values in metrics.items()
    ]
    return _rows(rows)


def _has_value(metric: Any) -> bool:
    return isinstance(metric, Mapping) and "value" in metric


def _cell(metric: Any, statistic: str, interval: str) -> str:
    if not isinstance(metric, Mapping) or metric.get(statistic) is None:
        return "infinite" if isinstance(metric, Mapping) and metric.get("status") == "infinite" else "–"
    return _with_interval(metric[statistic], metric.get(interval))


def _with_interval(value: float, interval: Any) -> str:
    if not interval:
        return f"{value:.3f}"
    low, high = ("∞" if bound is None else f"{bound:.3f}" for bound in interval)
    return f"{value:.3f} [{low}, {high}]"


def _limits(source_card: str) -> str:
    own = section_of(source_card, "Limits")
    general = (
        "Scores hold for images like those that were scored: other scanners, protocols, populations and diseases are "
        "not covered by them. Look at every mask before it is used."
    )
    return f"{own}\n\n{general}" if own else general


def _exports(exports: Sequence[Mapping[str, Any]]) -> str:
    rows = [["file", "largest difference from PyTorch", "tolerance", "tried on"]]
    rows += [[f"`{e['file']}`", f"{e['difference']:.1e}", f"{e['tolerance']:.0e}", str(e["tried_on"])] for e in exports]
    return _rows(rows) + "\n\nDifferences are of the network's outputs, relative to the largest of them (at least 1)."


def _table(facts: Sequence[tuple[str, str]]) -> str:
    return _rows([["", ""], *(list(fact) for fact in facts)])


def _rows(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else ("" if value is None else str(value))


def _count(number: Any, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
