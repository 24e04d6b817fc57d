"""What a check found, as data; and the one message that a user reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

__all__ = ["Problem", "did_you_mean", "errors_in", "nearest", "summary", "unique"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration.

    ``where`` is the override as typed (``--max_epoch``), or a file by its path inside the bundle, with the id or the
    line where it is known (``configs/train.yaml: network_def::filters``, ``configs/train.yaml, line 3``). An ``error``
    stops the run; a ``warning`` is probably a mistake, and MONAI would accept it; a ``review`` would run code that no
    list knows, and a person should read it first.
    """

    where: str
    what: str
    remedy: str = ""
    severity: Literal["error", "warning", "review"] = "error"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" {self.remedy}" if self.remedy else "")


def errors_in(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that must stop a run."""
    return [problem for problem in problems if problem.severity == "error"]


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """``problems`` without repetitions, in the same order."""
    return list(dict.fromkeys(problems))


def summary(problems: Sequence[Problem]) -> str:
    """One message: a headline, and a numbered line a problem.

    >>> print(summary([Problem("--max_epoch", "no such id.", "Did you mean 'max_epochs'?")]))
    1 problem in the configuration; nothing was run.
      1. --max_epoch: no such id. Did you mean 'max_epochs'?
    """
    count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
    lines = [f"  {number}. {problem}" for number, problem in enumerate(problems, start=1)]
    return "\n".join([f"{count} in the configuration; nothing was run.", *lines])


def nearest(name: str, candidates: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The candidate that ``name`` is most probably a misspelling of, or None.

    >>> nearest("filtesr", ["filters", "strides"])
    'filters'
    """
    by_folded = {candidate.lower(): candidate for candidate in candidates}
    found = get_close_matches(name.lower(), by_folded, n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def did_you_mean(name: str, candidates: Iterable[str], *, otherwise: str = "") -> str:
    """``"Did you mean 'filters'?"``, or ``otherwise`` when no candidate is near."""
    near = nearest(name, candidates)
    return f"Did you mean {near!r}?" if near else otherwise
