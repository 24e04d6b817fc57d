"""Configuration files as they lie on disk: what is in them, and what problems call them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from medseg3d.bundles.problems import Problem, did_you_mean

__all__ = ["load_file", "shown_path"]


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
    """
    import yaml
    from monai.bundle import ConfigParser

    where = where or str(path)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            content = ConfigParser.load_config_file(path)
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


def _line_of(error: Exception) -> str:
    """``", line 3"`` where a parser says it, counted from 1; else nothing."""
    mark = getattr(error, "problem_mark", None)  # of PyYAML, counted from 0
    line = getattr(error, "lineno", None) if mark is None else mark.line + 1
    return "" if line is None else f", line {line}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
