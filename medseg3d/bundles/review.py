"""Everything in a bundle that would run code: shown before anything of it runs, and without running it.

A configuration is a program: a ``$`` expression is evaluated, a ``_target_`` called, ``logging.conf`` evaluated, an old
weights file unpickled. What computes with the libraries that medseg3d stands on is allowed by name; the rest is for a
person to read (``review``), or does what no model needs (``error``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from medseg3d.bundles.expressions import Concern, concerns_of, imports_of
from medseg3d.bundles.hashes import check_hashes
from medseg3d.bundles.logging_conf import check_logging_conf
from medseg3d.bundles.merge import SEPARATOR, iterate_ids, normalize_id
from medseg3d.bundles.names import LIBRARIES, Verdict, judge_name
from medseg3d.bundles.pickles import check_weights_file, embedded_configs, is_loadable
from medseg3d.bundles.problems import Problem, unique
from medseg3d.bundles.reading import load_file, shown_path
from medseg3d.errors import UsageError

__all__ = ["require_trust", "review_bundle", "review_configs"]

CONFIGS = frozenset({".json", ".yaml", ".yml"})
CODE = frozenset({".bat", ".cmd", ".dll", ".dylib", ".exe", ".py", ".pyc", ".pyd", ".sh", ".so"})
LOGGING = frozenset({".cfg", ".conf", ".ini"})
_SHOWN = 100
_REMEDY = {
    "error": "No model needs this: do not run the bundle unless you know why it is there.",
    "review": "Read it before you trust the bundle.",
}

Content = tuple[str, Mapping[Any, Any]]


def review_bundle(bundle: Path) -> list[Problem]:
    """What in a bundle's files would run code outside the allow-list. Nothing is run, loaded or unpickled.

    Looks at every YAML and JSON file, ``logging.conf``, weights, TorchScript archives with the
    configurations inside them, and code that lies in the folder.
    """
    paths = sorted(bundle.rglob("*"))
    files = [path for path in paths if path.is_file()]
    configs = [path for path in files if path.suffix.lower() in CONFIGS]
    contents = [(path.relative_to(bundle).as_posix(), load_file(path, [])) for path in configs]
    problems = review_configs([content for content in contents if isinstance(content[1], Mapping)])
    problems += [_linked_folder(path, bundle) for path in paths if path.is_symlink() and path.is_dir()]
    for path in files:
        where = path.relative_to(bundle).as_posix()
        problems += _review_file(path, where, bundle)
    return unique(problems)


def review_configs(contents: Sequence[Content]) -> list[Problem]:
    """The same of configurations that have been read, each with the name it is reported under."""
    imported = _imported(content for _, content in contents)
    modules = _import_ids(content for _, content in contents)
    return [
        _problem(f"{name}: {id_}", value, concerns)
        for name, content in contents
        for id_, value in iterate_ids(content)
        if (concerns := [*_concerns(id_, value, imported), *_module_concerns(id_, value, modules)])
    ]


def _problem(where: str, value: Any, concerns: Sequence[Concern]) -> Problem:
    """One problem for one expression, as serious as the worst that it does."""
    severity: Literal["error", "review"] = "error" if any(c.verdict == "error" for c in concerns) else "review"
    what = ", ".join(dict.fromkeys(concern.what for concern in concerns))
    return Problem(where, f"{what}: {_short(value)}", _REMEDY[severity], severity=severity)


def require_trust(bundle: Path, config_files: Sequence[Path] = (), *, own_weights: bool = True) -> None:
    """Refuse a bundle that would run something nobody has read, or whose weights are not those it was packed with.

    Args:
        bundle: its folder.
        config_files: laid over it, from wherever they are.
        own_weights: whether its own weights are used, and so their hash is compared.

    Raises:
        UsageError: with everything that there is to read.
    """
    beside = bundle / "configs" / "inference.yaml"
    further = [(shown_path(path, beside=beside), load_file(path, [])) for path in config_files]
    problems = review_bundle(bundle) + review_configs(further)
    problems += check_hashes(bundle) if own_weights else []
    serious = [problem for problem in unique(problems) if problem.severity != "warning"]
    if not serious:
        return
    lines = [f"  {number}. {problem}" for number, problem in enumerate(serious, start=1)]
    count = "one thing" if len(serious) == 1 else f"{len(serious)} things"
    raise UsageError(
        "\n".join([f"{bundle.name} holds {count} that should be looked at first; nothing was run.", *lines])
        + "\nIf you have read them and trust the bundle, add --trust."
    )


def _imported(contents: Iterable[Mapping[Any, Any]]) -> dict[str, set[str]]:
    """Every name that an import statement anywhere binds: MONAI has one set of names for all expressions."""
    names: dict[str, set[str]] = {}
    for content in contents:
        for _, value in iterate_ids(content):
            if isinstance(value, str) and value.startswith("$") and "import" in value:
                for name, target in imports_of(value[1:]).items():
                    names.setdefault(name, set()).add(target)
    return names


def _import_ids(contents: Iterable[Mapping[Any, Any]]) -> set[str]:
    """The ids of import statements, and of all that they lie in: a reference to one is the module itself."""
    ids: set[str] = set()
    for content in contents:
        for id_, value in iterate_ids(content):
            if isinstance(value, str) and value.startswith("$") and imports_of(value[1:]):
                parts = normalize_id(id_).removeprefix("+").split(SEPARATOR)
                ids.update(SEPARATOR.join(parts[:depth]) for depth in range(len(parts) + 1))
    return ids


def _module_concerns(id_: str, value: Any, modules: set[str]) -> Iterator[Concern]:
    from monai.bundle import ConfigParser, ReferenceResolver

    if not isinstance(value, str) or not value.startswith(("$", "@", "%")) or not modules:
        return
    try:
        text = ConfigParser.resolve_relative_ids(normalize_id(id_), normalize_id(value))
    except ValueError:
        return  # a relative id that leads out of the configuration: the check of references says so
    named = [text[1:]] if text.startswith("%") else ReferenceResolver.match_refs_pattern(text)
    for name in named:
        if name in modules:
            yield Concern(f"takes an imported module from {name!r} as a value", "review")


def _concerns(id_: str, value: Any, imported: Mapping[str, set[str]]) -> Iterator[Concern]:
    key = normalize_id(id_).rpartition(SEPARATOR)[2].removeprefix("+")
    if (key == "_debug_" and value) or (key == "_mode_" and value == "debug"):
        yield Concern("stops in the debugger", "review")
    if not isinstance(value, str):
        return
    if key == "_target_" and value.startswith(("$", "@", "%")):
        yield Concern("calls what is known only when it runs", "review")
    if value.startswith("$"):
        yield from concerns_of(value[1:], imported)
    elif value.startswith("%") and not value.startswith("%%"):
        yield from _macro_concerns(value)
    elif key == "_target_" and not value.startswith("@"):
        yield from _target_concerns(value)


def _macro_concerns(value: str) -> Iterator[Concern]:
    from monai.bundle import ConfigParser

    path, _ = ConfigParser.split_path_id(value[1:])
    if path:
        yield Concern("takes a value from another file, which is not looked at here", "review")


def _target_concerns(target: str) -> Iterator[Concern]:
    for name in _full_names(target):
        verdict: Verdict = judge_name(name)
        if verdict:
            yield Concern(f"calls {name}", verdict)


def _full_names(target: str) -> list[str]:
    """A bare name is looked up among all classes and functions of MONAI, as it is when the bundle runs."""
    if "." in target:
        return [target]
    modules = _locator().get_component_module_name(target)
    if not modules:
        return [target]
    return [f"{module}.{target}" for module in (modules if isinstance(modules, list) else [modules])]


@cache
def _locator() -> Any:
    """MONAI's table of its own components: half a second to make."""
    from monai.bundle import ComponentLocator

    return ComponentLocator()


def _review_file(path: Path, where: str, bundle: Path) -> Iterator[Problem]:
    if path.suffix.lower() in CODE:
        yield _code_file(path, where, bundle)
    elif path.suffix.lower() in LOGGING:
        yield from check_logging_conf(path, where=where)
    elif is_loadable(path):
        yield from check_weights_file(path, where=where)
        yield from review_configs(embedded_configs(path, where=where))


def _linked_folder(path: Path, bundle: Path) -> Problem:
    what = "is a link to a folder, and nothing in it was looked at."
    remedy = "Put the files themselves there, or read them before you trust the bundle."
    return Problem(path.relative_to(bundle).as_posix(), what, remedy, severity="review")


def _code_file(path: Path, where: str, bundle: Path) -> Problem:
    # `python -m` puts the current folder first, so a module here would be taken for the one it is called after.
    name = path.relative_to(bundle).parts[0].partition(".")[0]
    if name in sys.stdlib_module_names | LIBRARIES:
        what = f"takes the place of the module {name!r} when Python is started in the bundle's folder."
        return Problem(where, what, _REMEDY["error"])
    return Problem(where, "is code, which runs when a configuration names it.", _REMEDY["review"], severity="review")


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…") + "."
