"""The first paragraph of a report: what was found, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg3d.report.words import count, interval, metric_text, number

__all__ = ["Verdict", "evaluation_verdict", "listed", "own_labels", "patients_of", "spoken"]


@dataclass(frozen=True)
class Verdict:
    """What a hurried reader takes away.

    Attributes:
        figure: the headline number, such as ``"0.871"``; a dash where none could be computed.
        figure_name: what it is.
        figure_note: its interval.
        sentences: the paragraph.
        warnings: what needs attention, a sentence each.
    """

    figure: str
    figure_name: str
    figure_note: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]


def evaluation_verdict(summary: Mapping[str, Any]) -> Verdict:
    """The verdict of one evaluation, from ``summary.json``."""
    headline = summary.get("headline") or {"metric": "dice", "value": summary.get("mean_dice")}
    metric = metric_text(headline.get("metric") or "dice")
    level = f"{100 * headline.get('level', 0.95):g}\u00a0%"
    bounds = interval(headline.get("interval"), metric.digits)
    sentences = [_scope(summary), _found(summary, bounds, level, metric.title), _best_and_worst(summary)]
    return Verdict(
        number(headline.get("value"), metric.digits),
        f"mean {metric.title} over {count(len(own_labels(summary)), 'structure')}",
        f"{level} interval {bounds}" if bounds else "no interval",
        tuple(s for s in sentences if s),
        tuple(_warnings(summary)),
    )


def _scope(summary: Mapping[str, Any]) -> str:
    scored, failed = summary["cases"], len(summary.get("failed") or {})
    of, unknown = patients_of(summary)
    if failed:
        return f"{scored} of {count(scored + failed, 'case')} could be evaluated{of and f',{of}'}.{unknown}"
    return f"{count(scored, 'case')}{of} {'was' if scored == 1 else 'were'} evaluated.{unknown}"


def patients_of(content: Mapping[str, Any]) -> tuple[str, str]:
    """How many patients the cases are of; or a sentence that nobody says, where there are several cases."""
    if content.get("patients_known", True):
        return f" of {count(content['patients'], 'patient')}" if "patients" in content else "", ""
    unknown = " It is not known which patients they are of: each case is taken for one."
    return "", unknown if content["cases"] > 1 else ""


def _found(summary: Mapping[str, Any], bounds: str, level: str, title: str) -> str:
    headline = summary.get("headline") or {}
    value = headline.get("value", summary.get("mean_dice"))
    if value is None:
        return "No structure could be scored: none is in a reference or a prediction."
    digits = metric_text(headline.get("metric", "dice")).digits
    text = f"The mean {title} is {number(value, digits)}"
    if bounds:
        text += f"; if patients like these were drawn again, the {level} interval for it is {bounds}"
    return text + "."


def _best_and_worst(summary: Mapping[str, Any]) -> str:
    means = {name: label.get("dice_mean") for name, label in own_labels(summary).items()}
    known = sorted((value, name) for name, value in means.items() if value is not None)
    if len(known) < 2:
        return ""
    (low, worst), (high, best) = known[0], known[-1]
    return f"By structure it goes from {number(low)} ({worst}) to {number(high)} ({best})."


def own_labels(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The labels without the regions that join several: those would count what is missed once more."""
    labels = dict(summary.get("labels") or {})
    joined = {region["name"] for region in summary.get("regions") or [] if len(region["ids"]) > 1}
    return {name: label for name, label in labels.items() if name not in joined} or labels


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    labels = own_labels(summary)
    warnings = []
    for status, text in (
        ("missed", "{} missed entirely: {}. They count as Dice 0 and as infinite distances."),
        ("spurious", "{} predicted where the reference has none: {}."),
    ):
        where = {name: label["status"].get(status, 0) for name, label in labels.items()}
        total = sum(where.values())
        if total:
            were = "structure was" if total == 1 else "structures were"
            warnings.append(text.format(f"{number(total, 0)} {were}", listed(where)))
    if warning := (summary.get("headline") or {}).get("warning"):
        warnings.append(warning)
    failed = summary.get("failed") or {}
    if failed:
        names = list(failed)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        verb = "case was" if len(names) == 1 else "cases were"
        warnings.append(
            f"{len(names)} {verb} not evaluated ({', '.join(names[:5])}{more}); the reasons are under Problems."
        )
    undefined = [name for name, label in labels.items() if label.get("dice_mean") is None]
    if undefined:
        warnings.append(
            f"No case has {spoken(undefined[:6])}{' …' if len(undefined) > 6 else ''}: nothing to score there."
        )
    return warnings


def listed(counts: Mapping[str, int], limit: int = 6) -> str:
    """Names with their counts, the most frequent first: ``liver 3×, spleen 1×``."""
    ranked = sorted(((n, name) for name, n in counts.items() if n), key=lambda item: (-item[0], item[1]))
    text = ", ".join(f"{name} {n}×" for n, name in ranked[:limit])
    return f"{text} and {len(ranked) - limit} more" if len(ranked) > limit else text


def spoken(names: Sequence[str]) -> str:
    """Names in a sentence: ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
