"""``medseg3d datalist``: make, check and split the list of a data set's cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medseg3d.cli.datalist_images import ImageOptions, are_images, build_images, check_images, split_images
from medseg3d.cli.datalist_output import counted, new_console, print_findings, refuse_existing
from medseg3d.cli.progress import progress_bar

if TYPE_CHECKING:
    from medseg3d.datalist.check import CheckReport
    from medseg3d.datalist.model import DataList

__all__ = ["app"]

app = typer.Typer(help="Make, check and split the list of a data set's cases.", no_args_is_help=True)

_Workers = Annotated[int, typer.Option(min=0, help="Cases read at once; 0 takes one a CPU core.")]
_Output = Annotated[Path, typer.Option("--output", "-o", help="The data list to write.", show_default=False)]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


@app.command()
def build(
    folder: Annotated[
        Path, typer.Argument(help="The folder of the data set; a CSV or COCO file of 2D images.", show_default=False)
    ],
    output: _Output,
    name: Annotated[str, typer.Option(help="Name of the data set; the folder's by default.")] = "",
    modality: Annotated[str, typer.Option(help="CT, MRI, PET, …")] = "",
    labels: Annotated[
        str, typer.Option(help="Names and ids (liver=1,spleen=2), or a YAML file of them; of classes, names in order.")
    ] = "",
    channels: Annotated[str, typer.Option(help="Names of the channels in order, as the files end: ct,pet.")] = "",
    patient_regex: Annotated[str, typer.Option(help="Finds the patient in the name of a case: '^(P[0-9]+)_'.")] = "",
    unlabelled_to_testing: Annotated[
        bool, typer.Option("--unlabelled-to-testing", help="Keep images without a label, for testing.")
    ] = False,
    missing_channels: Annotated[
        bool, typer.Option("--missing-channels", help="Write null for a channel that a case lacks.")
    ] = False,
    task: Annotated[
        str, typer.Option(help="2D images: classification, detection or segmentation_2d, where it is not clear.")
    ] = "",
    images: Annotated[Path | None, typer.Option(help="2D: the folder of the images that a file names.")] = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="2D: an image may have several classes.")] = False,
    split_shares: Annotated[
        str, typer.Option("--split", help="2D: shares of training, validation (fold 0) and testing: 70/15/15.")
    ] = "",
    folds: Annotated[int, typer.Option(help="2D: folds for cross-validation; 0 makes none.")] = 0,
    split_files: Annotated[
        str, typer.Option(help="2D: lists of names, train.txt,val.txt (also from ImageSets/Main); val is fold 0.")
    ] = "",
    seed: Annotated[int, typer.Option(help="2D: another seed gives another split.")] = 0,
    json_file: Annotated[str, typer.Option("--json", help="2D: write the whole report of the images here.")] = "",
    workers: _Workers = 0,
    overwrite: _Overwrite = False,
) -> None:
    """Make a data list from a folder of images and label maps, or of 2D images.

    Volumes: MSD and nnU-Net (with or without dataset.json), images/ beside
    labels/ or masks/, and a folder a case, as BraTS has it. Images and labels
    are matched by name; what has no partner is named and refused.

    2D images: a folder a class (and a CSV of patients beside them), a CSV with
    the columns image, label and patient, images/ with masks/, Pascal VOC, COCO
    and YOLO boxes, each also below train/, val/ and test/. Every image is
    decoded; what is damaged, of another size or twice in the data is named by
    file and row, and then nothing is written. --split and --folds keep each
    patient in one part.

    [bold]Examples[/]

      medseg3d datalist build Task09_Spleen -o spleen.json

      medseg3d datalist build study -o study.json --modality CT --labels liver=1,spleen=2 --patient-regex '^(P[0-9]+)_'

      medseg3d datalist build BraTS2021_Training -o brats.json --missing-channels

      medseg3d datalist build chest_xray -o xray.json --split 70/15/15

      medseg3d datalist build blood_cells -o cells.json --split-files train.txt,val.txt

      medseg3d datalist build labels.csv -o skin.json --images ISIC_2018 --folds 5
    """
    from medseg3d.datalist.build import build_datalist, parse_labels
    from medseg3d.datalist.model import write_datalist

    refuse_existing(output, overwrite)
    options = ImageOptions(task, images, multi_label, split_shares, folds, split_files, seed, json_file)
    if options.given or are_images(folder):
        build_images(folder, output, options, name=name, labels=labels, patient_regex=patient_regex, workers=workers)
        return
    console = new_console()
    with progress_bar(console, "Reading label maps") as progress:
        built = build_datalist(
            folder,
            path=output,
            name=name,
            modality=modality,
            labels=parse_labels(labels) if labels else None,
            channels=[channel.strip() for channel in channels.split(",")] if channels else (),
            patient_regex=patient_regex,
            unlabelled_to_testing=unlabelled_to_testing,
            missing_channels=missing_channels,
            workers=workers or None,
            progress=progress,
        )
    write_datalist(built.datalist, output)
    for warning in built.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    console.print(f"Wrote {escape(str(output))}: {escape(_described(built.datalist))}.")
    console.print(f"Next: medseg3d datalist check {escape(str(output))}")


@app.command()
def check(
    datalist: Annotated[Path, typer.Argument(help="A data list, or MSD's or nnU-Net's dataset.json.")],
    json_file: Annotated[str, typer.Option("--json", help="Write the whole report here; - is the terminal.")] = "",
    workers: _Workers = 0,
) -> None:
    """Open every case and report what training or evaluation would get wrong.

    Images, channels and label maps are compared in shape and in millimetres,
    label values with the list, and contents with each other; 2D images are
    decoded whole, with their masks and boxes. Ends with status 1 where there
    is an error, and with 0 otherwise.

    [bold]Examples[/]

      medseg3d datalist check Task09_Spleen/dataset.json

      medseg3d datalist check study.json --json report.json
    """
    from medseg3d.datalist.check import check_datalist
    from medseg3d.datalist.model import absolute, write_json
    from medseg3d.datalist.reading import read_datalist
    from medseg3d.images.reading import is_image_list

    if is_image_list(datalist):
        check_images(datalist, json_file=json_file, workers=workers)
        return
    console = new_console(stderr=json_file == "-")
    listed = read_datalist(datalist)
    with progress_bar(console, "Checking cases") as progress:
        report = check_datalist(listed, workers=workers or None, progress=progress)
    if json_file == "-":
        typer.echo(json.dumps(report.to_json(), indent=1, allow_nan=False))
    elif json_file:
        write_json(report.to_json(), absolute(json_file))
    _print_report(report, console, json_file)
    if not report.ok:
        console.print(
            f"[bold red]{counted(report.count('error'), 'error')}:[/] correct the data or the list, check again."
        )
        raise typer.Exit(1)
    done = f"No errors in {counted(len(report.cases), 'case')}."
    command = "plan" if listed.folds or not listed.training else "datalist split"
    output = "" if command == "plan" else " -o datalist.json"
    console.print(f"[green]{done}[/] Next: medseg3d {command} {escape(str(datalist))}{output}")


@app.command()
def split(
    datalist: Annotated[Path, typer.Argument(help="A data list, or MSD's or nnU-Net's dataset.json.")],
    output: _Output,
    folds: Annotated[int, typer.Option(help="How many folds, at least 2.")] = 5,
    shares: Annotated[
        str, typer.Option(help="2D images: shares of training, validation and testing instead: 70/15/15.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Another seed gives other folds.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Make new folds where the list has some.")] = False,
    workers: _Workers = 0,
    overwrite: _Overwrite = False,
) -> None:
    """Give every training case a fold for cross-validation.

    Cases of one patient share a fold, and every label is spread over the
    folds as evenly as that allows. One image under two patients is refused.
    The folds depend on names, labels and seed, not on the order of the list.

    [bold]Examples[/]

      medseg3d datalist split Task09_Spleen/dataset.json -o spleen.json

      medseg3d datalist split study.json -o study_3fold.json --folds 3 --seed 1

      medseg3d datalist split xray.json -o xray_parts.json --shares 70/15/15
    """
    from medseg3d.datalist import folds as folding
    from medseg3d.datalist.check import inspect_cases
    from medseg3d.datalist.model import write_datalist
    from medseg3d.datalist.reading import read_datalist
    from medseg3d.errors import UsageError
    from medseg3d.images.reading import is_image_list

    refuse_existing(output, overwrite)
    if is_image_list(datalist):
        split_images(datalist, output, folds=folds, shares=shares, seed=seed, replace_existing=replace, workers=workers)
        return
    if shares:
        raise UsageError("--shares divides 2D images; volumes are cross-validated: give --folds.")
    console = new_console()
    listed = read_datalist(datalist)
    folding.check_can_split(listed, folds=folds, replace_existing=replace)
    with progress_bar(console, "Reading cases") as progress:
        facts = [facts for facts, _ in inspect_cases(listed, workers=workers or None, progress=progress)]
    _refuse_unread(datalist, [f.case for f in facts if f.part == "training" and (f.voxels is None or f.shape is None)])
    presence = {f.case: f.presence for f in facts}
    contents = {f.case: f.contents for f in facts}
    done = folding.split(listed, folds=folds, seed=seed, presence=presence, contents=contents, replace_existing=replace)
    write_datalist(done, output)
    console.print(_fold_table(done, presence))
    console.print(f"Wrote {escape(str(output))}: {folds} folds of {counted(len(done.training), 'case')}, seed {seed}.")
    command = "python -m monai.bundle run training --config_file BUNDLE/configs/train.yaml --bundle_root BUNDLE"
    console.print(f"Next: {command} --datalist {escape(str(output))} --fold 0")


# Parts ---------------------------------------------------------------------------------------------------------------


def _refuse_unread(datalist: Path, cases: list[str]) -> None:
    from medseg3d.datalist.model import shorten
    from medseg3d.errors import DataListError

    if cases:
        raise DataListError(
            f"{len(cases)} cases cannot be read ({shorten(cases)}): `medseg3d datalist check {datalist}` says why."
        )


def _described(datalist: DataList) -> str:
    patients = len({case.patient for case in datalist.training})
    parts = [
        f"{counted(len(datalist.training), 'training case')} of {counted(patients, 'patient')}",
        f"{len(datalist.testing)} for testing",
        f"labels {', '.join(f'{name} = {label_id}' for name, label_id in datalist.labels.items())}",
    ]
    if len(datalist.channels) > 1:
        parts.append(f"channels {', '.join(datalist.channels)}")
    return "; ".join(parts)


def _print_report(report: CheckReport, console: Console, json_file: str) -> None:
    print_findings(report.findings, console, json_file)
    console.print(_summary_table(report))
    console.print(_label_table(report))


def _summary_table(report: CheckReport) -> Table:
    table = Table(
        "", "min", "median", "max", title=f"Grid of {counted(len(report.cases), 'case')}", title_justify="left"
    )
    for name, values in report.ranges().items():
        numbers = (" × ".join(f"{number:.4g}" for number in values[key]) for key in ("min", "median", "max"))
        table.add_row(name.replace("_", " "), *numbers)
    orientations = ", ".join(f"{axes} {count}" for axes, count in report.orientations().items())
    table.caption, table.caption_justify = f"orientation: {orientations or 'none read'}", "left"
    return table


def _label_table(report: CheckReport) -> Table:
    table = Table("label", "id", "cases", "voxels", title="Labels", title_justify="left")
    for name, label_id in report.datalist.labels.items():
        voxels = f"{report.label_voxels(label_id):,}"
        table.add_row(escape(name), str(label_id), str(report.label_cases(label_id)), voxels)
    return table


def _fold_table(datalist: DataList, presence: dict[str, frozenset[int]]) -> Table:
    """How many cases, patients and cases with each label every fold has; a column a fold, since labels may be many."""
    table = Table("", *(f"fold {fold}" for fold in datalist.folds), title="Held out in each fold", title_justify="left")
    folds = [[case for case in datalist.training if case.fold == fold] for fold in datalist.folds]
    table.add_row("cases", *(str(len(cases)) for cases in folds))
    table.add_row("patients", *(str(len({case.patient for case in cases})) for cases in folds), end_section=True)
    for name, label_id in datalist.labels.items():
        having = (sum(label_id in presence[case.case] for case in cases) for cases in folds)
        table.add_row(f"cases with {escape(name)}", *map(str, having))
    return table
