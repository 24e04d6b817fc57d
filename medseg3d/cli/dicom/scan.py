"""``medseg3d dicom scan``: which series a folder holds, and what is remarkable about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medseg3d.cli.progress import progress_bar

if TYPE_CHECKING:
    from medseg3d.dicom.findings import Finding
    from medseg3d.dicom.frames import Series, Stack
    from medseg3d.dicom.scanning import Scan

__all__ = ["scan"]

_COLOURS = {"refusal": "bold red", "warning": "yellow", "note": "dim"}
_UNREADABLE_SHOWN = 10
_ALIKE_SHOWN = 3  # series with the same findings
_LOG_WIDTH = 150  # a log file has no width of its own


def scan(
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder tree, a zip archive or a file.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: everything, for programs.")] = False,
    show_patient: Annotated[
        bool, typer.Option("--show-patient", help="Show the patients' real ids, and descriptions that name them.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 chooses by the number of files.")] = 0,
) -> None:
    """List the DICOM series of a folder: their geometry, and what is wrong with them.

    Reads headers only. Files may have any name and lie in zip archives; DICOMDIR is ignored. A refusal (red) means
    that no volume is written as things are; its remedy says what to do.

    The exit status is 1 if a DICOM file could not be read, otherwise 0: findings do not make a scan fail.

    [bold]Examples[/]

      medseg3d dicom scan export/

      medseg3d dicom scan study.zip --json > study.json
    """
    from medseg3d.dicom import scanning
    from medseg3d.dicom.descriptions import shareable
    from medseg3d.dicom.scan_report import report

    # JSON has the standard output to itself.
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console.width = _LOG_WIDTH
    with progress_bar(console, "Reading headers") as progress:
        found = scanning.scan(source, workers=workers or None, progress=progress)
    if not show_patient:
        found = replace(found, series=tuple(shareable(found.series)))
    if as_json:
        typer.echo(json.dumps(report(found, show_patient=show_patient), indent=2))
    else:
        _print(console, found, show_patient=show_patient)
    if found.unreadable:
        raise typer.Exit(1)


def _print(console: Console, found: Scan, *, show_patient: bool) -> None:
    for table in _tables(found.series, show_patient=show_patient):
        console.print(table)
    _print_findings(console, found.series)
    for annotation in found.annotations:
        refers = f"of series {', '.join(annotation.referenced_series)}" if annotation.referenced_series else ""
        console.print(f"{annotation.modality}: {annotation.file} {refers}", markup=False, soft_wrap=True)
    for file in found.unreadable[:_UNREADABLE_SHOWN]:
        console.print(f"[bold red]unreadable[/] {escape(str(file.file))}: {escape(file.reason)}", soft_wrap=True)
    files = len({f.source.file for s in found.series for stack in s.stacks for f in stack.frames})
    console.print(
        f"{len(found.series)} series of {files} files; {len(found.annotations)} annotations, {len(found.other)} other "
        f"objects, {len(found.unreadable)} unreadable, {found.ignored} not DICOM.",
    )


def _tables(series: tuple[Series, ...], *, show_patient: bool) -> Iterator[Table]:
    """A table a study, so that patient and study stand above it once."""
    from medseg3d.dicom.scan_report import like_stacks

    for study, members in groupby(series, key=lambda one: (one.patient, one.patient_id, one.study_uid)):
        patient = study[1] if show_patient else study[0]
        table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left",
                      title=f"Patient {escape(patient)}, study …{study[2][-8:]}")  # fmt: skip
        for name in (
            "series",
            "description",
            "volumes",
            "slices",
            "matrix",
            "spacing mm",
            "axes",
            "syntax",
            "findings",
        ):
            # In a narrow terminal long texts fold first; numbers stay whole.
            folds = name in ("description", "volumes", "findings")
            justify: Literal["left", "right"] = "right" if name == "slices" else "left"
            table.add_column(
                name,
                overflow="fold",
                no_wrap=not folds,
                justify=justify,
                min_width=14 if name == "description" else None,
            )
        for one in members:
            for stacks in like_stacks(one):
                table.add_row(*map(escape, _cells(one, stacks)), _codes(one, stacks))
        yield table


def _cells(series: Series, stacks: list[Stack]) -> list[str]:
    from medseg3d.geometry import orientation

    grid, frame = stacks[0].grid, stacks[0].frames[0]
    return [
        f"{series.number} {series.modality}" if series.number is not None else series.modality,
        series.description,
        stacks[0].label if len(stacks) == 1 else f"{len(stacks)} ({stacks[0].label}…{stacks[-1].label})",
        str(len(stacks[0].frames)),
        f"{frame.columns}×{frame.rows}",
        "×".join(f"{s:.3g}" for s in grid.spacing_mm) if grid else "–",
        orientation(grid.affine_ras) if grid else "–",
        ", ".join(_short_syntax(uid) for uid in series.transfer_syntaxes),
    ]


def _short_syntax(uid: str) -> str:
    from medseg3d.dicom.attributes import uid_name

    name = uid_name(uid).split(",")[0].replace("Image Compression", "").replace("  ", " ").strip()
    return name.replace(" VR Little Endian", " LE").replace(" VR Big Endian", " BE")


def _codes(series: Series, stacks: list[Stack]) -> str:
    worst: dict[str, str] = {}
    for finding in (*series.findings, *(f for stack in stacks for f in stack.findings)):
        if finding.severity != "note":
            worst[finding.code] = "refusal" if worst.get(finding.code) == "refusal" else finding.severity
    return ", ".join(f"[{_COLOURS[severity]}]{code.replace('_', ' ')}[/]" for code, severity in worst.items())


def _print_findings(console: Console, series: tuple[Series, ...]) -> None:
    from medseg3d.dicom.scan_report import stack_findings

    # Series of which the same is to be said are named together: a study may have hundreds.
    alike: dict[tuple[str, ...], list[Series]] = {}
    for one in series:
        shared = [(finding, list[str]()) for finding in one.findings]
        lines = tuple(_line(finding, labels) for finding, labels in [*shared, *stack_findings(one.stacks)])
        if lines:
            alike.setdefault(lines, []).append(one)
    for lines, members in alike.items():
        console.print()
        for one in members[:_ALIKE_SHOWN]:
            title = f"{one.modality} {one.description}".strip()
            console.print(f"[bold]{escape(title)}[/] [dim]{escape(one.uid)}[/]", soft_wrap=True)
        if len(members) > _ALIKE_SHOWN:
            console.print(f"[bold]and {len(members) - _ALIKE_SHOWN} more series[/]")
        for line in lines:
            console.print(line, soft_wrap=True)
    console.print()


def _line(finding: Finding, labels: list[str]) -> str:
    where = f" ({', '.join(labels[:4])}{', …' if len(labels) > 4 else ''})" if labels else ""
    name = f"[{_COLOURS[finding.severity]}]{finding.code.replace('_', ' ')}[/]"
    return f"  {name}{escape(where)}: {escape(finding.message)} [italic]{escape(finding.remedy)}[/]"
