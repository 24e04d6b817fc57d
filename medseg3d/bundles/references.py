"""References between ids: which exist, which go round in a circle, and what expressions name. Nothing is evaluated."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from medseg3d.bundles.merge import META, SEPARATOR, Merged, iterate_ids, lookup, nearest_id
from medseg3d.bundles.problems import Problem, did_you_mean
from medseg3d.bundles.reading import load_file
from medseg3d.bundles.targets import missing_attribute

__all__ = ["check_references", "referenced_ids", "resolve_macros"]

# Names that MONAI puts into every expression.
_MONAI_GLOBALS = frozenset({"monai", "torch", "np", "numpy", "__local_refs"})
_FREE_TEXT = frozenset({"_desc_"})


def resolve_macros(merged: Merged) -> None:
    """Replace relative ids (``@::x``) and macros (``%id``, ``%file.yaml::id``), as MONAI does before parsing."""
    merged.config = _resolve(merged, merged.config, "")


def _resolve(merged: Merged, item: Any, id_: str) -> Any:
    from monai.bundle import ConfigParser

    if isinstance(item, dict):
        return {
            key: _resolve(merged, value, f"{id_}{SEPARATOR}{key}" if id_ else str(key)) for key, value in item.items()
        }
    if isinstance(item, list):
        return [_resolve(merged, value, f"{id_}{SEPARATOR}{index}") for index, value in enumerate(item)]
    if not isinstance(item, str) or not item.startswith(("@", "$", "%")):
        return item
    try:
        text: str = ConfigParser.resolve_relative_ids(id_, item)
    except ValueError:
        merged.report(id_, f"the relative reference in {item!r} goes above the top of the configuration.")
        return item
    return _expand_macro(merged, id_, text) if text.startswith("%") else text


def _expand_macro(merged: Merged, id_: str, text: str) -> Any:
    from monai.bundle import ConfigParser

    path, target = ConfigParser.split_path_id(text[1:])
    source: Any = merged.config
    if path:
        unreadable: list[Problem] = []
        source = load_file(Path(path), unreadable)
        if unreadable:
            remedy = "The path of a % macro is taken from the current folder: give a full path."
            merged.report(id_, f"{text!r} names {path!r}: {unreadable[0].what}", remedy)
            return text
    missing = object()
    value = lookup(source, target, missing)
    if value is missing:
        near = nearest_id(target, source)
        merged.report(
            id_, f"the macro {text!r} names an id that is not there.", f"Did you mean {near!r}?" if near else ""
        )
        return text
    return deepcopy(value)


def check_references(merged: Merged) -> list[Problem]:
    """Undefined references, circles, text that looks like a reference, and expressions that cannot be evaluated."""
    known = {id_ for id_, _ in iterate_ids(merged.config)}
    imported = _imported_names(merged.config)
    problems: list[Problem] = []
    for id_, text in _texts(merged.config):
        problems += _undefined(merged, id_, text, known)
        if text.startswith("$"):
            problems += _expression(merged, id_, text, imported)
        elif text.startswith("@") and not _references(text):
            remedy = "Write an expression: \"$@id + '/...'\"."
            problems.append(Problem(merged.where(id_), f"{text!r} is plain text to MONAI, not a reference.", remedy))
    return problems + _circles(merged, known)


def referenced_ids(config: dict[str, Any]) -> set[str]:
    """Every id that some reference names."""
    return {reference for _, text in _texts(config) for reference in _references(text)}


def _texts(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every id whose value is text that MONAI would look at; metadata and free descriptions are left out."""
    for id_, value in iterate_ids(config):
        is_meta = id_ == META or id_.startswith(META + SEPARATOR)
        if isinstance(value, str) and not is_meta and id_.rpartition(SEPARATOR)[2] not in _FREE_TEXT:
            yield id_, value


def _references(text: str) -> list[str]:
    from monai.bundle import ReferenceResolver

    return list(ReferenceResolver.match_refs_pattern(text))


def _undefined(merged: Merged, id_: str, text: str, known: set[str]) -> Iterator[Problem]:
    for reference in _references(text):
        if reference == "":
            what = f"the lone '@' in {text!r} refers to the whole configuration."
            yield Problem(merged.where(id_), what, "Write an id after it; for a matrix product use torch.matmul.")
        elif reference not in known:
            near = nearest_id(reference, merged.config)
            yield Problem(
                merged.where(id_),
                f"refers to '@{reference}', which is not defined.",
                f"Did you mean '@{near}'?" if near else "",
            )


