"""What a classifier answered: a table of probabilities and decisions, as a file and on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from medseg3d.files import whole_or_not_at_all

__all__ = ["Classified", "CountingBar", "print_predictions", "write_predictions"]

SHOWN_ROWS = 20


@dataclass(frozen=True)
class Classified:
    """Answers of a run.

    Attributes:
        cases: dicts of ``case``, ``image`` and perhaps ``patient`` and ``label``, of those that could be classified.
        logits: (cases, classes), the mean over the views.
        failed: case → why it could not be classified.
    """

    cases: tuple[Mapping[str, Any], ...]
    logits: NDArray[np.float64]
    failed: Mapping[str, str]


def write_predictions(
    path: Path, answers: Classified, classes: Sequence[str], probabilities: NDArray[np.float64], called: Sequence[str]
) -> None:
    """Write a row an image: ``case``, ``patient`` where it is known, ``p_<class>`` each, ``predicted``.

    Args:
        probabilities: (images, classes).
        called: the class of each image; several joined by ``|``, none is empty.
    """
    table = pd.DataFrame({"case": [case["case"] for case in answers.cases]})
    if any(case.get("patient") for case in answers.cases):
        table["patient"] = [case.get("patient", "") for case in answers.cases]
    for i, name in enumerate(classes):
        table[f"p_{name}"] = probabilities[:, i]
    table["predicted"] = list(called)
    with whole_or_not_at_all(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def print_predictions(console: Any, path: Path, answers: Classified, classes: Sequence[str]) -> None:
    """Show the first rows of the file, and how many images could be classified."""
    table = pd.read_csv(path, dtype={"case": str, "predicted": str}, keep_default_na=False)
    shown = Table(title=f"{len(answers.cases)} of {len(answers.cases) + len(answers.failed)} images classified")
    shown.add_column("case", no_wrap=True)
    for name in classes:
        shown.add_column(escape(name), justify="right")
    shown.add_column("called")
    for row in table.head(SHOWN_ROWS).to_dict("records"):
        scores = [f"{row[f'p_{name}']:.3f}" for name in classes]
        called = row["predicted"] or "–"
        shown.add_row(escape(str(row["case"])), *scores, escape(called))
    console.print(shown)
    if len(table) > SHOWN_ROWS:
        console.print(f"{len(table) - SHOWN_ROWS} more in {path}", markup=False)


class CountingBar:
    """A bar on a terminal; nothing in a log, where a run of seconds needs no lines."""

    def __init__(self, total: int, console: Any) -> None:
        columns = TextColumn("classifying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.bar.add_task("classifying", total=total)

    def __enter__(self) -> Callable[[], None]:
        self.bar.start()
        return lambda: self.bar.advance(self.task)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
