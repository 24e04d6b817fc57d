"""``medseg3d datalist``: make, check and split the list of a data set's cases."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(help="Make, check and split the list of a data set's cases.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps ``split`` a command of its own."""