def _circles(merged: Merged, known: set[str]) -> list[Problem]:
    """References that lead back to where they began, each circle once."""
    from monai.bundle import ReferenceResolver

    next_ids = {
        id_: [r for r in ReferenceResolver.find_refs_in_config(config=value, id=id_) if r in known]
        for id_, value in iterate_ids(merged.config)
        if id_ != META and not id_.startswith(META + SEPARATOR)
    }
    problems: list[Problem] = []
    done: set[str] = set()
    for start in next_ids:
        circle = _find_circle(start, next_ids, done)
        if circle:
            path = " → ".join(circle)
            what = f"references go round in a circle: {path}."
            problems.append(Problem(merged.where(circle[0]), what, "Give one of them a value of its own."))
    return problems


def _find_circle(start: str, next_ids: dict[str, list[str]], done: set[str]) -> list[str] | None:
    """Depth-first walk from ``start``; ids in ``done`` are known to lead to nothing new."""
    path: list[str] = []
    open_: set[str] = set()
    stack = [(start, False)]
    found: list[str] | None = None
    while stack:
        id_, is_leaving = stack.pop()
        if is_leaving:
            path.pop()
            open_.discard(id_)
            done.add(id_)
        elif id_ in open_:
            found = found or [*path[path.index(id_) :], id_]
        elif id_ not in done:
            path.append(id_)
            open_.add(id_)
            stack.append((id_, True))
            stack += [(other, False) for other in next_ids.get(id_, [])]
    return found


def _parse(expression: str) -> ast.Module:
    """The expression's syntax tree, with references replaced by MONAI's own stand-in."""
    from monai.bundle import ReferenceResolver

    return ast.parse(ReferenceResolver.id_matcher.sub("__local_refs", expression))


def _imported_names(config: dict[str, Any]) -> set[str]:
    """Names that ``$import ...`` items bring.

    MONAI binds ``import a.b`` to the name "a.b", which no expression can say.
    """
    names: set[str] = set()
    for _, text in _texts(config):
        if text.startswith("$") and "import" in text:
            try:
                tree = ast.parse(text[1:])
            except SyntaxError:
                continue
            for node in tree.body[:1]:
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    names.add(node.names[0].asname or node.names[0].name)
    return names


def _expression(merged: Merged, id_: str, text: str, imported: set[str]) -> Iterator[Problem]:
    try:
        tree = _parse(text[1:])
    except SyntaxError as error:
        yield Problem(merged.where(id_), f"{text!r} is not a Python expression: {error.msg}.")
        return
    if len(tree.body) == 1 and isinstance(tree.body[0], (ast.Import, ast.ImportFrom)):
        return
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        yield Problem(merged.where(id_), f"{text!r} is a statement; MONAI evaluates one expression.")
        return
    defined = imported | _MONAI_GLOBALS | set(dir(builtins))
    for name in sorted(_free_names(tree) - defined):
        dotted = next((known for known in imported if known.startswith(name + ".")), None)
        if dotted:
            remedy = f"MONAI binds '$import {dotted}' to no usable name: add '$import {name}' beside it."
        else:
            near = did_you_mean(name, imported | _MONAI_GLOBALS - {"__local_refs"})
            remedy = near or f"Add '$import {name}' to imports, or write '@{name}' for an id."
        yield Problem(merged.where(id_), f"the expression names {name!r}, which is not imported.", remedy)
    for dotted in _dotted_names(tree):
        missing = missing_attribute(dotted) if dotted.partition(".")[0] in imported | _MONAI_GLOBALS else None
        if missing:
            yield Problem(merged.where(id_), f"the expression names {missing[0]!r}, which does not exist.", missing[1])


def _dotted_names(tree: ast.Module) -> list[str]:
    """``a.b.c`` wherever it stands, the longest chains only."""
    chains = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_dotted(node)]
    return sorted({chain for chain in chains if not any(other.startswith(chain + ".") for other in chains)})


def _is_dotted(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _is_dotted(node.value))


def _free_names(tree: ast.Module) -> set[str]:
    """Names that are read and not bound inside the expression (by a comprehension, lambda or walrus)."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return {node.id for node in names if isinstance(node.ctx, ast.Load)} - bound
