"""Configuration files as they lie on disk: what is in them, and what problems call them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medseg3d.bundles.problems import Problem, did_you_mean
from medseg3d.errors import ConfigError

__all__ = ["load_file", "shown_path", "within_depth"]

MOST_LEVELS = 100  # of mappings and lists in each other; Python parses and MONAI walks a few hundred


def shown_path(path: Path, *, beside: Path | None = None) -> str:
    """What problems call a file: its path inside the bundle of ``beside`` (default: its own), or else as it was given.

    >>> shown_path(Path("downloads/spleen/configs/train.yaml")), shown_path(Path("study/plan.yaml"))
    ('configs/train.yaml', 'study/plan.yaml')
    """
    configs = (beside or path).parent
    if configs.name != "configs":
        return str(path)
    bundle = configs.resolve().parent
    # Without following a link at the end: a file that is linked into a bundle is known by its name there.
    file = path.parent.resolve() / path.name
    return file.relative_to(bundle).as_posix() if file.is_relative_to(bundle) else str(path)


def load_file(path: Path, problems: list[Problem], *, where: str | None = None) -> dict[Any, Any]:
    """One file's content, by MONAI's loader; what hinders it is noted and an empty dict returned.

    Problems of what it holds are reported under ``where`` (default: the path), with the line where there is one.

    Raises:
        ConfigError: it is nested without end, so that nothing can be said of what is in it.
    """
    import yaml
    from monai.bundle import ConfigParser

    where = where or str(path)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            content = within_depth(lambda: ConfigParser.load_config_file(path), where=where)
    except FileNotFoundError:
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        problems.append(
            Problem(str(path), "the file does not exist.", near or "Check the path and the current folder.")
        )
        return {}
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(str(path), f"the file cannot be read: {error}."))
        return {}
    except (yaml.YAMLError, json.JSONDecodeError, ValueError) as error:
        problems.append(Problem(where + _line_of(error), f"is not valid YAML or JSON: {_one_line(error)}."))
        return {}
    for warning in caught:
        if "Duplicate key" in str(warning.message):
            remedy = "The last one wins silently: keep one."
            problems.append(Problem(where, f"{_one_line(warning.message)} stands twice in one mapping.", remedy))
    if not isinstance(content, dict):
        problems.append(Problem(where, f"holds a {type(content).__name__}, not a mapping of ids to values."))
        return {}
    return content


def within_depth(load: Callable[[], Any], *, where: str) -> Any:
    """What ``load`` returns, unless it lies in itself, as aliases of YAML allow, or in 100 mappings and lists.

    Raises:
        ConfigError: it does.
    """
    try:
        content = load()
    except RecursionError as error:
        raise _too_deep(where) from error
    level: list[Any] = [content]
    for _ in range(MOST_LEVELS):
        # Each once: an alias may stand in many places.
        level = list({id(value): value for item in level for value in _within(item)}.values())
        if not level:
            return content
    raise _too_deep(where)


def _within(item: Any) -> list[Any]:
    values = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return [value for value in values if isinstance(value, dict | list)]


def _too_deep(where: str) -> ConfigError:
    return ConfigError(
        f"{where} is nested more than {MOST_LEVELS} levels deep, or in itself, and was not looked at. No configuration "
        "needs that: do not run it."
    )


def _line_of(error: Exception) -> str:
    """``", line 3"`` where a parser says it, counted from 1; else nothing."""
    mark = getattr(error, "problem_mark", None)  # of PyYAML, counted from 0
    line = getattr(error, "lineno", None) if mark is None else mark.line + 1
    return "" if line is None else f", line {line}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
