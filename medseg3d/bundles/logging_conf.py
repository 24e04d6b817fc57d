"""``logging.conf``: Python evaluates the class and the arguments of every handler in it."""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

from medseg3d.bundles.problems import Problem

__all__ = ["check_logging_conf"]

PLAIN_CLASSES = frozenset(
    {"StreamHandler", "logging.StreamHandler", "NullHandler", "logging.NullHandler", "FileHandler",
     "logging.FileHandler", "handlers.RotatingFileHandler", "logging.handlers.RotatingFileHandler",
     "handlers.TimedRotatingFileHandler", "logging.handlers.TimedRotatingFileHandler", "Formatter", "logging.Formatter"}
)  # fmt: skip
# "defaults" of a formatter: evaluated from Python 3.12 on.
EVALUATED = ("class", "args", "kwargs", "defaults")
STREAMS = frozenset({"sys.stdout", "sys.stderr"})
_REMEDY = "Python evaluates it as code: write a plain StreamHandler or FileHandler with literal arguments."


def check_logging_conf(path: Path, *, where: str) -> list[Problem]:
    """Handlers and formatters that are more than writing lines to the terminal or to a file beside the run."""
    # With interpolation, as logging.config reads it: "%(x)s" may put a class together out of pieces.
    parser = configparser.ConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        return [problem for section in parser.sections() for problem in _check_section(parser, section, where)]
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        what = f"cannot be read: {' '.join(str(error).split())}."
        return [Problem(where, what, "Copy the file of another bundle.")]


def _check_section(parser: configparser.ConfigParser, section: str, where: str) -> Iterator[Problem]:
    place = f"{where}: [{section}]"
    # Formats hold "%(message)s" and are taken as they are; nothing evaluates them.
    values = {key: parser.get(section, key) for key in EVALUATED if parser.has_option(section, key)}
    class_ = values.get("class", "").strip()
    if class_ and class_ not in PLAIN_CLASSES:
        if re.fullmatch(r"(logging\.)?(handlers\.)?[A-Z]\w*", class_):
            yield Problem(place, f"makes a {class_}.", "Read what it does before you trust it.", severity="review")
        else:
            yield Problem(place, f"class={class_!r} is no handler of Python's logging.", _REMEDY)
    for key in EVALUATED[1:]:
        text = values.get(key, "").strip()
        if text and not _is_literal(text):
            yield Problem(place, f"{key}={text!r} is more than literals.", _REMEDY)
        elif key == "args" and "FileHandler" in class_ and _leaves_the_run(text):
            what = f"writes its log to {text}, outside the current folder."
            yield Problem(place, what, "Give a file name without a folder.", severity="review")


def _is_literal(text: str) -> bool:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    allowed = (ast.Expression, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Load, ast.UnaryOp, ast.USub)
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    streams = all(ast.unparse(node) in STREAMS for node in attributes) and len(names) == len(attributes)
    rest = [node for node in ast.walk(tree) if not isinstance(node, (ast.Attribute, ast.Name))]
    return streams and all(isinstance(node, allowed) for node in rest)


def _leaves_the_run(text: str) -> bool:
    constants = [node.value for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Constant)]
    paths = [Path(value) for value in constants if isinstance(value, str)]
    return any(path.is_absolute() or ".." in path.parts for path in paths)
