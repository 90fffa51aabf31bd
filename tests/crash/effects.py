"""The effects that the code names, wherever it may be:
what no worker of these tests ever imports declares no point."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

HOME = Path(__file__).resolve().parents[2]
_FOLDERS = ("saga", "shop", "tasks", "flows")
_MAKES_THEM = HOME / "saga" / "failpoints.py"
_BY_TASK = "record_name"
"""What names the record of a step by its task."""


def named() -> Counter[str]:
    """Each name, and in how many places it is given.
    Not those of steps' records, which their tasks declare."""
    files = (file for folder in _FOLDERS for file in (HOME / folder).rglob("*.py") if file != _MAKES_THEM)
    return Counter(name for file in files for name in names_in(file.read_text(), file.name))


def names_in(code: str, file: str = "") -> Iterator[str]:
    """AssertionError if it cannot be read off the code how an effect is called."""
    waiting: list[ast.AST] = [ast.parse(code)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.GeneratorExp | ast.ListComp) and (
            calls := [call for call in ast.walk(node) if _is_effect(call)]
        ):
            for call in calls:
                call.func = ast.copy_location(ast.Name("str", ast.Load()), call.func)
            yield from eval(compile(ast.Expression(node), file, "eval"), {})
            continue
        if _is_effect(node):
            match node.args:
                case [ast.Constant(value=str(name))]:
                    yield name
                case [ast.Call(func=ast.Name(id=function))] if function == _BY_TASK:
                    pass
                case _:
                    raise AssertionError(f"{file}, line {node.lineno}: how is this effect called?")
        waiting += ast.iter_child_nodes(node)


def _is_effect(node: ast.AST) -> TypeGuard[ast.Call]:
    match node:
        case ast.Call(
            func=ast.Name(id="failpoint" | "Failpoint") | ast.Attribute(attr="failpoint" | "Failpoint")
        ):
            return True
        case _:
            return False
