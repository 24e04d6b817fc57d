"""Work on many files in several processes, in order and with bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from medseg3d.errors import DicomError

__all__ = ["in_processes"]

Task = TypeVar("Task")
Result = TypeVar("Result")

# Tasks handed out a process at a time: enough to keep it busy, few enough to bound what waits in memory.
_TASKS_AHEAD = 4


def in_processes(function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int | None) -> Iterator[Result]:
    """``function`` of every task, in their order, by ``workers`` processes; one a core by default.

    Processes are forked, which Linux alone does safely: they share what is imported and start in milliseconds.
    Elsewhere, and in a daemon (a worker of PyTorch's ``DataLoader`` may have no children), this process does it all.

    Raises:
        DicomError: a process was killed.
    """
    workers = workers or os.cpu_count() or 1
    if workers == 1 or sys.platform != "linux" or multiprocessing.current_process().daemon:
        yield from map(function, tasks)
        return
    ahead = _TASKS_AHEAD * workers
    try:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
            for start in range(0, len(tasks), ahead):
                yield from pool.map(function, tasks[start : start + ahead])
    except BrokenProcessPool as error:
        raise DicomError(
            "A process that read files was killed: a damaged file, or too little memory. Try again with one worker."
        ) from error
