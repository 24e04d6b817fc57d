"""Which cases deserve pictures."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from medseg3d.report.words import number

__all__ = ["Pick", "case_scores", "pick_cases"]


@dataclass(frozen=True)
class Pick:
    """A case to be shown, and why: ``kind`` is worst, median, best or only, ``reason`` a phrase for its heading."""

    case: str
    kind: str
    reason: str


def case_scores(cases: pd.DataFrame) -> pd.DataFrame:
    """One row a case, the worst first: ``dice`` (mean over its labels; NaN where all are empty), missed, spurious,
    ``missed_ml`` (reference volume that was missed), the label with the lowest Dice and its value.

    Regions that join several labels are left out where there are labels: what is missed would count twice.
    """
    cases = _labels_only(cases)
    frame = cases.assign(
        missed=(cases["status"] == "missed").astype(int),
        spurious=(cases["status"] == "spurious").astype(int),
        missed_ml=cases.get("reference_ml", 0.0) * (cases["status"] == "missed"),
    )
    grouped = frame.groupby("case", sort=False)
    table = grouped.agg(
        patient=("patient", "first"), dice=("dice", "mean"), missed=("missed", "sum"), spurious=("spurious", "sum"),
        missed_ml=("missed_ml", "sum"),
    )  # fmt: skip
    lowest = (
        frame.loc[frame["dice"].notna()].sort_values("dice", kind="stable").drop_duplicates("case").set_index("case")
    )
    table["worst_label"] = lowest["label"].reindex(table.index)
    table["worst_dice"] = lowest["dice"].reindex(table.index)
    return table.sort_values("dice", kind="stable", na_position="last")


def _labels_only(cases: pd.DataFrame) -> pd.DataFrame:
    if cases.empty or "label_id" not in cases:
        return cases
    single = ~cases["label_id"].str.contains("+", regex=False)
    return cases[single] if single.any() else cases


def pick_cases(cases: pd.DataFrame, *, worst: int = 3, best: int = 2, unit: str = "ml") -> list[Pick]:
    """The worst, the median and the best cases by mean Dice; no case twice.

    Of the worst, one place is kept for the case that misses the most reference volume, since with many labels one
    missed structure hardly moves the mean; ``unit`` is what that is told in. Few cases are shared out, so that of two
    one is the best; a single one is the only one. Cases where every label is empty on both sides are not shown.
    """
    scores = case_scores(cases)
    scores = scores[scores["dice"].notna()]
    ranked = list(scores.index)
    missing = scores[scores["missed"] > 0].sort_values("missed_ml", ascending=False, kind="stable")
    if len(ranked) == 1:
        return [Pick(ranked[0], "only", _reason(scores.iloc[0], unit))]
    worst = min(worst, len(ranked) // 2)
    low = ranked[:worst]
    if worst > 1 and len(missing) and missing.index[0] not in low:
        low = [*low[: worst - 1], missing.index[0]]
    rest = [case for case in ranked if case not in low]
    centre = (len(ranked) - 1) // 2
    middle = sorted(rest, key=lambda case: abs(ranked.index(case) - centre))[: len(ranked) > 2]
    high = [case for case in reversed(rest) if case not in middle][:best]
    chosen = [*((c, "worst") for c in low), *((c, "median") for c in middle), *((c, "best") for c in high)]
    return [Pick(case, kind, _reason(scores.loc[case], unit)) for case, kind in chosen]


def _reason(row: pd.Series, unit: str) -> str:
    reason = f"mean Dice {number(row['dice'])}"
    if row["missed"]:
        structures = "structure" if row["missed"] == 1 else "structures"
        reason += f", {row['missed']} {structures} missed ({number(row['missed_ml'], 1)} {unit})"
    if row["spurious"]:
        reason += f", {row['spurious']} spurious"
    return reason
