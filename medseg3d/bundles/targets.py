"""Compare each ``_target_`` of a configuration with the class or function it names.

Only targets of libraries that medseg3d itself depends on are looked up (importing them runs nothing of the bundle).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from medseg3d.bundles.merge import META, SEPARATOR, Merged, iterate_ids
from medseg3d.bundles.problems import Problem, did_you_mean, nearest

__all__ = ["SPECIAL_KEYS", "Target", "check_targets", "find_target", "missing_attribute"]

KNOWN_PACKAGES = ("monai", "torch", "medseg3d", "torchio", "ignite")
SPECIAL_KEYS = frozenset({"_target_", "_disabled_", "_requires_", "_desc_", "_mode_", "_debug_"})
_KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Target:
    """A callable that a ``_target_`` names, or why there is none.

    Attributes:
        callable: None when the name is foreign (not looked up) or wrong.
        fault: what is wrong with the name, else "".
        remedy: the nearest right name, where there is one.
    """

    callable: Callable[..., Any] | None = None
    fault: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Arguments:
    """The keywords a callable takes.

    ``is_open``: it has ``**kwargs``, so that any keyword is accepted; ``passed_on`` are those of its base classes.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    defaults: Mapping[str, Any]
    is_open: bool
    passed_on: frozenset[str]


def check_targets(merged: Merged) -> list[Problem]:
    """Targets that do not exist, and keywords that they do not take or lack."""
    return [
        problem
        for id_, item in iterate_ids(merged.config)
        if isinstance(item, Mapping) and "_target_" in item and not id_.startswith(META)
        for problem in _check_component(merged, id_, item)
    ]


def find_target(name: Any) -> Target:
    """The callable that MONAI would call for ``_target_: name``; a bare name is one of MONAI's own components."""
    if not isinstance(name, str) or name.startswith(("$", "@", "%")):
        return Target()
    return _find(name)


@cache
def arguments(callable_: Callable[..., Any]) -> Arguments | None:
    """The keywords of ``callable_``; None when Python cannot tell (some compiled functions)."""
    try:
        parameters = inspect.signature(callable_).parameters.values()
    except (TypeError, ValueError):
        return None
    named = [parameter for parameter in parameters if parameter.kind in _KEYWORDS]
    is_open = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    return Arguments(
        names=tuple(parameter.name for parameter in named),
        required=tuple(parameter.name for parameter in named if parameter.default is inspect.Parameter.empty),
        defaults={p.name: p.default for p in named if p.default is not inspect.Parameter.empty},
        is_open=is_open,
        passed_on=_base_keywords(callable_) if is_open else frozenset(),
    )


def _base_keywords(callable_: Callable[..., Any]) -> frozenset[str]:
    if not inspect.isclass(callable_):
        return frozenset()
    names: set[str] = set()
    for base in callable_.__mro__[1:-1]:
        try:
            names.update(inspect.signature(base).parameters)
        except (TypeError, ValueError):
            continue
    return frozenset(names - {"args", "kwargs"})


def _check_component(merged: Merged, id_: str, item: Mapping[Any, Any]) -> Iterator[Problem]:
    target = find_target(item["_target_"])
    if target.fault:
        yield Problem(merged.where(f"{id_}{SEPARATOR}_target_"), target.fault, target.remedy)
    if target.callable is None:
        return
    accepted = arguments(target.callable)
    if accepted is None:
        return
    name = str(item["_target_"]).rpartition(".")[2]
    given = [str(key) for key in item if key not in SPECIAL_KEYS]
    for key in given:
        yield from _check_keyword(merged.where(f"{id_}{SEPARATOR}{key}"), name, key, accepted)
    missing = [required for required in accepted.required if required not in given]
    # With _mode_ MONAI makes a partial, whose caller may give the rest.
    if missing and "_mode_" not in item:
        yield Problem(merged.where(id_), f"{name} needs {', '.join(map(repr, missing))}.", "Add it below the _target_.")


