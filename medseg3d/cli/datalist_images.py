"""The parts of ``medseg3d datalist`` that are for 2D images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from medseg3d.cli.datalist_output import counted, new_console, print_findings
from medseg3d.cli.progress import progress_bar

if TYPE_CHECKING:
    from medseg3d.images.build import Split
    from medseg3d.images.check import ImageReport
    from medseg3d.images.model import ImageList, Task

__all__ = ["ImageOptions", "are_images", "build_images", "check_images", "split_images"]


@dataclass(frozen=True)
class ImageOptions:
    """Options of ``datalist build`` that are for 2D images alone, as they were typed."""

    task: str = ""
    images: Path | None = None
    multi_label: bool = False
    split: str = ""
    folds: int = 0
    split_files: str = ""
    seed: int = 0
    json_file: str = ""

    @property
    def given(self) -> bool:
        """Whether any of them was given."""
        return self != ImageOptions()


def are_images(source: Path) -> bool:
    """Whether a folder or file describes 2D images, and not volumes."""
    from medseg3d.images.layouts import describes_images

    return describes_images(source)


def build_images(
    source: Path,
    output: Path,
    options: ImageOptions,
    *,
    name: str,
    labels: str,
    patient_regex: str,
    workers: int,
) -> None:
    """Build a list of 2D images, print what was found, and write it unless there are errors."""
    from medseg3d.datalist.model import absolute, write_json
    from medseg3d.images.build import build_image_list
    from medseg3d.images.reading import write_image_list

    console = new_console()
    with progress_bar(console, "Reading images") as progress:
        report = build_image_list(
            source,
            path=output,
            task=_task(options.task),
            name=name,
            labels=_labels(labels),
            multi_label=options.multi_label,
            images=options.images,
            patient_regex=patient_regex,
            split=_split(options, source),
            workers=workers or None,
            progress=progress,
        )
    if options.json_file:
        write_json(report.to_json(), absolute(options.json_file))
    print_findings(report.findings, console, options.json_file)
    if not report.ok:
        errors = counted(report.count("error"), "error")
        console.print(f"[bold red]{errors}: nothing is written.[/] Correct the data, or the file that lists it.")
        raise typer.Exit(1)
    write_image_list(report.images, output)
    console.print(_part_table(report))
    console.print(f"Wrote {escape(str(output))}: {escape(_described(report.images))}.")
    command = _train_command(output) if report.images.folds else f"medseg3d datalist split {output} -o folds.json"
    console.print(f"Next: {escape(command)}")


def check_images(datalist: Path, *, json_file: str, workers: int) -> None:
    """Check a list of 2D images, print the report, and end with status 1 where it has errors."""
    from medseg3d.datalist.model import absolute, write_json
    from medseg3d.images.check import check_image_list
    from medseg3d.images.reading import read_image_list

    console = new_console(stderr=json_file == "-")
    listed = read_image_list(datalist)
    with progress_bar(console, "Checking images") as progress:
        report = check_image_list(listed, workers=workers or None, progress=progress)
    if json_file == "-":
        typer.echo(json.dumps(report.to_json(), indent=1, allow_nan=False))
    elif json_file:
        write_json(report.to_json(), absolute(json_file))
    print_findings(report.findings, console, json_file)
    console.print(_size_line(report))
    console.print(_part_table(report))
    if not report.ok:
        errors = counted(report.count("error"), "error")
        console.print(f"[bold red]{errors}:[/] correct the data or the list, check again.")
        raise typer.Exit(1)
    command = _train_command(datalist) if listed.folds else f"medseg3d datalist split {datalist} -o folds.json"
    console.print(f"[green]No errors in {counted(len(report.facts), 'image')}.[/] Next: {escape(command)}")


def split_images(
    datalist: Path, output: Path, *, folds: int, shares: str, seed: int, replace_existing: bool, workers: int
) -> None:
    """Give the training images of a list folds, or parts for training, validation and testing."""
    from dataclasses import replace

    from medseg3d.datalist.folds import check_can_split
    from medseg3d.images.check import check_image_list
    from medseg3d.images.model import as_datalist
    from medseg3d.images.reading import read_image_list, write_image_list
    from medseg3d.images.splitting import into_folds, into_shares, parse_shares, refuse_errors

    console = new_console()
    listed = read_image_list(datalist)
    parts = parse_shares(shares) if shares else None
    check_can_split(as_datalist(listed), folds=2 if parts else folds, replace_existing=replace_existing)
    listed = replace(listed, training=tuple(replace(item, fold=None) for item in listed.training))
    with progress_bar(console, "Reading images") as progress:
        report = check_image_list(listed, workers=workers or None, progress=progress)
    refuse_errors(report)
    if parts:
        done = into_shares(listed, parts, seed=seed, presence=report.presence, contents=report.contents)
    else:
        done = into_folds(listed, folds=folds, seed=seed, presence=report.presence, contents=report.contents)
    write_image_list(done, output)
    console.print(_part_table(replace(report, images=done)))
    how = f"{folds} folds" if not parts else f"training, validation (fold 0) and testing as {shares}"
    console.print(f"Wrote {escape(str(output))}: {how} of {counted(len(listed.training), 'image')}, seed {seed}.")
    console.print(f"Next: {escape(_train_command(output))}")


# Options -------------------------------------------------------------------------------------------------------------


def _task(text: str) -> Task | None:
    from medseg3d.errors import UsageError
    from medseg3d.images.model import TASKS

    found = next((task for task in TASKS if task == text), None)
    if text and found is None:
        raise UsageError(f"--task {text!r} is none of {', '.join(TASKS)}.")
    return found


def _labels(text: str) -> tuple[str, ...] | dict[str, int]:
    """Names in the order of their ids, or names and ids where they are given."""
    from medseg3d.datalist.build import parse_labels

    if "=" in text or text.lower().endswith((".yaml", ".yml", ".json")):
        return parse_labels(text)
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _split(options: ImageOptions, source: Path) -> Split:
    from medseg3d.errors import UsageError
    from medseg3d.images.build import Split
    from medseg3d.images.splitting import parse_shares, read_split_files

    if sum(map(bool, (options.split, options.folds, options.split_files))) > 1:
        raise UsageError("Give one of --split, --folds and --split-files.")
    if options.folds == 1:
        raise UsageError("1 folds were asked for: a split needs at least 2.")
    folder = source if source.is_dir() else source.parent
    return Split(
        folds=options.folds,
        shares=parse_shares(options.split) if options.split else None,
        files=read_split_files(options.split_files.split(","), [folder]) if options.split_files else (),
        seed=options.seed,
    )


# Output --------------------------------------------------------------------------------------------------------------


def _train_command(datalist: Path) -> str:
    command = "python -m monai.bundle run training --config_file BUNDLE/configs/train.yaml --bundle_root BUNDLE"
    return f"{command} --datalist {datalist} --fold 0"


def _described(images: ImageList) -> str:
    patients = len({item.patient for item in images.training})
    kind = images.task.replace("_", " ") + (" with several labels an image" if images.multi_label else "")
    return "; ".join(
        [
            kind,
            f"{counted(len(images.training), 'training image')} of {counted(patients, 'patient')}",
            f"{len(images.testing)} for testing",
            f"labels {', '.join(f'{name} = {label_id}' for name, label_id in images.labels.items())}",
        ]
    )


def _size_line(report: ImageReport) -> str:
    sizes = report.sizes()
    if not sizes:
        return "No image could be read."
    shown = ", ".join(f"{name} {rows} × {columns}" for name, (rows, columns) in sizes.items())
    colour = sum(channels == 3 for channels in report.channels)
    return f"Rows × columns: {shown}; {colour} of {counted(len(report.facts), 'image')} in colour."


def _part_table(report: ImageReport) -> Table:
    """Images, patients and labels of each fold and of testing; a column each, since labels may be many."""
    images = report.images
    parts = [(f"fold {fold}", [i for i in images.training if i.fold == fold]) for fold in images.folds]
    parts = parts or [("training", list(images.training))]
    parts += [("testing", list(images.testing))] if images.testing else []
    table = Table("", *(name for name, _ in parts), title="Images", title_justify="left")
    table.add_row("images", *(str(len(items)) for _, items in parts))
    patients = (str(len({item.patient for item in items})) for _, items in parts)
    table.add_row("patients", *patients, end_section=True)
    amounts = {facts.case: facts.voxels or {} for facts in report.facts}
    for name, label_id in images.labels.items():
        having = [sum(label_id in amounts[item.case] for item in items) for _, items in parts]
        table.add_row(f"images with {escape(name)}", *map(str, having))
        if images.task == "detection":
            boxes = [sum(amounts[item.case].get(label_id, 0) for item in items) for _, items in parts]
            table.add_row("  boxes", *map(str, boxes))
    return table
