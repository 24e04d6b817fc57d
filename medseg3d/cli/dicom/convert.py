"""``medseg3d dicom convert``: series to NIfTI, with sidecars, and label maps from RTSTRUCT and SEG."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medseg3d.cli.progress import progress_bar

if TYPE_CHECKING:
    from medseg3d.dicom.conversion import Converted
    from medseg3d.dicom.findings import Finding
    from medseg3d.dicom.frames import Annotated as AnnotationFile
    from medseg3d.dicom.scanning import Scan

__all__ = ["convert"]

SHOWN_FILES = 5
LOG_WIDTH = 150  # a log file has no width of its own


class _Fix(StrEnum):
    resample = "resample"


class _Overlap(StrEnum):
    refuse = "refuse"
    last = "last"


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A folder tree of DICOM files, a zip archive or a file.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Folder for images/, labels/ and labels.json; made if absent.", show_default=False
        ),
    ],
    fix: Annotated[
        _Fix | None,
        typer.Option(
            help="resample: bring gaps, uneven spacing and gantry tilt onto a regular grid.", show_default="refuse them"
        ),
    ] = None,
    max_gap_mm: Annotated[float, typer.Option(min=0, help="The largest gap that --fix resample fills.")] = 10.0,
    split: Annotated[
        bool, typer.Option("--split", help="Write the parts of a series of mixed orientation, matrix or spacing.")
    ] = False,
    four_d: Annotated[
        bool, typer.Option("--4d", help="One file of the volumes on one grid (time, b-value, echo); with bval, bvec.")
    ] = False,
    compress: Annotated[bool, typer.Option("--compress/--no-compress", help="Write .nii.gz, or .nii.")] = True,
    channels: Annotated[
        str,
        typer.Option(
            help="Modalities that make one image, as CT,PET: the others are resampled onto the first.",
            show_default="an image a series",
        ),
    ] = "",
    labels: Annotated[
        Path | None,
        typer.Option(help="YAML of labels, and of the ROI names that mean them.", show_default="an id a ROI name"),
    ] = None,
    overlap: Annotated[
        _Overlap, typer.Option(help="Voxels of two labels: refuse, or give them to the label that is last in the YAML.")
    ] = _Overlap.refuse,
    accept: Annotated[
        list[str] | None,
        typer.Option(help="A refusal of contours to overlook, such as self_crossing; may be repeated."),
    ] = None,
    interpolate_contours: Annotated[
        bool,
        typer.Option("--interpolate-contours", help="Fill slices without contour between contoured ones, by shape."),
    ] = False,
    annotation: Annotated[
        str, typer.Option(help="File name or UID of the only RTSTRUCT or SEG to take.", show_default="all")
    ] = "",
    series: Annotated[str, typer.Option(help="UID of the only series to convert.", show_default="all")] = "",
    keep_uids: Annotated[
        bool, typer.Option("--keep-uids", help="UIDs, names of files and ROIs in sidecars, which else have hashes.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Cores to use; 0 takes all.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Convert DICOM series to NIfTI; RTSTRUCT and SEG become label maps on the grid of their series.

    Every image has a JSON beside it: findings, what was done, and which
    slice is which. Series whose geometry is not sound (gaps, tilt, mixed
    orientations, repeats, …) are named with the reason and what to do, and
    become no file; the exit status is then 1, as with files that cannot be
    read and annotations that name no series. Localizers, screenshots and
    single slices are left out and do not count as failures.

    OUT is ready for: medseg3d datalist build OUT --labels OUT/labels.json

    With --channels CT,PET every CT becomes a case of two files on the CT's
    grid: <case>_0000.nii.gz, and <case>_0001.nii.gz with the PET of the same
    study and frame of reference, interpolated linearly. PET must be in SUV.

    The YAML of --labels has labels: {liver: 1, tumour: 2} and, for other
    spellings, names: {"GTV*": tumour, "Couch*": null}.

    [bold]Examples[/]

      medseg3d dicom convert study/ nifti/

      medseg3d dicom convert planning_ct.zip nifti/ --labels names.yaml

      medseg3d dicom convert head_ct/ nifti/ --fix resample

      medseg3d dicom convert diffusion/ nifti/ --4d --no-compress

      medseg3d dicom convert pet_ct/ nifti/ --channels CT,PET --labels names.yaml
    """
    from medseg3d.dicom.conversion import ConvertOptions, LabelRules
    from medseg3d.dicom.converting import convert_scan
    from medseg3d.dicom.coregistered import modality_code
    from medseg3d.dicom.matching import unmatched_annotations
    from medseg3d.dicom.scanning import scan

    naming = None
    if labels is not None:
        from medseg3d.dicom.naming import read_naming

        naming = read_naming(labels)
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    options = ConvertOptions(
        suffix=".nii.gz" if compress else ".nii",
        resample=fix is _Fix.resample,
        max_gap_mm=max_gap_mm,
        split=split,
        four_d=four_d,
        keep_uids=keep_uids,
        labels=LabelRules(
            naming, overlap.value, tuple(accept or ()), gaps="interpolate" if interpolate_contours else "leave"
        ),
        series_uid=series,
        annotation=annotation,
        force=force,
        channels=tuple(modality_code(name.strip()) for name in channels.split(",")) if channels else (),
    )
    with progress_bar(console, "Reading headers") as show:
        found = scan(source, workers=workers or None, progress=show)
    with progress_bar(console, "Converting") as show:
        results = convert_scan(found, out, options=options, workers=workers or None, progress=show)
    _print_volumes(console, results)
    _print_remarks(console, results)
    unmatched = unmatched_annotations(found)
    _print_rest(console, found, unmatched)
    written = [result for result in results if result.status == "written"]
    console.print(f"Wrote {len(written)} of {len(results)} volumes to {out}", markup=False)
    if any(result.label for result in written):
        console.print(
            f"Next: medseg3d datalist build {out} -o {out / 'dataset.json'} --labels {out / 'labels.json'} "
            f"--patient-regex '^([^_]+)_'{f' --channels {channels}' if channels else ''}",
            markup=False,
        )
    # A file that cannot be read may be the last slice of any series, which nobody would miss.
    nowhere = [file for file in unmatched if not file.referenced_series]
    if any(result.failed for result in results) or found.unreadable or nowhere or not written:
        raise typer.Exit(1)


