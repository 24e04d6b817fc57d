"""What a pair of methods comes to, from a row of ``comparison.json``: the difference shown, and who is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Difference", "better_side", "infinite_counts", "shown_difference"]


@dataclass(frozen=True)
class Difference:
    """A paired difference, a minus b.

    Attributes:
        kind: the mean; or the median where distances are infinite, and no mean exists.
        value: None where there is no case; it and the bounds may be infinite.
        bounds: its interval.
    """

    kind: Literal["mean", "median"]
    value: float | None
    bounds: tuple[float, float] | None


def shown_difference(pair: Mapping[str, Any]) -> Difference:
    """The mean difference with its interval, or the median's.

    >>> row = {"difference": None, "median_difference": -2.0, "median_interval": [None, -2.0],
    ...        "median_interval_infinite": ["-inf", None]}
    >>> shown_difference(row)
    Difference(kind='median', value=-2.0, bounds=(-inf, -2.0))
    """
    if pair.get("difference") is not None:
        bounds = pair.get("interval")
        return Difference("mean", pair["difference"], (bounds[0], bounds[1]) if bounds else None)
    value = _signed(pair.get("median_difference"), pair.get("median_difference_infinite"))
    ends = pair.get("median_interval")
    if not ends or value is None:
        return Difference("median", value, None)
    low, high = map(_signed, ends, pair.get("median_interval_infinite") or (None, None))
    return Difference("median", value, None if low is None or high is None else (low, high))


def better_side(pair: Mapping[str, Any], *, higher_is_better: bool) -> Literal["a", "b", ""]:
    """Who is better by the difference that is shown; by the cases won where that is zero; nobody where these tie."""
    value = shown_difference(pair).value or 0.0
    sign = value if higher_is_better else -value
    sign = sign or (pair.get("wins_a") or 0) - (pair.get("wins_b") or 0)
    return "a" if sign > 0 else "b" if sign < 0 else ""


def infinite_counts(pairs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[int, int]]]:
    """Method → label → cases with an infinite distance, and cases compared; only where there are any."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for pair in pairs:
        for side in ("a", "b"):
            if n := pair.get(f"infinite_{side}"):
                of_method = found.setdefault(pair[side], {})
                of_method[pair["label"]] = max(of_method.get(pair["label"], (0, 0)), (n, pair["n"]))
    return found


def _signed(value: float | None, infinite: str | None) -> float | None:
    return math.inf * (-1 if infinite.startswith("-") else 1) if infinite else value
