"""``medseg3d evaluate``: scores of masks against references."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medseg3d.cli.evaluate_images import score_listed_masks

if TYPE_CHECKING:
    from medseg3d.evaluation import Pairing, Problem, Scoring, Summary

__all__ = ["evaluate"]

SHOWN_A_CODE = 8
"""Different messages of one code that the table shows; summary.json has all of them."""

LOG_WIDTH = 150
"""A log file has no width of its own; tables in it get this many characters."""


class _OtherLabels(StrEnum):
    refuse = "refuse"
    background = "background"


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(metavar="PRED", help="A folder of masks, a run folder, or one mask.", show_default=False),
    ],
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REF", help="A folder of label maps, a data list, or one label map.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results; made if absent.", show_default=False)
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="Names and ids (liver=1,spleen=2), or a YAML or JSON file of them.",
            show_default="of the data list, REF's dataset.json, or the masks' sidecars",
        ),
    ] = "",
    regions: Annotated[
        str, typer.Option(help="Unions of labels to score beside them: whole_tumour=1+2,core=necrosis+enhancing.")
    ] = "",
    ignore_label: Annotated[
        int | None,
        typer.Option(help="Id of reference voxels that nobody labelled.", show_default="of the data list"),
    ] = None,
    name: Annotated[
        str, typer.Option(help="What the method is called in reports.", show_default="the folder's name")
    ] = "",
    fold: Annotated[
        int | None, typer.Option(min=-1, help="Of a data list, evaluate the cases held out in this fold; -1: all.")
    ] = None,
    tolerance: Annotated[str, typer.Option(help="Of the NSD, in mm: 2, or by name: liver=3,spleen=1.5.")] = "2",
    lesions: Annotated[str, typer.Option(help="Labels or regions to score lesion by lesion, too: tumour,cyst.")] = "",
    lesion_overlap: Annotated[
        float, typer.Option(help="IoU from which a predicted lesion has found one of the reference.")
    ] = 0.1,
    attributes: Annotated[
        Path | None,
        typer.Option(help="CSV with a column case or patient and one an attribute (site, scanner, sex, …)."),
    ] = None,
    patients: Annotated[
        str,
        typer.Option(
            help="CSV with columns case and patient, or a regular expression that finds the patient in a case's name.",
            show_default="of the data list, or each case its own",
        ),
    ] = "",
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images (<case>.nii.gz, <case>_0000.nii.gz), for pictures.")
    ] = None,
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Resample predictions on another grid instead of refusing them."),
    ] = False,
    other_labels: Annotated[
        _OtherLabels, typer.Option(help="What to do with ids that are not named.")
    ] = _OtherLabels.refuse,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Also judge <case>_probability.nii.gz beside the masks.")
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(help="Run folder of the training, for its curves and record.", show_default="found beside PRED"),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes at most; 0 takes one a CPU core.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap samples of the intervals.")] = 2000,
) -> None:
    """Score masks against references: Dice, surface distances, volumes, lesions, with intervals over patients.

    Masks and references are matched by name and must share a grid. What cannot
    be scored is named in one table with the reason, the rest is evaluated, and
    the exit status is 1. OUT gets cases.csv (a row a case and label),
    summary.json and report.html, which opens offline.

    Of a data list the testing cases are evaluated where predictions are named
    after them, otherwise the training cases, or the one fold that the
    predictions are of. An empty mask on one side only is Dice 0 and infinite
    distances, which rank last in medians; on both sides it is left out and
    counted.

    Of a list of 2D images (medseg3d datalist build) the masks are <case>.png, or
    <case>_<label>.png where labels overlap. Distances are in mm, and areas stand
    for volumes, if all images say their spacing; otherwise both are in pixels.

    [bold]Examples[/]

      medseg3d evaluate masks/ labelsTs/ -o results/unet --labels liver=1,spleen=2

      medseg3d evaluate runs/fold0 study.json -o results/fold0 --attributes site.csv

      medseg3d evaluate masks/ study.json -o results/a --regions whole=1+2+3

      medseg3d evaluate masks2d/ slides.json -o results/slides --fold 0
    """
    from medseg3d.cli.progress import progress_bar
    from medseg3d.evaluation import method_name, pair, run_evaluation, run_of
    from medseg3d.images import is_image_list

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    if reference.suffix.lower() == ".json" and reference.is_file() and is_image_list(reference):
        _print_and_exit(
            score_listed_masks(
                predictions,
                reference,
                out,
                console,
                fold=fold,
                tolerance=tolerance,
                name=name,
                ignore_index=ignore_label,
                workers=workers,
                resamples=resamples,
                for_volumes={
                    "labels": labels, "regions": regions, "lesions": lesions, "attributes": attributes,
                    "patients": patients, "images": images, "resample": resample, "calibration": calibration,
                    "run": run, "other-labels": other_labels is not _OtherLabels.refuse,
                },
            ),
            console,
        )  # fmt: skip
        return
    pairing = pair(predictions, reference, fold=fold)
    scoring = _scoring(
        pairing,
        reference,
        labels=labels,
        regions=regions,
        tolerance=tolerance,
        lesions=lesions,
        lesion_overlap=lesion_overlap,
        resample=resample,
        other_labels=other_labels.value,
        calibration=calibration,
        ignore_label=pairing.datalist.ignore_label if ignore_label is None and pairing.datalist else ignore_label,
    )
    cases, groups, notes = _described(pairing, patients=patients, images=images, attributes=attributes)
    if pairing.part:
        console.print(f"Evaluating {escape(pairing.part)} of {escape(str(reference))}: {len(cases)} cases.")
    with progress_bar(console, "Scoring cases") as progress:
        summary = run_evaluation(
            cases,
            scoring=scoring,
            output_dir=out.absolute(),
            name=name or method_name(pairing.predictions),
            problems=(*pairing.problems, *notes),
            attributes=groups,
            run=run.absolute() if run else run_of(pairing.predictions),
            split={"reference": str(reference), "part": pairing.part or None},
            workers=workers,
            progress=progress,
            resamples=resamples,
        )
    _print_and_exit(summary, console)


# Parts ---------------------------------------------------------------------------------------------------------------


def _scoring(
    pairing: Pairing, reference: Path, *, labels: str, regions: str, tolerance: str, lesions: str, **options: Any
) -> Scoring:
    from medseg3d.datalist.build import parse_labels
    from medseg3d.evaluation import find_labels, make_scoring
    from medseg3d.evaluation.options import parse_names, parse_regions, parse_tolerance

    named, unions = (parse_labels(labels), {}) if labels else find_labels(pairing, reference)
    return make_scoring(
        named,
        {**unions, **parse_regions(regions, named)},
        tolerance_mm=parse_tolerance(tolerance),
        lesions=parse_names(lesions),
        **options,
    )


def _described(
    pairing: Pairing, *, patients: str, images: Path | None, attributes: Path | None
) -> tuple[tuple[Any, ...], Mapping[str, Mapping[str, str]], tuple[Problem, ...]]:
    """The cases with their patients and images, their attributes, and what is to be said of these."""
    from medseg3d.evaluation import match_images, patients_of, read_attributes, with_patients

    cases = pairing.cases
    if patients:
        cases = with_patients(cases, patients_of(patients, cases))
    if images is not None:
        cases = match_images(cases, images)
    groups, notes = read_attributes(attributes, cases) if attributes is not None else ({}, ())
    return cases, groups, notes


def _print_and_exit(summary: Summary, console: Console) -> None:
    """Problems, scores and where the report lies; exit status 1 where something could not be scored."""
    if summary.problems:
        console.print(_problem_table(summary))
    console.print(_score_table(summary))
    content = summary.content
    if warning := content["headline"]["warning"]:
        console.print(f"[yellow]{escape(warning)}[/]")
    console.print(f"{cases_of(content)} scored{_failures(summary)}. Report: {escape(str(summary.report))}")
    if not summary.ok:
        raise typer.Exit(1)


def cases_of(content: Mapping[str, Any]) -> str:
    """How many cases of how many patients a summary or a comparison is of."""
    from medseg3d.report.words import count

    cases = count(content["cases"], "case")
    if content["patients_known"]:
        return f"{cases} of {count(content['patients'], 'patient')}"
    return f"{cases} (patients unknown: each case taken as one)" if content["cases"] > 1 else cases


def _failures(summary: Summary) -> str:
    return f", [bold red]{len(summary.failed)} not[/] (table above)" if summary.failed else ""


def _problem_table(summary: Summary) -> Table:
    from medseg3d.datalist.model import shorten

    table = Table("", "case", "code", "what", title="Problems", title_justify="left")
    table.columns[3].overflow = "fold"
    colours = {"error": "bold red", "note": "dim"}
    cases: dict[tuple[str, str], dict[str, list[str]]] = {}
    for problem in sorted(summary.problems, key=lambda p: p.severity):
        of_code = cases.setdefault((problem.severity, problem.code), {})
        of_code.setdefault(problem.message, []).append(problem.case)
    for (severity, code), messages in cases.items():
        for message, names in list(messages.items())[:SHOWN_A_CODE]:
            table.add_row(f"[{colours[severity]}]{severity}[/]", escape(shorten(names)), code, escape(message))
        if more := sum(len(names) for names in list(messages.values())[SHOWN_A_CODE:]):
            table.add_row(severity, f"{more} more", code, "summary.json names all of them.")
    return table


def _score_table(summary: Summary) -> Table:
    headline = summary.content["headline"]
    table = Table("label", "cases", "missed", "spurious", title="Scores, with 95 % confidence intervals over patients",
                  title_justify="left")  # fmt: skip
    table.columns[0].overflow = "fold"
    from medseg3d.report.words import metric_text, units_of

    hd95 = metric_text("hd95_mm", units_of(summary.content)).heading
    for heading in ("Dice, mean", "NSD, mean", f"{hd95}, median"):
        table.add_column(heading, justify="right")
    for label, content in summary.content["labels"].items():
        status, metrics = content["status"], content["metrics"]
        counts = (sum(status.values()) - status["both_empty"], status["missed"], status["spurious"])
        numbers = (("dice", "mean", 3), ("nsd", "mean", 3), ("hd95_mm", "median", 1))
        cells = [_cell(metrics.get(metric), what, digits) for metric, what, digits in numbers]
        table.add_row(escape(label), *map(str, counts), *cells)
    mean = _number(headline["value"], 3) + _bounds(headline["interval"], 3)
    table.caption, table.caption_justify = f"Mean Dice over labels: {mean}", "left"
    return table


def _cell(metric: Mapping[str, Any] | None, what: str, digits: int) -> str:
    if metric is None or not metric["n"]:
        return "–"
    value = "∞" if what == "median" and metric.get("status") == "infinite" else _number(metric[what], digits)
    return value + _bounds(metric[f"interval_{what}"], digits)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _bounds(interval: list[float | None] | None, digits: int) -> str:
    if interval is None:
        return ""
    low, high = ("∞" if bound is None else f"{bound:.{digits}f}" for bound in interval)
    return f" ({low} to {high})"
