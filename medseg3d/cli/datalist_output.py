"""What the commands of ``medseg3d datalist`` print alike: the findings, and where the output must not go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from medseg3d.datalist.cases import Finding

__all__ = ["counted", "new_console", "print_findings", "refuse_existing"]

SHOWN_A_KIND = 5
"""Findings of one kind that the table shows; the JSON report has all of them."""

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}


def new_console(*, stderr: bool = False) -> Console:
    """A console that breaks no line: paths and messages can be searched for."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def refuse_existing(output: Path, overwrite: bool) -> None:
    """Raise ``UsageError`` where the output exists and may not be replaced."""
    from medseg3d.errors import UsageError

    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists already: choose another name, or pass --overwrite.")


def counted(number: int, what: str) -> str:
    """``1 case`` or ``2 cases``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def print_findings(findings: Sequence[Finding], console: Console, json_file: str = "") -> None:
    """A table of the findings, the first few of each kind."""
    if not findings:
        return
    kinds = Counter((finding.severity, finding.code) for finding in findings)
    table = Table("severity", "case", "kind", "finding", title="Findings", title_justify="left")
    shown: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        kind = (finding.severity, finding.code)
        shown[kind] += 1
        if shown[kind] <= SHOWN_A_KIND:
            severity = f"[{_COLOURS[finding.severity]}]{finding.severity}[/]"
            table.add_row(severity, escape(finding.case) or "(list)", finding.code, escape(finding.message))
    for (severity, code), count in kinds.items():
        if count > SHOWN_A_KIND:
            table.add_row(severity, f"{count - SHOWN_A_KIND} more", code, "")
    console.print(table)
    if any(count > SHOWN_A_KIND for count in kinds.values()) and not json_file:
        console.print("Some findings are not shown: --json FILE writes all of them.")
