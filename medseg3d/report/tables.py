"""Tables as values: what ``table`` in ``macros.html.j2`` draws, for any kind of report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medseg3d.report.words import number

__all__ = ["Cell", "Column", "Row", "Table", "amount", "cells", "facts"]

Tone = Literal["", "bad", "warn", "good", "muted"]


@dataclass(frozen=True)
class Column:
    """A heading; ``help`` is shown when it is pointed at. Columns with one ``group`` share a heading above theirs."""

    title: str
    numeric: bool = False
    help: str = ""
    group: str = ""


@dataclass(frozen=True)
class Cell:
    """One field.

    Attributes:
        text: what is shown.
        sort: what the column is sorted by, when that is not the text; None sorts last either way.
        note: smaller, below the text; it breaks only where it has line ends.
        colour: a swatch before the text, such as ``"#E69F00"``.
        href: where a click leads.
        tone: how loud it is.
    """

    text: str
    sort: float | str | None = None
    note: str = ""
    colour: str = ""
    href: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Row:
    """Fields in the order of the columns; ``id`` makes the row a link's target, ``data`` goes to the page's script."""

    cells: tuple[Cell, ...]
    id: str = ""
    data: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        id: unique on the page.
        columns, rows: what it holds.
        caption: one sentence above it, read by screen readers too.
        shown: rows that are open at first; a button opens the others. On paper all are there unless ``printed`` is set.
        printed: rows on paper.
        searchable: whether a field filters its rows.
        scroll: whether a long table scrolls in a box of its own.
        compact: a small table beside something else, that needs no sorting.
    """

    id: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    shown: int | None = None
    printed: int | None = None
    searchable: bool = False
    scroll: bool = False
    compact: bool = False

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings above the columns' own, each with the columns that it spans; empty where no column has one."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(name for name, _ in spans) else []


def amount(value: Any, digits: int = 3, *, note: str = "", tone: Tone = "", text: str = "") -> Cell:
    """A cell that holds a number and is sorted by it; a missing one comes last.

    >>> amount(0.5, 2)
    Cell(text='0.50', sort=0.5, note='', colour='', href='', tone='')
    """
    missing = value is None or math.isnan(value)
    return Cell(text or number(value, digits), None if missing else float(value), note, tone=tone)


def cells(*values: Any) -> tuple[Cell, ...]:
    """Cells of texts, numbers (whole ones as they are) or ready cells."""
    return tuple(v if isinstance(v, Cell) else Cell(v) if isinstance(v, str) else _plain(v) for v in values)


def _plain(value: float | None) -> Cell:
    return amount(value, 0 if isinstance(value, int) else 3)


def facts(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Names and values for a list of facts, without those that are missing; values become text.

    >>> facts([("Packages", {"numpy": "2.4", "cuda": None}), ("Bundle", None)])
    [('Packages', 'numpy 2.4')]
    """
    texts = [(name, _joined(value)) for name, value in pairs]
    return [(name, text) for name, text in texts if text]


def _joined(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        texts = [(str(key), _joined(item)) for key, item in value.items()]
        return ", ".join(f"{key} {text}" for key, text in texts if text)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(filter(None, map(_joined, value)))
    return str(value)