def _print_volumes(console: Console, results: Sequence[Converted]) -> None:
    table = Table(title="Volumes", title_justify="left")
    for column in ("volume", "", "voxels", "mm", "slices", "label"):
        table.add_column(column, overflow="fold")
    for result in results:
        status = {"written": "written", "left out": "[dim]left out[/]", "refused": "[red]refused[/]"}[result.status]
        voxels = "×".join(map(str, result.shape)) or "–"
        spacing = "×".join(f"{step:.4g}" for step in result.spacing_mm) if result.image else "–"
        refused_label = result.image is not None and result.failed
        label = "[red]refused[/]" if refused_label else "yes" if result.label else "–"
        table.add_row(escape(result.name), status, voxels, spacing, str(result.slices), label)
    console.print(table)


def _print_remarks(console: Console, results: Sequence[Converted]) -> None:
    """Refusals and warnings, each once with the volumes that it is about; notes are in the sidecars."""
    volumes: dict[Finding, list[str]] = {}
    for result in results:
        for finding in dict.fromkeys(result.findings):
            if finding.severity != "note":
                volumes.setdefault(finding, []).append(result.name)
    for severity, style in (("warning", "yellow"), ("refusal", "red")):
        for finding, names in volumes.items():
            if finding.severity == severity:
                shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
                console.print(f"[{style}]{escape(shown)}[/]: {escape(str(finding))}")


def _print_rest(console: Console, found: Scan, unmatched: Sequence[AnnotationFile]) -> None:
    """Files that became nothing."""
    for file in unmatched[:SHOWN_FILES]:
        why = (
            f"the series that this {file.modality} was drawn on is not here"
            if file.referenced_series
            else f"this {file.modality} names no series, nor an image that is here"
        )
        console.print(f"[yellow]{escape(str(file.file))}[/]: {why}, no label is made of it.")
    for broken in found.unreadable[:SHOWN_FILES]:
        console.print(
            f"[red]{escape(str(broken.file))}[/]: not readable, a slice may be missing: {escape(broken.reason)}"
        )
    for files in (unmatched, found.unreadable):
        if len(files) > SHOWN_FILES:
            console.print(f"… and {len(files) - SHOWN_FILES} more")
