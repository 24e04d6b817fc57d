"""What became of 2D images that were segmented, in words and as a table on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table

from medseg3d.inference.report import CaseResult, SegmentReport

__all__ = ["ImageResult", "print_report"]


@dataclass(frozen=True)
class ImageResult(CaseResult):
    """One image after the run.

    Attributes:
        areas_px: pixels of each label by name.
        counts: objects of each label by name, of those that are counted.
    """

    areas_px: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The result in one line of plain text."""
        if self.status == "failed":
            return super().line
        sizes = [f"{name} {self.shown(name)}" for name in self.areas_px]
        return f"{self.case}: {self.status} in {self.seconds:.1f} s: {', '.join(sizes)}"

    def shown(self, name: str) -> str:
        """What was found of a label, for a table."""
        counted = f" ({self.counts[name]})" if name in self.counts else ""
        return f"{self.areas_px[name]} px{counted}" if name in self.areas_px else "–"


def print_report(console: Any, report: SegmentReport, labels: Sequence[str] | Mapping[str, int]) -> None:
    """Show a row an image: pixels and objects of each label, seconds, and what to know."""
    done = len(report.cases) - len(report.failed)
    table = Table(title=f"{done} of {len(report.cases)} images segmented")
    table.add_column("case", no_wrap=True)
    table.add_column("status")
    for name in labels:
        table.add_column(escape(name), justify="right")
    table.add_column("s", justify="right")
    table.add_column("to know", overflow="fold")
    for c in report.cases:
        sizes = [c.shown(name) if isinstance(c, ImageResult) else "–" for name in labels]
        status = f"[red]{c.status}[/]" if c.status == "failed" else c.status
        note = "failed, reason below" if c.error else escape("; ".join(c.findings))
        table.add_row(escape(c.case), status, *sizes, f"{c.seconds:.1f}", note)
    console.print(table)
