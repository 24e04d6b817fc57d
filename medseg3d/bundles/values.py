"""The value of an id without running anything: literals, references, and arithmetic on them.

``$len(@labels) + 1`` is worked out here by a small interpreter over the syntax tree; whatever it does not know is
:data:`UNKNOWN`, and a check that needs it stays silent.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from medseg3d.bundles.merge import SEPARATOR, lookup

__all__ = ["UNKNOWN", "StaticValues", "Values"]


class _Unknown:
    """Stands for a value that only a run can tell."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()
_ABSENT = object()
_MAX_DEPTH = 50

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_CALLS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (len, max, min, sum, abs, int, float, str, list, tuple, sorted, dict, set)
}
_METHODS = frozenset({"keys", "values", "items"})


class Values(Protocol):
    """Where a check gets values from: the files alone, or a running workflow."""

    def get(self, id_: str) -> Any:
        """The value of ``id_``; UNKNOWN when it does not exist or cannot be told."""


class StaticValues:
    """Values that a configuration gives without being run.

    >>> StaticValues({"labels": {"liver": 1}, "net": {"out_channels": "$len(@labels) + 1"}}).get("net::out_channels")
    2
    >>> StaticValues({"device": "$torch.device('cpu')"}).get("device")
    UNKNOWN
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def get(self, id_: str) -> Any:
        """The value of ``id_``, or UNKNOWN."""
        return self._resolve(lookup(self._config, id_, _ABSENT), 0)

    def _resolve(self, item: Any, depth: int) -> Any:
        if item is _ABSENT or depth > _MAX_DEPTH:
            return UNKNOWN
        if isinstance(item, Mapping):
            if "_target_" in item:
                return UNKNOWN
            return _known({key: self._resolve(value, depth + 1) for key, value in item.items()})
        if isinstance(item, list):
            return _known([self._resolve(value, depth + 1) for value in item])
        if isinstance(item, str) and item.startswith("@"):
            return self._reference(item[1:].replace("#", SEPARATOR), depth)
        if isinstance(item, str) and item.startswith("$"):
            return self._expression(item[1:], depth)
        return item

    def _reference(self, id_: str, depth: int) -> Any:
        return self._resolve(lookup(self._config, id_, _ABSENT), depth + 1)

    def _expression(self, text: str, depth: int) -> Any:
        from monai.bundle import ReferenceResolver

        names: dict[str, str] = {}

        def stand_in(match: Any) -> str:
            name = f"__ref_{len(names)}"
            names[name] = match.group()[1:]
            return name

        try:
            tree = ast.parse(
                ReferenceResolver.id_matcher.sub(stand_in, ReferenceResolver.normalize_id(text)), mode="eval"
            )
        except SyntaxError:
            return UNKNOWN
        values = {name: self._reference(id_, depth) for name, id_ in names.items()}
        try:
            return _interpret(tree.body, values)
        except (TypeError, ValueError, KeyError, IndexError, ArithmeticError):
            # Wrong types or a division by zero: the run will say so better than a guess here.
            return UNKNOWN


def _known(container: Any) -> Any:
    """``container``, or UNKNOWN when something in it is: half a list of channels is no list to compare with."""
    items = container.values() if isinstance(container, dict) else container
    return UNKNOWN if any(item is UNKNOWN for item in items) else container


def _interpret(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names.get(node.id, UNKNOWN)
        case ast.List() | ast.Tuple():
            return _known([_interpret(item, names) for item in node.elts])
        case ast.BinOp():
            return _binary(node.op, _interpret(node.left, names), _interpret(node.right, names))
        case ast.UnaryOp(op=ast.USub()):
            operand = _interpret(node.operand, names)
            return UNKNOWN if operand is UNKNOWN else -operand
        case ast.Subscript():
            container, key = _interpret(node.value, names), _interpret(node.slice, names)
            return UNKNOWN if UNKNOWN in (container, key) else container[key]
        case ast.Call(keywords=[]):
            return _call(node, names)
        case _:
            return UNKNOWN


def _binary(operation: ast.operator, left: Any, right: Any) -> Any:
    function = _BINARY.get(type(operation))
    if function is None or left is UNKNOWN or right is UNKNOWN:
        return UNKNOWN
    # "[0] * 10**9" must not fill the memory of a check.
    if isinstance(operation, ast.Mult) and not all(isinstance(side, (int, float)) for side in (left, right)):
        return UNKNOWN
    return function(left, right)


def _call(node: ast.Call, names: Mapping[str, Any]) -> Any:
    arguments = [_interpret(argument, names) for argument in node.args]
    if any(argument is UNKNOWN for argument in arguments):
        return UNKNOWN
    match node.func:
        case ast.Name(id=name) if name in _CALLS:
            return _CALLS[name](*arguments)
        case ast.Attribute(value=owner, attr=method) if method in _METHODS and not arguments:
            mapping = _interpret(owner, names)
            return list(getattr(mapping, method)()) if isinstance(mapping, dict) else UNKNOWN
        case _:
            return UNKNOWN
