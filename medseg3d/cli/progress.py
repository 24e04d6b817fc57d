"""Progress of long work: a bar in a terminal, lines in a log file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(console: Console, description: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with the number of things done and of all.

    A terminal shows a bar, which goes away at the end; a log file gets a line for every tenth of the work.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
                console.print(f"{description}: {done}/{total}", markup=False)

        yield show
