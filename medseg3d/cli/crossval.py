"""``medseg3d crossval``: from a planned study to one bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from medseg3d.crossval import CrossValidation

__all__ = ["crossval"]

LOG_WIDTH = 150
"""A log file has no width of its own; tables in it get this many characters."""


class _Precision(StrEnum):
    half = "half"
    full = "full"


def crossval(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="The folder that `medseg3d plan` made.", show_default=False)
    ],
    configuration: Annotated[
        list[str] | None,
        typer.Option(help="Only this plan (3d, 2d, lowres, cascade); may be repeated.", show_default="all"),
    ] = None,
    folds: Annotated[str, typer.Option(help="Only these folds: 0,1.", show_default="all of the data list")] = "",
    bundle: Annotated[
        str, typer.Option(help="Name or folder of the bundle.", show_default="the one that was planned for")
    ] = "",
    jobs: Annotated[
        int, typer.Option(min=0, help="Trainings at a time, one a GPU; 0: as many as there are GPUs, or one.")
    ] = 0,
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Train what is not finished, or take the weights that are there.")
    ] = True,
    mirror: Annotated[bool, typer.Option("--mirror/--no-mirror", help="Also try averaging over mirror images.")] = True,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Write uncertainty maps of the held-out cases.")
    ] = False,
    precision: Annotated[
        _Precision, typer.Option(help="Of the weights in the bundle; half takes half the space.")
    ] = _Precision.half,
    device: Annotated[
        str | None, typer.Option(help="Where to predict: cpu, cuda.", show_default="cuda if there is one")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that score; 0 takes one a CPU core.")] = 0,
    trust: Annotated[
        bool, typer.Option("--trust", help="Use a bundle even if it holds code that `medseg3d bundle check` shows.")
    ] = False,
) -> None:
    """Train all folds of a study, choose what works on held-out cases, and pack it as one bundle.

    Every fold of every plan is trained in a process of its own (its log is
    STUDY/<plan>/fold<k>/train.log); those of the cascade last, with masks of all
    cases by the low-resolution networks that have not seen them. Then each case is segmented by the networks
    that have not seen it; on these masks are chosen: the plan or ensemble of
    plans, mirroring, and corrections of each label, or region (largest
    component, smallest volume, hole filling). Probabilities are calibrated, and
    the confidence of a case is compared with its Dice.

    Interrupted at any point, the same command goes on: finished folds and cases
    are recognised. A folder that holds a training of other cases or another
    plan is refused.

    Results: STUDY/crossval/report.html (what was tried and chosen),
    STUDY/crossval/evaluation/ (scores of every case),
    STUDY/crossval/predictions/ (masks), and STUDY/bundle/, which `medseg3d
    segment` and `python -m monai.bundle run` take. Of a set of test cases, the
    bundle averages all folds.

    [bold]Examples[/]

      medseg3d crossval study/

      medseg3d crossval study/ --jobs 4

      medseg3d crossval study/ --configuration 3d --folds 0,1 --no-train

      medseg3d segment study/dataset.json masks/ --bundle study/bundle
    """
    from medseg3d.bundles import require_trust
    from medseg3d.cli.progress import progress_bar
    from medseg3d.crossval import cross_validate, read_study

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    devices = _gpus()
    read = read_study(study, configurations=configuration or (), folds=_numbers(folds), bundle=bundle)
    if not trust:
        plans = [configuration.plan for configuration in read.configurations]
        require_trust(read.bundle, plans, own_weights=False)
    found = cross_validate(
        read,
        train=train,
        jobs=jobs or max(1, len(devices)),
        devices=devices,
        device=device,
        mirror=mirror,
        uncertainty=uncertainty,
        float16=precision is _Precision.half,
        workers=workers,
        bar=lambda description: progress_bar(console, description),
    )
    _print(found, console)


def _numbers(text: str) -> list[int]:
    from medseg3d.errors import UsageError

    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"--folds {text!r} cannot be read: write numbers with commas, as in 0,1.") from error


def _gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` may be for one process each."""
    import os

    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in visible.split(",") if name]
    return names[: torch.cuda.device_count()] or [str(number) for number in range(torch.cuda.device_count())]


def _print(found: CrossValidation, console: Console) -> None:
    table = Table("candidate", title="Out of fold, before corrections", title_justify="left")
    for heading in ("mean Dice", *found.chosen.dice, "passes"):
        table.add_column(escape(heading), justify="right")
    for score in sorted(found.scores, key=lambda s: -s.mean_dice):
        mark = "[bold green]" if score is found.chosen else ""
        values = [f"{value:.4f}" for value in (score.mean_dice, *score.dice.values())]
        table.add_row(f"{mark}{escape(score.candidate.name)}", *values, str(score.passes))
    console.print(table)
    for trial in found.trials:
        if trial.taken:
            size = "" if trial.correction.min_volume_ml is None else f" {trial.correction.min_volume_ml:g} ml"
            change = f"Dice {trial.before:.4f} → {trial.after:.4f}"
            cases = f"better in {len(trial.better)} cases, worse in {len(trial.worse)}"
            console.print(
                f"Correction of {escape(trial.correction.structure)}: {trial.correction.kind}{size}, {change}, {cases}"
            )
    if not any(trial.taken for trial in found.trials):
        console.print("No correction of the masks helps: none is taken.")
    before, after = found.calibrated.mean_ece
    console.print(
        f"Temperature {found.calibrated.temperature:.3f}: calibration error (ECE) {before:.4f} → {after:.4f}; entropy "
        f"finds wrong voxels with AUROC {found.calibrated.error_auroc:.3f}"
    )
    console.print(
        f"Confidence of a case and its Dice: rank correlation {found.confidence.rank_correlation:.3f} "
        f"(p {found.confidence.p_value:.2g}), AUROC for the "
        f"worst fifth {found.confidence.poor_auroc:.3f}"
    )
    dice = ", ".join(f"{escape(name)} {value:.4f}" for name, value in found.summary.dice.items())
    console.print(f"Chosen: {escape(found.chosen.candidate.name)}, mean Dice {found.summary.mean_dice:.4f} ({dice})")
    console.print(f"Report: {escape(str(found.report))}")
    console.print(f"Bundle: {escape(str(found.shipped.path))} ({len(found.shipped.weights)} networks, "
                  f"{found.shipped.megabytes:.1f} MiB)")  # fmt: skip
