"""The first step of every run: ``$medseg3d.bundles.check_run()`` as the first item of ``initialize``."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from medseg3d.bundles.check import WORKFLOW_OPTIONS, check_merged, load
from medseg3d.bundles.data import check_data, check_device
from medseg3d.bundles.merge import META, SEPARATOR, Merged, merge
from medseg3d.bundles.problems import Problem, errors_in, summary, unique
from medseg3d.bundles.values import UNKNOWN
from medseg3d.errors import ConfigError, MedsegError, UsageError

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

__all__ = ["Run", "check_run", "current_run"]

_PATIENCE_SECONDS = 15.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The workflow that is being initialised, and how it was started.

    ``config_files`` is empty when it was made directly, ``ConfigWorkflow(...)``: it does not keep their names.
    """

    workflow: ConfigWorkflow
    config_files: tuple[Path, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def check_run() -> None:
    """Check the run that is about to start; log what looks wrong, and stop it when something is.

    Called by an expression in a bundle's ``initialize``. It finds the workflow that evaluates it on the call stack:

    - ``python -m monai.bundle run`` and ``monai.bundle.run(...)`` go through ``create_workflow``, whose frame holds the
      files and the overrides as they were typed (those of an ``args_file`` included).
    - ``ConfigWorkflow(config_file=..., **overrides).initialize()`` keeps only the merged result. It is compared with
      the file of the configuration folder that has most ids in common; an id that this file does not define and
      nothing refers to counts as misspelt.

    Of the processes that ``torchrun`` starts all check, and the first one says what it finds.

    Raises:
        ConfigError: one message with a line a problem. MONAI wraps it in a ``RuntimeError``, whose ``__cause__`` it is.
        SystemExit: instead, when the program is ``python -m monai.bundle`` (torchrun included), so that the message
            is the last thing in the terminal and not the middle of a traceback; the exit status is 2.
        UsageError: called outside a workflow.
    """
    run = current_run()
    if _is_monai_bundle():
        sys.excepthook = _show_plainly
    if not _is_first_process():
        logging.disable(logging.WARNING)
    problems = _check(run)
    errors = errors_in(problems)
    for problem in problems:
        if problem not in errors:
            logger.warning("%s", problem)
    if errors:
        _refuse(ConfigError(summary(errors)))


def _check(run: Run) -> list[Problem]:
    merged, problems = _merged(run)
    values = _RunValues(run.workflow)
    problems += check_merged(merged, values)
    problems += check_device(merged, values)
    problems += check_data(merged, values)
    if not errors_in(problems):
        problems += [Problem(merged.where(id_), f"cannot be evaluated: {why}.") for id_, why in values.failed.items()]
    return unique(problems)


def _is_monai_bundle() -> bool:
    """Whether the program is ``python -m monai.bundle`` (torchrun included)."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    return specification is not None and specification.name == "monai.bundle.__main__"


def _is_first_process() -> bool:
    """Whether this is the only process, or the first of those that ``torchrun`` has started."""
    return os.environ.get("RANK", "0") == "0"


def _show_plainly(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """As ``sys.excepthook``: of an error meant for the user, which MONAI has wrapped, the message alone."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MedsegError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        _say(cause)


def _say(error: BaseException) -> None:
    """Write the message, of several processes with the same one once.

    ``torchrun`` ends all processes as soon as one has failed: the others leave the first one time to say what is wrong,
    and speak when they are still there, since it is wrong for them alone.
    """
    if not _is_first_process():
        time.sleep(_PATIENCE_SECONDS)
    sys.stdout.flush()
    sys.stderr.write(f"\nerror: {error}\n")
    sys.stderr.flush()


def _refuse(error: ConfigError) -> None:
    if _is_monai_bundle():
        _say(error)
        raise SystemExit(error.exit_status)
    raise error


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def current_run() -> Run:
    """The MONAI workflow on the call stack.

    Raises:
        UsageError: there is none.
    """
    from monai.bundle import ConfigWorkflow
    from monai.bundle.scripts import create_workflow

    workflow = None
    for frame in _frames():
        if workflow is None and isinstance(frame.f_locals.get("self"), ConfigWorkflow):
            workflow = frame.f_locals["self"]
        if workflow is not None and frame.f_code is create_workflow.__code__:
            files, options = frame.f_locals.get("config_file"), frame.f_locals.get("_args", {})
            return Run(workflow, _as_paths(files), dict(options))
    if workflow is None:
        raise UsageError(
            "check_run() checks the MONAI workflow that calls it, and none does. Put '$medseg3d.bundles.check_run()' "
            "first into initialize, or check files with `medseg3d bundle check`."
        )
    return Run(workflow)


def _as_paths(files: str | Path | Sequence[str | Path] | None) -> tuple[Path, ...]:
    """One file, a list, or names separated by commas: the spellings that MONAI takes."""
    if files is None:
        return ()
    if isinstance(files, str) and not Path(files).is_file() and "," in files:
        files = files.split(",")
    return tuple(map(Path, [files] if isinstance(files, (str, Path)) else files))


def _merged(run: Run) -> tuple[Merged, list[Problem]]:
    if not run.config_files:
        return _compared_with_nearest_file(run.workflow), []
    overrides = {key: value for key, value in run.options.items() if key not in WORKFLOW_OPTIONS}
    logging_file = run.options.get("logging_file")
    return load(run.config_files, overrides, meta_file=run.options.get("meta_file"), logging_file=logging_file)


def _compared_with_nearest_file(workflow: ConfigWorkflow) -> Merged:
    """The workflow's own configuration, as if it were a later file over the one it most resembles."""
    config = dict(workflow.parser.get())
    root = Path(workflow.config_root_path)
    files = [path for pattern in ("*.yaml", "*.yml", "*.json") for path in sorted(root.glob(pattern))]
    bases = [merge([path]) for path in files if path.name != "metadata.json"]
    base = max(bases, key=lambda merged: len(merged.config.keys() & config.keys()), default=Merged())
    added = list(_added("", base.config, config)) if base.config else []
    changed = {key: "override" for key, value in config.items() if key != META and base.config.get(key) != value}
    origins = dict.fromkeys(base.config, base.base) | changed | {META: "configs/metadata.json"}
    return Merged(config, base=base.base, origins=origins, added=added)


def _added(id_: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key, value in new.items():
        child = f"{id_}{SEPARATOR}{key}" if id_ else str(key)
        if key not in old:
            yield child
        elif isinstance(value, dict) and isinstance(old[key], dict) and _is_section(old[key]):
            yield from _added(child, old[key], value)


def _is_section(value: Mapping[str, Any]) -> bool:
    """Whether a mapping holds components: it is not one itself, nor plain data such as labels."""
    return "_target_" not in value and any(isinstance(v, (dict, list)) for v in value.values())


class _RunValues:
    """Values as the run will see them: expressions are evaluated, as the run is about to do anyway.

    A parser of its own, so that the workflow's own objects are made when it asks for them and not before.

    Attributes:
        failed: id → reason, for every id whose evaluation raised.
    """

    def __init__(self, workflow: ConfigWorkflow) -> None:
        from monai.bundle import ConfigParser

        self._parser = ConfigParser(dict(workflow.parser.get()))
        self.failed: dict[str, str] = {}

    def get(self, id_: str) -> Any:
        """The value of ``id_``; UNKNOWN when it does not exist or raises."""
        if id_ not in self._parser:
            return UNKNOWN
        try:
            return self._parser.get_parsed_content(id_)
        except (RuntimeError, ValueError, KeyError, SyntaxError, ImportError) as error:
            # MONAI wraps whatever an expression raises in a RuntimeError.
            cause = error.__cause__ or error
            self.failed[id_] = f"{type(cause).__name__}: {cause}"
            return UNKNOWN
