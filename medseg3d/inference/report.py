"""What became of each case of a run, and how that is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from medseg3d.errors import CaseError

__all__ = ["CaseResult", "SegmentReport", "case_progress", "make_console", "print_report"]

# A log file has no width of its own; tables in it get this many characters.
LOG_WIDTH = 150


@dataclass(frozen=True)
class CaseResult:
    """One case after the run.

    Attributes:
        case: its name.
        status: ``done``; ``kept`` when an earlier mask by the same weights was left; ``failed``.
        mask: the mask's file; None when failed.
        volumes_ml: millilitres of each label by name.
        seconds: time of loading, inference and writing that the run had to wait for.
        findings: what a reader of the mask should know.
        error: why the case failed.
    """

    case: str
    status: Literal["done", "kept", "failed"]
    mask: Path | None = None
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    findings: tuple[str, ...] = ()
    error: str = ""

    @property
    def line(self) -> str:
        """The result in one line of plain text."""
        if self.status == "failed":
            return f"{self.case}: failed: {self.error}"
        volumes = ", ".join(f"{name} {ml:.2f} ml" for name, ml in self.volumes_ml.items())
        return f"{self.case}: {self.status} in {self.seconds:.1f} s: {volumes}"


@dataclass(frozen=True)
class SegmentReport:
    """All cases of a run, in the order they were given."""

    cases: tuple[CaseResult, ...]

    @property
    def failed(self) -> tuple[CaseResult, ...]:
        """The cases without a mask."""
        return tuple(c for c in self.cases if c.status == "failed")

    def raise_for_failed(self) -> None:
        """Do nothing when every case has its mask.

        Raises:
            CaseError: names the failed cases, and why each failed.
        """
        if self.failed:
            reasons = "\n".join(f"  {c.case}: {c.error}" for c in self.failed)
            raise CaseError(f"{len(self.failed)} of {len(self.cases)} cases failed, the others are done:\n{reasons}")


def make_console() -> Console:
    """A console on standard error."""
    console = Console(stderr=True, highlight=False)
    return console if console.is_terminal else Console(stderr=True, highlight=False, width=LOG_WIDTH)


@contextmanager
def case_progress(total: int, *, console: Console) -> Iterator[Callable[[CaseResult], None]]:
    """Give a function to call after each case: a bar on a terminal, a line a case elsewhere."""
    if not console.is_terminal:
        done: list[CaseResult] = []

        def line(result: CaseResult) -> None:
            done.append(result)
            console.print(f"[{len(done)}/{total}] {result.line}", markup=False, soft_wrap=True)

        yield line
        return
    columns = TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("segmenting", total=total)

        def advance(result: CaseResult) -> None:
            if result.status == "failed":
                progress.console.print(f"[red]{escape(result.line)}[/]")
            progress.advance(task)

        yield advance


def print_report(report: SegmentReport, labels: Sequence[str], *, console: Console) -> None:
    """Print a table of the cases: status, volume of each label, and what to know about it."""
    table = Table(title=f"{len(report.cases) - len(report.failed)} of {len(report.cases)} cases segmented")
    table.add_column("case", no_wrap=True)
    table.add_column("status")
    for name in labels:
        table.add_column(f"{escape(name)} (ml)", justify="right")
    table.add_column("s", justify="right")
    table.add_column("to know", overflow="fold")
    for c in report.cases:
        volumes = [f"{c.volumes_ml[name]:.2f}" if name in c.volumes_ml else "–" for name in labels]
        status = f"[red]{c.status}[/]" if c.status == "failed" else c.status
        note = "failed, reason below" if c.error else escape("; ".join(c.findings))
        table.add_row(escape(c.case), status, *volumes, f"{c.seconds:.1f}", note)
    console.print(table)
