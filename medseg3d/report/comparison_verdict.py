"""The first paragraph of a comparison: who is better where, and whether anybody is better at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medseg3d.report.pairs import better_side, infinite_counts, shown_difference
from medseg3d.report.verdict import Verdict, listed, patients_of, spoken
from medseg3d.report.words import MetricText, count, metric_text, number, p_value, quantity, units_of
from medseg3d.statistics import few_patients

__all__ = ["comparison_verdict"]

Pairs = Sequence[Mapping[str, Any]]

# Mean ranks that differ by rounding alone.
SAME_RANK = 1e-9


def comparison_verdict(content: Mapping[str, Any]) -> Verdict:
    """The verdict of a comparison, from ``comparison.json``.

    A method comes first where it has the best mean rank and is significantly better than every other: in one structure
    at least, and in none significantly worse.
    """
    metric = metric_text(content.get("metric", "dice"), units_of(content))
    higher = (content.get("metrics") or {}).get(metric.key, metric.better or "higher") == "higher"
    pairs = [p for p in content.get("pairs", []) if p["metric"] == metric.key]
    ranks = (content.get("ranking") or {}).get(metric.key, {})
    firsts = _firsts(ranks)
    of, unknown = patients_of(content)
    sentences = [
        f"{spoken(content['methods'])} were compared on the same {count(content['cases'], 'case')}{of}.{unknown}",
        *(_pair_words(a, b, pairs, metric, higher) for a, b in _pairs_of(pairs)),
        _rank_words(ranks, firsts),
    ]
    rivals = [m for m in content["methods"] if firsts and m != firsts[0] and not _beats(firsts[0], m, pairs, higher)]
    clear = bool(firsts) and not rivals and bool(pairs)
    return Verdict(
        firsts[0] if clear else "No clear winner",
        f"ranks first by {metric.title}" if clear else _tie([*firsts[:1], *rivals], pairs, metric),
        _rank_note(ranks, firsts[0]) if clear else "",
        tuple(s for s in sentences if s),
        tuple(filter(None, (few_patients(content["patients"]), *_infinite_words(pairs, metric), *_left_out(content)))),
    )


# Pairs ---------------------------------------------------------------------------------------------------------------


def _pairs_of(pairs: Pairs) -> list[tuple[str, str]]:
    return list(dict.fromkeys((p["a"], p["b"]) for p in pairs))


def _won(winner: str, loser: str, pairs: Pairs, higher: bool) -> list[Mapping[str, Any]]:
    """The pairs in which one method is significantly better than the other."""
    sides = {(winner, loser): "a", (loser, winner): "b"}
    own = [p for p in pairs if (p["a"], p["b"]) in sides and p.get("significant")]
    return [p for p in own if better_side(p, higher_is_better=higher) == sides[p["a"], p["b"]]]


def _beats(winner: str, loser: str, pairs: Pairs, higher: bool) -> bool:
    return bool(_won(winner, loser, pairs, higher)) and not _won(loser, winner, pairs, higher)


def _tie(tied: Sequence[str], pairs: Pairs, metric: MetricText) -> str:
    """Why nobody comes first."""
    among = [p for p in pairs if p["a"] in tied and p["b"] in tied]
    if any(p.get("significant") for p in among):
        return f"{spoken(tied)} are each better somewhere, by {metric.title}"
    if not any(p.get("significant") for p in pairs):
        return f"no difference in {metric.title} is significant"
    return f"no difference in {metric.title} between {spoken(tied)} is significant"


def _pair_words(a: str, b: str, pairs: Pairs, metric: MetricText, higher: bool) -> str:
    own = [p for p in pairs if (p["a"], p["b"]) == (a, b)]
    structures = count(len(own), "structure")
    parts = []
    for winner, loser in ((a, b), (b, a)):
        if won := _won(winner, loser, pairs, higher):
            named = f"{', '.join(_difference(p, metric) for p in won[:3])}{', …' if len(won) > 3 else ''}"
            better = "the higher" if higher else "the lower (better)"
            parts.append(f"{winner} has {better} {metric.title} than {loser} in {len(won)} of {structures} ({named})")
    if not parts:
        return f"Between {a} and {b} no difference in {metric.title} is significant in {structures}."
    return f"{'; '.join(parts)}."


def _difference(pair: Mapping[str, Any], metric: MetricText) -> str:
    shown = shown_difference(pair)
    by = quantity(None if shown.value is None else abs(shown.value), metric)
    median = " in the median" if shown.kind == "median" else ""
    p = p_value(pair.get("p_holm"))
    return f"{pair['label']} by {by}{median}, p {p if p.startswith('<') else f'= {p}'}"


def _infinite_words(pairs: Pairs, metric: MetricText) -> list[str]:
    """Whose distances are infinite: they count as the worst, and no mean is given."""
    return [
        f"{metric.title} is infinite for {method}, since only one side has the structure: "
        f"{listed({label: n for label, (n, _) in of_label.items()})}. That counts as the worst; medians are given "
        "instead of means."
        for method, of_label in infinite_counts(pairs).items()
    ]


def _left_out(content: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, what in (("left_out", "case"), ("left_out_labels", "structure")):
        for method, names in (content.get(key) or {}).items():
            if names:
                more = " …" if len(names) > 5 else ""
                lines.append(
                    f"Only in {method}, and left out: {count(len(names), what)} ({', '.join(names[:5])}{more})."
                )
    return lines


# Ranks ---------------------------------------------------------------------------------------------------------------


def _firsts(ranks: Mapping[str, Any]) -> list[str]:
    """The methods with the best mean rank."""
    means = {m: r for m, r in (ranks.get("mean_rank") or {}).items() if r is not None and math.isfinite(r)}
    best = min(means.values(), default=0.0)
    return [m for m, rank in means.items() if rank - best <= SAME_RANK]


def _rank_note(ranks: Mapping[str, Any], best: str) -> str:
    share = (ranks.get("rank_share") or {}).get(best)
    return f"in {100 * share[0]:.0f}\u00a0% of the bootstrap samples" if share else ""


def _rank_words(ranks: Mapping[str, Any], firsts: Sequence[str]) -> str:
    if not firsts:
        return ""
    rank = number(ranks["mean_rank"][firsts[0]], 2)
    if len(firsts) > 1:
        return f"{spoken(firsts)} share the best mean rank, {rank}."
    note = _rank_note(ranks, firsts[0])
    return f"{firsts[0]} has the best mean rank, {rank}" + (
        f", and is first, alone or with others, {note}." if note else "."
    )
