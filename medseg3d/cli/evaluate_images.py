"""Scores of 2D heads: ``medseg3d evaluate-classification``, ``evaluate-detection``, and masks of a list of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from medseg3d.evaluation import Summary

__all__ = ["evaluate_classification", "evaluate_detection", "score_listed_masks"]

SHOWN_PROBLEMS = 10

Predictions = Annotated[Path, typer.Argument(metavar="PRED", help="The answers of the method.", show_default=False)]
References = Annotated[Path, typer.Argument(metavar="REF", help="The truth.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if absent.", show_default=False)]
Name = Annotated[
    str, typer.Option(help="What the method is called in the report.", show_default="the name of PRED's file")
]
Images = Annotated[Path | None, typer.Option(help="Folder of the images, for pictures in the report.")]
Resamples = Annotated[int, typer.Option(min=100, help="Bootstrap samples of the intervals.")]


def evaluate_classification(
    predictions: Predictions,
    reference: References,
    out: Out,
    name: Name = "",
    positive: Annotated[
        str, typer.Option(help="The class that PRED's one column of scores is for.", show_default=False)
    ] = "",
    threshold: Annotated[float | None, typer.Option(help="Scores from here on are a yes.", show_default="0.5")] = None,
    sensitivity: Annotated[
        float | None, typer.Option(help="Choose the threshold that reaches this sensitivity.")
    ] = None,
    specificity: Annotated[
        float | None, typer.Option(help="Choose the threshold that reaches this specificity.")
    ] = None,
    tuning: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="PRED REF", help="Tables to choose the threshold on: validation images, not these."),
    ] = None,
    subgroups: Annotated[str, typer.Option(help="Columns of REF to compare within: site,sex.")] = "",
    images: Images = None,
    resamples: Resamples = 2000,
) -> None:
    """Score a classifier of images: AUROC, AUPRC, rates at an operating point, calibration, with patient intervals.

    PRED is a CSV with a column case (or image) and one a class with its score, headed p_<class> or by the class; or
    one column score. REF is a CSV with case, label (several classes joined by |) and perhaps patient; its other columns
    are attributes. OUT gets cases.csv, summary.json and report.html. Rows that cannot be scored are named, and the exit
    status is 1.

    [bold]Examples[/]

      medseg3d evaluate-classification scores.csv truth.csv --out results/xray --positive Pneumonia

      medseg3d evaluate-classification test.csv truth.csv -o results/xray --sensitivity 0.95 --tuning val.csv truth.csv

      medseg3d evaluate-classification scores.csv truth.csv -o results/xray --subgroups site,sex --images xrays/
    """
    from medseg3d.evaluation.classification import OperatingPoint
    from medseg3d.evaluation.classification import evaluate_classification as evaluate

    _require_one(tuning, threshold=threshold, sensitivity=sensitivity, specificity=specificity)
    # Where nothing is stated and nothing given to choose on, 0.5; given tuning images alone, Youden's rule.
    default = 0.5 if (threshold, sensitivity, specificity, tuning) == (None,) * 4 else threshold
    point = OperatingPoint(threshold=default, sensitivity=sensitivity, specificity=specificity, tuning=tuning)
    summary = evaluate(
        predictions,
        reference,
        out,
        name=name or predictions.stem,
        positive=positive or None,
        operating_point=point,
        subgroups=[column.strip() for column in subgroups.split(",") if column.strip()],
        images=images,
        resamples=resamples,
    )
    columns = {"auroc": "AUROC", "auprc": "AUPRC", "sensitivity": "sensitivity", "specificity": "specificity"}
    _finish(summary, out, columns, caption=f"Rates at {summary['operating_point']}")


def evaluate_detection(
    predictions: Predictions,
    reference: References,
    out: Out,
    name: Name = "",
    threshold: Annotated[float, typer.Option(help="Score from which a box counts where boxes are counted.")] = 0.5,
    iou: Annotated[float, typer.Option(help="Overlap from which a box is a hit, for counts and FROC.")] = 0.5,
    images: Images = None,
    resamples: Resamples = 1000,
) -> None:
    """Score detected boxes: mAP@0.5 and @[.5:.95], FROC, precision and recall, counts, with intervals over patients.

    Both files are COCO's JSON: REF with images (perhaps with a patient), categories and annotations; PRED a list of
    image_id, category_id, bbox (x, y, width, height in pixels) and score. OUT gets cases.csv (a row an image and
    class), summary.json and report.html. Boxes that cannot be used are named, and the exit status is 1.

    [bold]Examples[/]

      medseg3d evaluate-detection boxes.json truth.json --out results/cells --images images/

      medseg3d evaluate-detection boxes.json truth.json -o results/cells --threshold 0.35 --iou 0.3
    """
    from medseg3d.evaluation.detection import evaluate_detection as evaluate

    summary = evaluate(
        predictions,
        reference,
        out,
        name=name or predictions.stem,
        threshold=threshold,
        iou=iou,
        images=images,
        resamples=resamples,
    )
    columns = {"ap50": "AP@0.5", "ap": "AP@[.5:.95]", "precision": "precision", "sensitivity": "sensitivity"}
    _finish(summary, out, columns, caption=f"Precision and sensitivity at a score of {threshold:g}")


def score_listed_masks(
    predictions: Path,
    reference: Path,
    out: Path,
    console: Console,
    *,
    fold: int | None,
    tolerance: str,
    for_volumes: Mapping[str, object],
    **options: Any,
) -> Summary:
    """Score masks of 2D images against those of their list, for ``medseg3d evaluate``.

    Args:
        for_volumes: options that were given, by name, and do not apply to images.
    """
    from medseg3d.cli.progress import progress_bar
    from medseg3d.errors import UsageError
    from medseg3d.evaluation.masks2d import choose_items, score_masks2d
    from medseg3d.evaluation.options import parse_tolerance
    from medseg3d.images import read_image_list

    given = [f"--{name}" for name, value in for_volumes.items() if value]
    if given:
        raise UsageError(
            f"{reference} is a list of 2D images: leave out {', '.join(given)}, which is for volumes or in the list."
        )
    images = read_image_list(reference)
    inner = predictions / "evaluation"
    folder = inner if (predictions / "run.json").is_file() and inner.is_dir() else predictions
    items, part = choose_items(images, folder, fold=fold)
    console.print(f"Evaluating {escape(part)} of {escape(str(reference))}: {len(items)} images.")
    with progress_bar(console, "Scoring images") as progress:
        return score_masks2d(
            items,
            folder,
            labels=images.labels,
            multi_label=images.multi_label,
            output_dir=out.absolute(),
            tolerance_mm=parse_tolerance(tolerance),
            split={"reference": str(reference), "part": part},
            progress=progress,
            **options,
        )


def _require_one(tuning: tuple[Path, Path] | None, **stated: float | None) -> None:
    from medseg3d.errors import UsageError

    given = [name for name, value in stated.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"--{' and --'.join(given)} contradict each other: state one.")
    if tuning is not None and "threshold" in given:
        raise UsageError("--tuning chooses the threshold, and --threshold states it: leave one out.")


def _finish(summary: Mapping[str, Any], out: Path, columns: Mapping[str, str], *, caption: str) -> None:
    """Problems, scores, and where the report lies; exit status 1 when something was left out."""
    from medseg3d.report.images import scope

    console = Console(highlight=False, soft_wrap=True)
    if summary["problems"]:
        console.print(_problem_table(summary["problems"]))
    console.print(_score_table(summary, columns, caption))
    console.print(f"{scope(summary)} Report: {escape(str(out))}/report.html")
    if summary["problems"]:
        raise typer.Exit(1)


def _problem_table(problems: list[Mapping[str, str]]) -> Table:
    table = Table("case", "code", "what", title="Problems", title_justify="left")
    for problem in problems[:SHOWN_PROBLEMS]:
        table.add_row(*(escape(problem[key]) for key in ("case", "code", "message")))
    if len(problems) > SHOWN_PROBLEMS:
        table.add_row(f"{len(problems) - SHOWN_PROBLEMS} more", "", "summary.json names all of them.")
    return table


def _score_table(summary: Mapping[str, Any], columns: Mapping[str, str], caption: str) -> Table:
    table = Table("class", *columns.values(), title="Scores, with 95 % intervals over patients", title_justify="left")
    for label, content in summary["labels"].items():
        table.add_row(escape(label), *(_cell(content["metrics"][metric]) for metric in columns))
    headline = summary["headline"]
    what = {"auroc": "AUROC", "map50": "mAP@0.5"}[headline["metric"]]
    table.caption, table.caption_justify = f"{what}: {_cell(headline)}. {caption}.", "left"
    return table


def _cell(number: Mapping[str, Any]) -> str:
    if number["value"] is None:
        return "–"
    bounds = number["interval"]
    return f"{number['value']:.3f}" + (f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else "")
