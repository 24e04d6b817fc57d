"""``medseg3d plan``: how to train a bundle on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from medseg3d.cli.progress import progress_bar

if TYPE_CHECKING:
    from medseg3d.plan import Plan

__all__ = ["plan", "plan_table"]


def plan(
    dataset: Annotated[Path, typer.Argument(help="Data list, or a dataset.json of MSD or nnU-Net.")],
    bundle: Annotated[str, typer.Option("--bundle", help="Name or folder of the bundle to train.")],
    study: Annotated[Path, typer.Option("--out", "-o", help="Folder of the study.")],
    memory: Annotated[str, typer.Option(help="Memory of the device that trains.")] = "8GB",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A value that wins: id=value, or 2d:id=value for one configuration. Repeat it."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Cases read at once; 0 takes one a CPU core.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Plan anew in a study that has runs.")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Use a bundle even if it holds code that `medseg3d bundle check` shows.")
    ] = False,
) -> None:
    """Measure a data set, and work out how to train a bundle on it.

    Every training case is read once (and again only when its files change). Spacing, normalisation, patch, batch,
    network, mirroring and tolerances follow from what they hold by stated rules, and from the memory that the network
    itself takes. plan.html shows every value with its reason; plan.yaml, plan_2d.yaml and, for large images,
    plan_lowres.yaml and plan_cascade.yaml are further files for --config_file; dataset.json is the list with folds.
    The same data give the same files.

    [bold]Examples[/]

      medseg3d plan datalist.json --bundle mri_hippocampus_segmentation -o study

      medseg3d plan datalist.json --bundle ct_organ_segmentation -o study --memory 24GB --set batch_size=4

      medseg3d plan datalist.json --bundle ct_organ_segmentation -o study --set spacing=[2,2,3] --set 2d:batch_size=16
    """
    from medseg3d.bundles import find_bundle, require_trust
    from medseg3d.datalist import read_datalist
    from medseg3d.plan import extract_fingerprint, make_plan, parse_memory, parse_overrides, read_template
    from medseg3d.plan.study import CACHE, check_study, write_study

    console = Console(highlight=False, soft_wrap=True)
    if not trust:  # its network is built, to measure it
        require_trust(find_bundle(bundle), own_weights=False)
    memory_gib, template, datalist = parse_memory(memory), read_template(bundle), read_datalist(dataset)
    overrides = parse_overrides(set_ or [], template)
    check_study(study, overwrite=overwrite)
    with progress_bar(console, "Reading cases") as progress:
        fingerprint = extract_fingerprint(datalist, cache=study / CACHE, workers=workers or None, progress=progress)
    with console.status("Measuring networks"):
        made = make_plan(fingerprint, template, memory_gib=memory_gib, overrides=overrides)
    write_study(study, datalist, fingerprint, made, template)
    console.print(plan_table(made))
    console.print(f"Recommended: {made.recommended}. {made.why_recommended}", markup=False)
    console.print(f"Every value with its reason: {study / 'plan.html'}", markup=False)


def plan_table(made: Plan) -> Table:
    """The configurations, a line each."""
    shown = ("spacing", "patch_size", "batch_size", "flip_axes")
    table = Table()
    for name in ("", "file", *(id_.replace("_", " ") for id_ in shown), "stages"):
        # In 80 columns headings and lists of numbers take two lines, rather than end in dots.
        table.add_column(name, no_wrap=name in ("", "file", "stages"))
    for name, configuration in made.configurations.items():
        values = configuration.overrides()
        network = values["network_def"]
        stages = len(network.get("network", network).get("strides", [])) if isinstance(network, dict) else 0
        cells = [_short(values.get(id_)) for id_ in shown]
        table.add_row(name, configuration.file, *cells, str(stages or ""))
    return table


def _short(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value) or "none"
    return "" if value is None else str(value)
