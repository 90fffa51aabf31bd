"""What imports what, read from the code without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGES = ("deployments", "flows", "tasks", "shop")
"""From the top down: each may import itself and what stands right of it (deployments nothing but through flows and shop)."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module: what it imports of ours, what of others, the texts that it mentions, and whether it can be run."""

    name: str
    imports: frozenset[str]
    libraries: frozenset[str]
    mentions: frozenset[str]
    is_program: bool


@cache
def modules(home: Path) -> dict[str, Module]:
    """All modules of the project but the tests, the benchmarks and the migrations."""
    paths = [path for package in PACKAGES for path in sorted((home / package).rglob("*.py")) if "migrations" not in path.parts]
    names = {path: ".".join(path.relative_to(home).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    known = frozenset(names.values())
    return {name: _read(path, name, known) for path, name in names.items()}


def against_the_arrows(home: Path) -> list[str]:
    """Imports that point the wrong way; there should be none."""
    allowed = {"deployments": {"deployments", "flows", "tasks", "shop"}, "flows": {"flows", "tasks", "shop"}, "tasks": {"tasks", "shop"}}
    wrong = []
    for module in modules(home).values():
        package = module.name.partition(".")[0]
        wrong += [
            f"{module.name} imports {other}" for other in module.imports if other.partition(".")[0] not in allowed.get(package, {"shop"})
        ]
        if package == "shop" and "prefect" in module.libraries:
            wrong.append(f"{module.name} imports prefect")
    return sorted(wrong)


def _read(path: Path, name: str, known: frozenset[str]) -> Module:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    ours: set[str] = set()
    others: set[str] = set()
    for imported in _imports(nodes):
        top = imported.partition(".")[0]
        if top in PACKAGES:
            ours |= {imported} & known
        else:
            others.add(top)
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    program = path.name == "__main__.py" or "__main__" in texts
    return Module(name, frozenset(ours - {name}), frozenset(others), frozenset(texts), program)


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