def _check_keyword(where: str, name: str, key: str, accepted: Arguments) -> Iterator[Problem]:
    if key in accepted.names or key in accepted.passed_on:
        return
    if not accepted.is_open:
        candidates = [*accepted.names, *SPECIAL_KEYS]
        otherwise = f"It takes {', '.join(accepted.names) or 'none'}."
        remedy = did_you_mean(key, candidates, otherwise=otherwise)
        yield Problem(where, f"{name} has no argument {key!r}.", remedy)
        return
    near = nearest(key, [*accepted.names, *accepted.passed_on], cutoff=0.8)
    if near:
        what = f"{name} takes any keyword, but {key!r} looks misspelt."
        yield Problem(where, what, f"Did you mean {near!r}?", severity="warning")


def missing_attribute(dotted: str) -> tuple[str, str] | None:
    """The first part of ``package.module.name`` that its module does not have, and a remedy; None when all is well.

    Only modules of the known packages are looked into: what lies in a class or object, a run can tell.
    """
    parts = dotted.split(".")
    if parts[0] not in KNOWN_PACKAGES:
        return None
    item: Any = None
    for depth, part in enumerate(parts, start=1):
        if item is not None and not inspect.ismodule(item):
            return None
        path = ".".join(parts[:depth])
        try:
            item = _step(item, part, path)
        except ModuleNotFoundError as error:
            return (path, did_you_mean(part, _public_names(item))) if error.name == path else None
        except (ImportError, OSError, RuntimeError):
            return None
    return None


@cache
def _find(name: str) -> Target:
    if "." not in name:
        return _find_component(name)
    if name.partition(".")[0] not in KNOWN_PACKAGES:
        return Target()
    return _find_dotted(name)


def _find_component(name: str) -> Target:
    """MONAI looks a bare name up among the classes and functions of all its modules."""
    from monai.bundle import ComponentLocator

    module = ComponentLocator().get_component_module_name(name)
    if module:
        return _find_dotted(f"{module[0] if isinstance(module, list) else module}.{name}")
    modules = [module for key, module in sys.modules.items() if key.startswith("monai.")]
    names = {name for module in modules for name, value in vars(module).items() if callable(value)}
    remedy = did_you_mean(name, names, otherwise="Give the full path, package.module.Name.")
    return Target(fault=f"MONAI has no component {name!r}.", remedy=remedy)


def _find_dotted(name: str) -> Target:
    parts = name.split(".")
    item: Any = None
    for depth, part in enumerate(parts, start=1):
        path = ".".join(parts[:depth])
        try:
            item = _step(item, part, path)
        except ModuleNotFoundError as error:
            parent = ".".join(parts[: depth - 1])
            if error.name != path:
                return Target(fault=f"{path} cannot be imported: {error}.", remedy="Install what it needs.")
            remedy = did_you_mean(part, _public_names(item), otherwise="Check the name in the library's documentation.")
            return Target(fault=f"{name!r}: {parent} has no {part!r}.", remedy=remedy)
        except (ImportError, OSError, RuntimeError) as error:
            return Target(fault=f"{path} cannot be imported: {error}.", remedy="Check the installation.")
    if not callable(item):
        return Target(fault=f"{name!r} is a {type(item).__name__}, not a class or function.")
    return Target(callable=item)


def _step(item: Any, part: str, path: str) -> Any:
    """Attribute ``part`` of ``item``, or the module at ``path``.

    Raises:
        ModuleNotFoundError: with ``name == path`` when there is neither.
    """
    if item is not None and hasattr(item, part):
        return getattr(item, part)
    if item is None or inspect.ismodule(item):
        return import_module(path)
    raise ModuleNotFoundError(f"no {path}", name=path)


def _public_names(item: Any) -> list[str]:
    from pkgutil import iter_modules

    submodules = [module.name for module in iter_modules(getattr(item, "__path__", []))]
    return [name for name in {*dir(item), *submodules} if not name.startswith("_")]
