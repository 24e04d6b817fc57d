"""Attributes of cases (site, scanner, sex, age, …), for tables of subgroups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from medseg3d.datalist.model import shorten
from medseg3d.errors import UsageError
from medseg3d.evaluation.model import EvaluationCase, Problem
from medseg3d.evaluation.pairing import read_rows

__all__ = ["UNKNOWN", "binned", "read_attributes"]

UNKNOWN = "unknown"

MOST_GROUPS = 20
"""A column of text with more values than this is no grouping: an id, or a remark."""
UNKNOWN_TEXTS = frozenset({"", "-", "?", "na", "n/a", "nan", "none", "null", "unknown"})
"""What tables hold where a value is not known, in small letters."""
MOST_PLAIN_NUMBERS = 5
"""A column of numbers with more values than this is cut into groups of equal size."""
FEWEST_FOR_THIRDS = 6
"""Fewer cases than this are cut into halves, more into thirds."""


def read_attributes(
    path: Path, cases: Sequence[EvaluationCase]
) -> tuple[dict[str, dict[str, str]], tuple[Problem, ...]]:
    """Attribute → case → value, from a CSV file with a column ``case`` or ``patient`` and a column an attribute.

    Numbers are groups as they are where they repeat (field strengths, scores); others (ages) are cut at their tertiles,
    or at their median where there are fewer than six. An empty field, ``NA`` and the like, or a case without a row, is
    ``unknown``; the latter is noted.

    Raises:
        UsageError: the file cannot be read, names neither cases nor patients, names one twice, or a column of text has
            so many values that it makes no groups.
    """
    rows = read_rows(path, required=())
    columns = list(rows[0]) if rows else []
    key = next((name for name in ("case", "patient") if name in columns), None)
    if key is None:
        raise UsageError(f"{path} has neither a column 'case' nor 'patient'; it has {', '.join(columns) or 'no rows'}.")
    of_row = {row[key]: row for row in rows}
    if len(of_row) < len(rows):
        repeated = sorted(name for name, count in Counter(row[key] for row in rows).items() if count > 1)
        raise UsageError(f"{path} names {shorten(repeated)} more than once: one row a {key}.")
    names = {case.case: case.case if key == "case" else case.patient for case in cases}
    missing = [case for case, name in names.items() if name not in of_row]
    if len(missing) == len(cases):
        raise UsageError(f"{path} names none of the {key}s evaluated ({shorten(names.values())}).")
    attributes = {
        column: _grouped({case: of_row.get(name, {}).get(column, "") for case, name in names.items()}, column, path)
        for column in columns
        if column not in ("case", "patient")
    }
    message = f"{path.name} has no row for this {key}: it is in the group {UNKNOWN!r}."
    return attributes, tuple(Problem(case, "no-attributes", message, severity="note") for case in missing)


def binned(values: Mapping[str, float], *, groups: int = 3) -> dict[str, str]:
    """Numbers cut into groups of about equal size, named by their range, the lowest first.

    >>> binned({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0, "f": 6.0})["c"]
    '2.67 to 4.33'
    """
    edges = np.quantile(list(values.values()), np.linspace(0, 1, groups + 1)[1:-1])
    texts = [f"{edge:.3g}" for edge in edges]
    names = [f"up to {texts[0]}", *(f"{a} to {b}" for a, b in pairwise(texts)), f"over {texts[-1]}"]
    ordered = sorted(values, key=lambda case: values[case])
    return {case: names[int(np.searchsorted(edges, values[case], side="left"))] for case in ordered}


def _grouped(values: Mapping[str, str], column: str, path: Path) -> dict[str, str]:
    known = {case: value for case, value in values.items() if value.lower() not in UNKNOWN_TEXTS}
    numbers = {case: _number(value) for case, value in known.items()}
    unknown = {case: UNKNOWN for case in values if case not in known}
    if all(map(math.isfinite, numbers.values())) and not _repeat(numbers.values()):
        return binned(numbers, groups=3 if len(numbers) >= FEWEST_FOR_THIRDS else 2) | unknown
    groups = sorted(set(known.values()))
    if len(groups) > MOST_GROUPS:
        raise UsageError(
            f"{path}: column {column!r} has {len(groups)} different values ({shorten(groups)}), which is no grouping. "
            "Remove the column, or group its values."
        )
    return {case: value for group in groups for case, value in known.items() if value == group} | unknown


def _repeat(numbers: Collection[float]) -> bool:
    """Whether numbers are few kinds of cases, rather than a measurement of each."""
    kinds = len(set(numbers))
    return kinds <= 2 or (kinds <= MOST_PLAIN_NUMBERS and 2 * kinds <= len(numbers))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
