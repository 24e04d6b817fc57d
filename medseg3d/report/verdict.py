"""The first paragraph of a report: what was found, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg3d.report.words import MetricText, count, interval, metric_text, number, p_value

__all__ = ["Verdict", "comparison_verdict", "evaluation_verdict"]


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
        f"{level} interval {bounds}" if bounds else "no interval: too few patients",
        tuple(s for s in sentences if s),
        tuple(_warnings(summary)),
    )


def _scope(summary: Mapping[str, Any]) -> str:
    scored, failed = summary["cases"], len(summary.get("failed") or {})
    of = f" of {count(summary['patients'], 'patient')}" if "patients" in summary else ""
    if failed:
        return f"{scored} of {count(scored + failed, 'case')} could be evaluated{f', {of.strip()}' if of else ''}."
    return f"{count(scored, 'case')}{of} {'was' if scored == 1 else 'were'} evaluated."


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
            warnings.append(text.format(f"{number(total, 0)} {were}", _listed(where)))
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
            f"No case has {_and(undefined[:6])}{' …' if len(undefined) > 6 else ''}: nothing to score there."
        )
    return warnings


def _listed(counts: Mapping[str, int], limit: int = 6) -> str:
    ranked = sorted(((n, name) for name, n in counts.items() if n), key=lambda item: (-item[0], item[1]))
    text = ", ".join(f"{name} {n}×" for n, name in ranked[:limit])
    return f"{text} and {len(ranked) - limit} more" if len(ranked) > limit else text


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def comparison_verdict(content: Mapping[str, Any]) -> Verdict:
    """The verdict of a comparison, from ``comparison.json``."""
    metric = metric_text(content.get("metric", "dice"))
    methods = list(content["methods"])
    pairs = [p for p in content.get("pairs", []) if p["metric"] == metric.key]
    ranks = (content.get("ranking") or {}).get(metric.key, {})
    best = _first(ranks)
    cases, patients = count(content["cases"], "case"), count(content["patients"], "patient")
    scope = f"{_and(methods)} were compared on the same {cases} of {patients}."
    sentences = [scope, *(_pair_words(a, b, pairs, metric) for a, b in _pairs_of(pairs)), _rank_words(ranks, best)]
    clear = any(p.get("significant") for p in pairs)
    figure = best if clear and best else "No clear winner"
    name = f"ranks first by {metric.title}" if clear and best else f"no difference in {metric.title} is significant"
    lone = (content.get("left_out") or {}).items()
    return Verdict(
        figure,
        name,
        _rank_note(ranks, best) if clear else "",
        tuple(s for s in sentences if s),
        tuple(_lone(method, cases) for method, cases in lone if cases),
    )


def _lone(method: str, cases: Sequence[str]) -> str:
    more = " …" if len(cases) > 5 else ""
    return f"Only in {method}, and left out: {count(len(cases), 'case')} ({', '.join(cases[:5])}{more})."


def _pairs_of(pairs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((p["a"], p["b"]) for p in pairs))


def _pair_words(a: str, b: str, pairs: Sequence[Mapping[str, Any]], metric: MetricText) -> str:
    own = [p for p in pairs if (p["a"], p["b"]) == (a, b)]
    clear = [p for p in own if p.get("significant")]
    if not clear:
        return f"Between {a} and {b} no difference in {metric.title} is significant in {count(len(own), 'structure')}."
    parts = []
    for winner, loser, sign in ((a, b, 1), (b, a, -1)):
        won = [p for p in clear if sign * (p.get("difference") or 0) > 0]
        if won:
            named = f"{', '.join(_difference(p, sign) for p in won[:3])}{', …' if len(won) > 3 else ''}"
            where = f"in {len(won)} of {count(len(own), 'structure')} ({named})"
            parts.append(f"{winner} has the higher {metric.title} than {loser} {where}")
    better = f" (lower is better: {metric.title})" if metric.better == "lower" and parts else ""
    return f"{'; '.join(parts)}{better}." if parts else ""


def _difference(pair: Mapping[str, Any], sign: int) -> str:
    digits = metric_text(pair["metric"]).digits
    return f"{pair['label']} by {number(sign * pair['difference'], digits)}, p {_equals(p_value(pair.get('p_holm')))}"


def _equals(text: str) -> str:
    return text if text.startswith("<") else f"= {text}"


def _first(ranks: Mapping[str, Any]) -> str:
    means = {m: r for m, r in (ranks.get("mean_rank") or {}).items() if r is not None and math.isfinite(r)}
    return min(means, key=lambda m: means[m]) if means else ""


def _rank_note(ranks: Mapping[str, Any], best: str) -> str:
    share = (ranks.get("rank_share") or {}).get(best)
    return f"in {100 * share[0]:.0f}\u00a0% of the bootstrap samples" if share else ""


def _rank_words(ranks: Mapping[str, Any], best: str) -> str:
    if not best:
        return ""
    note = _rank_note(ranks, best)
    rank = number(ranks["mean_rank"][best], 2)
    return f"{best} has the best mean rank, {rank}" + (f", and keeps the first place {note}." if note else ".")
