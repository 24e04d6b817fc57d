"""``medseg3d demo``: the whole way on synthetic data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["demo"]


def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes; what is there is used again.")] = Path("demo"),
    cases: Annotated[int, typer.Option(min=2, help="Synthetic cases to train on.")] = 32,
    test_cases: Annotated[int, typer.Option(min=1, help="Unseen cases to segment.")] = 6,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training.")] = 20,
    iterations_per_epoch: Annotated[int, typer.Option(min=1, help="Iterations an epoch.")] = 100,
    size: Annotated[tuple[int, int, int], typer.Option(help="Voxels of a case.", metavar="X Y Z")] = (128, 128, 64),
    seed: Annotated[int, typer.Option(min=0, help="Of data and training.")] = 0,
) -> None:
    """Train on synthetic CT and segment unseen cases: a few minutes on two CPU cores.

    CT series with contours → images and labels → check → training by MONAI's bundle runner → masks of unseen series
    as NIfTI, DICOM SEG and RTSTRUCT → Dice per organ, a report and a picture.
    Interrupted, it goes on where it was; run again, it uses data and weights again.

    [bold]Examples[/]

      medseg3d demo

      medseg3d demo /tmp/demo --epochs 40
    """
    from medseg3d.demo import DemoPlan, run_demo

    console = Console(highlight=False, soft_wrap=True)
    start = time.monotonic()
    plan = DemoPlan(cases, test_cases, size, seed, epochs, iterations_per_epoch)
    result = run_demo(folder, plan, say=lambda line: console.print(f"\n[bold]{line}[/]"))
    table = Table("organ", "Dice", title=f"Unseen cases: {test_cases}", title_justify="left")
    for organ, dice in result.summary.dice.items():
        table.add_row(organ.replace("_", " "), f"{dice:.3f}")
    table.add_section()
    table.add_row("mean", f"{result.summary.mean_dice:.3f}")
    console.print(table)
    if result.reused:
        console.print(f"Reused: {', '.join(result.reused)}", markup=False)
    console.print(f"Took {time.monotonic() - start:.0f} s. Look at:", markup=False)
    console.print(f"  {result.masks}/  masks (NIfTI, SEG, RTSTRUCT), volumes (JSON), cases.csv", markup=False)
    console.print(f"  {result.masks / 'report.html'}  scores, cases and planes; opens offline", markup=False)
    console.print(f"  {result.picture}  image, truth and mask in three planes", markup=False)
    console.print(f"  {result.run}/  weights, metrics.csv; curves: tensorboard --logdir {result.run}", markup=False)
