"""Classification from files: a table of scores and a table of true classes, joined by case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg3d.errors import CaseError, UsageError
from medseg3d.evaluation.model import Problem

__all__ = ["Answers", "read_answers"]

KEYS = ("case", "image", "file", "filename")
SINGLE_SCORES = ("score", "probability")
SEPARATOR = "|"  # between the classes of an image that has several
YES = ("1", "true", "yes", "positive")


@dataclass(frozen=True)
class Answers:
    """Scores and truth of images.

    Attributes:
        cases, patients: of each image; the case stands for the patient where none is known.
        classes: names; one alone, the positive class, for a yes-or-no question.
        scores, truth: (images, classes).
        exclusive: whether every image has exactly one class.
        attributes: further columns of the reference table, for subgroups.
        problems: rows that were left out, and why.
    """

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    classes: tuple[str, ...]
    scores: NDArray[np.float64]
    truth: NDArray[np.bool_]
    exclusive: bool
    attributes: pd.DataFrame
    problems: tuple[Problem, ...]

    @property
    def binary(self) -> bool:
        return len(self.classes) == 1


def read_answers(predictions: Path, references: Path, *, positive: str | None = None) -> Answers:
    """Read and join the two tables (CSV).

    Args:
        predictions: columns ``case`` (or ``image``, ``file``, ``filename``) and one a class with its score, headed by
            the class or ``p_<class>``; or one column ``score`` of the positive class.
        references: columns ``case`` and ``label``: a class, several joined by ``|``, or none. ``patient`` groups
            images; other columns are attributes.
        positive: the class that a single score is for, where the labels do not tell by being 0 and 1.

    Raises:
        CaseError: a file cannot be read.
        UsageError: a column is missing or ambiguous, or the two have no case in common.
    """
    scores, truth = _read(predictions), _read(references)
    problems: list[Problem] = []
    scores, truth = (_unique(table, path, problems) for table, path in ((scores, predictions), (truth, references)))
    if "label" not in truth.columns:
        raise UsageError(f"{references}: no column 'label' with the true class (found: {', '.join(truth.columns)}).")
    common = _join(scores, truth, problems)
    if not len(common):
        raise UsageError(f"No case of {predictions} (such as {_first(scores)!r}) is in {references} (such as "
                         f"{_first(truth)!r}). Give both the same names.")  # fmt: skip
    named = truth.loc[common, "label"].map(_classes_of)
    by_class = _score_columns(scores, named, positive, predictions)
    values = scores.loc[common, list(by_class.values())].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    classes = tuple(by_class)
    finite = np.isfinite(values).all(axis=1)
    foreign = np.array([len(classes) > 1 and bool(names - set(classes)) for names in named])
    problems += [
        Problem(case, "score-not-a-number", "A score is empty or not a number; the image is left out.")
        for case in common[~finite]
    ]
    problems += [
        Problem(case, "class-unknown", f"No scores for {', '.join(sorted(named[case] - set(classes)))}; left out.")
        for case in common[foreign]
    ]
    known = finite & ~foreign
    table = truth.loc[common[known]]
    truths = np.array([[name in names for name in classes] for names in named[known]], dtype=bool)
    patients = table["patient"] if "patient" in table.columns else pd.Series(table.index, index=table.index)
    return Answers(
        tuple(common[known]),
        tuple(patients.where(patients != "", table.index)),
        classes,
        values[known],
        truths.reshape(-1, len(classes)),
        exclusive=len(classes) > 1 and bool((truths.sum(axis=-1) == 1).all()),
        attributes=table.drop(columns=["label", "patient"], errors="ignore"),
        problems=tuple(problems),
    )


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise CaseError(f"{path}: no such file.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise CaseError(f"{path}: not a table of comma-separated values ({error}).") from error
    key = next((key for key in KEYS if key in table.columns), None)
    if key is None:
        raise UsageError(f"{path}: no column {', '.join(map(repr, KEYS))} that names the image (found: "
                         f"{', '.join(table.columns)}).")  # fmt: skip
    return table.set_index(key)


def _unique(table: pd.DataFrame, path: Path, problems: list[Problem]) -> pd.DataFrame:
    """Leave out cases that a table has more than once: which row is meant nobody can tell."""
    double = table.index.duplicated(keep=False)
    for case in table.index[double].unique():
        rows = int((table.index == case).sum())
        problems.append(Problem(case, "duplicate-case", f"{path.name} has {rows} rows of it; none is used."))
    return table[~double]


def _join(scores: pd.DataFrame, truth: pd.DataFrame, problems: list[Problem]) -> pd.Index:
    double = {problem.case for problem in problems}
    for case in truth.index.difference(scores.index, sort=False).difference(double, sort=False):
        problems.append(Problem(case, "missing-prediction", "The predictions have no row of this case."))
    for case in scores.index.difference(truth.index, sort=False).difference(double, sort=False):
        problems.append(Problem(case, "extra-prediction", "The reference has no row of this case."))
    return truth.index.intersection(scores.index, sort=False)


def _classes_of(label: str) -> frozenset[str]:
    return frozenset(part.strip() for part in label.split(SEPARATOR) if part.strip())


def _score_columns(scores: pd.DataFrame, named: pd.Series, positive: str | None, path: Path) -> dict[str, str]:
    """Class → column of its score."""
    single = next((column for column in SINGLE_SCORES if column in scores.columns), None)
    truths = sorted(set().union(*named))
    if single is not None:
        return {_positive_class(truths, positive, path): single}
    columns = {column.removeprefix("p_"): column for column in scores.columns}
    found = {name: columns[name] for name in truths if name in columns}
    # Classes that are predicted and never true still take part, if they are headed like the others.
    found |= {name: column for name, column in columns.items() if column.startswith("p_")}
    if not found:
        raise UsageError(f"{path}: no column is headed by a class of the reference ({', '.join(truths)}), by "
                         f"p_<class>, or 'score'; found: {', '.join(scores.columns)}.")  # fmt: skip
    if positive is not None:
        if positive not in found:
            raise UsageError(f"{path}: no score column of the positive class {positive!r}.")
        return {positive: found[positive]}
    return found


def _positive_class(truths: Sequence[str], positive: str | None, path: Path) -> str:
    if positive is not None:
        if positive not in truths:
            raise UsageError(f"The positive class {positive!r} is nowhere in the reference ({', '.join(truths)}).")
        return positive
    yes = [name for name in truths if name.lower() in YES]
    if len(yes) == 1:
        return yes[0]
    if len(truths) == 1:  # the others have no class at all
        return truths[0]
    raise UsageError(f"{path}: one column of scores, but which of {', '.join(truths)} is it for? Name the positive "
                     "class (--positive).")  # fmt: skip


def _first(table: pd.DataFrame) -> Any:
    return table.index[0] if len(table) else "none"
