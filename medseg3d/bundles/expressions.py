"""What a ``$`` expression would do, read from its syntax tree. Nothing is evaluated."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from medseg3d.bundles.names import SAFE_BUILTINS, Verdict, is_module, judge_import, judge_name

__all__ = ["MONAI_NAMES", "Concern", "concerns_of", "imports_of"]

# What MONAI puts into every expression: name → module.
MONAI_NAMES: Mapping[str, str] = {"monai": "monai", "torch": "torch", "np": "numpy", "numpy": "numpy"}
REFERENCE = "__local_refs"
# Methods that write, run or load, whatever object they are found on.
_METHODS = frozenset(
    {"check_call", "check_output", "chmod", "execl", "execle", "execlp", "execv", "execve", "execvp", "execvpe",
     "getoutput", "hardlink_to", "import_module", "load_inline", "load_library", "open", "popen", "Popen",
     "posix_spawn", "posix_spawnp", "rmdir", "rmtree", "spawn", "spawnl", "spawnlp", "spawnv", "spawnvp", "symlink_to",
     "system", "tofile", "to_csv", "to_pickle", "touch", "unlink", "write_bytes", "write_text", "writelines"}
)  # fmt: skip


@dataclass(frozen=True)
class Concern:
    """Something in an expression that a person should read; an ``error`` where it does what no model needs."""

    what: str
    verdict: Verdict


def imports_of(text: str) -> dict[str, str]:
    """The names that an import statement binds, with what each stands for.

    >>> imports_of("from os import system as s"), imports_of("import numpy as np"), imports_of("1 + 1")
    ({'s': 'os.system'}, {'np': 'numpy'}, {})
    """
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return {}
    names: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name): alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {(alias.asname or alias.name): f"{node.module}.{alias.name}" for alias in node.names}
    return names


def concerns_of(text: str, imported: Mapping[str, set[str]]) -> list[Concern]:
    """What is outside the allow-list in an expression (without its ``$``), or in an import statement.

    Args:
        text: MONAI's references (``@id``) included.
        imported: name → everything that the configuration binds it to.
    """
    statement = imports_of(text)
    if statement:
        return [concern for target in statement.values() for concern in _import_concerns(target, text)]
    from monai.bundle import ReferenceResolver

    try:
        tree = ast.parse(ReferenceResolver.id_matcher.sub(REFERENCE, ReferenceResolver.normalize_id(text)))
    except (SyntaxError, ValueError, RecursionError):
        return [Concern("cannot be read as Python", "review")]
    return list(dict.fromkeys(_Walk(imported).concerns(tree)))


def _import_concerns(target: str, text: str) -> list[Concern]:
    verdict = judge_name(target) if text.lstrip().startswith("from") else judge_import(target)
    return [Concern(f"imports {target}", verdict)] if verdict else []


class _Walk:
    """Goes through a syntax tree; a chain of attributes is judged once, as the whole name that it is."""

    def __init__(self, imported: Mapping[str, set[str]]) -> None:
        self.modules = {name: {module} for name, module in MONAI_NAMES.items()}
        for name, targets in imported.items():
            self.modules[name] = self.modules.get(name, set()) | targets

    def concerns(self, tree: ast.AST) -> Iterator[Concern]:
        for statement in ast.iter_child_nodes(tree):
            if not isinstance(statement, ast.Expr):
                yield Concern(f"is a statement ({type(statement).__name__})", "review")
            yield from self._visit(statement)

    def _visit(self, node: ast.AST) -> Iterator[Concern]:
        if isinstance(node, ast.Attribute):
            yield from self._attribute(node)
            return
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield from self._name(node.id)
        for child in ast.iter_child_nodes(node):
            yield from self._visit(child)

    def _attribute(self, node: ast.Attribute) -> Iterator[Concern]:
        chain = _chain(node)
        if chain is None or chain[0] not in self.modules:
            yield from self._method(node.attr)
            yield from self._visit(node.value)
            return
        for module in sorted(self.modules[chain[0]]):
            dotted = ".".join([module, *chain[1:]])
            verdict = judge_name(dotted)
            if verdict:
                yield Concern(f"uses {dotted}", verdict)
            elif is_module(dotted):
                yield Concern(f"hands {dotted} on", "review")

    def _method(self, name: str) -> Iterator[Concern]:
        if name.startswith("_"):
            yield Concern(f"reaches for the private {name}", "error")
        elif name in _METHODS:
            yield Concern(f"calls .{name}", "error")

    def _name(self, name: str) -> Iterator[Concern]:
        if name == REFERENCE or name in SAFE_BUILTINS:
            return
        if name in self.modules:
            for target in sorted(self.modules[name]):
                verdict: Verdict = judge_name(target) if "." in target else "review"
                if verdict or is_module(target):
                    yield Concern(f"hands {target} on", verdict or "review")
        elif judge_name(name) == "error":
            yield Concern(f"uses {name}", "error")


def _chain(node: ast.expr) -> list[str] | None:
    """``a.b.c`` as its parts, or None where something else than a name is at its beginning."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        before = _chain(node.value)
        return [*before, node.attr] if before is not None else None
    return None
