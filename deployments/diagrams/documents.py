"""Generated parts of Markdown files: diagrams, code of this project,
the table of steps. `make diagrams` refreshes them.

`<!-- diagram: NAME -->` precedes a fenced block with the diagram of this name,
`<!-- code: PATH -->` one with the file, `<!-- code: PATH#NAME -->` one with a function,
class or variable of it, `<!-- table: steps -->` the table of steps.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from deployments.diagrams import mermaid
from deployments.diagrams.characters import workflow_boxes
from flows.order_saga import ORDER_SAGA
from saga.definition import Saga
from shop.runtime.home import HOME

_BLOCK = re.compile(r"(?<=^<!-- diagram: )([\w-]+)( -->\n```\w+\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(
    r"(?<=^<!-- code: )([\w./-]+)(?:#(\w+))?( -->\n```\w+\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL
)
_TABLE = re.compile(r"(?<=^<!-- table: steps -->\n)(?:\|.*\n)*", re.MULTILINE)
_FIRST_SENTENCE = re.compile(r"(.*?)[.]?(?:(?<=\.)\s|\n\n|\Z)", re.DOTALL)
DIAGRAMS: dict[str, Callable[[], str]] = {
    "saga": lambda: mermaid.overview(ORDER_SAGA),
    "workflow": lambda: mermaid.workflow(ORDER_SAGA),
    "workflow-text": lambda: workflow_boxes(ORDER_SAGA),
    "sequence": lambda: mermaid.sequence(ORDER_SAGA),
    "states": mermaid.states,
    "architecture": lambda: mermaid.architecture(ORDER_SAGA),
}


def out_of_date(home: Path = HOME) -> dict[Path, str]:
    """Returns the Markdown files with a generated part that is out of date,
    with the text that they should have."""
    texts = {path: path.read_text(encoding="utf-8") for path in _documents(home)}
    fresh = {path: refreshed(text) for path, text in texts.items()}
    return {path: text for path, text in fresh.items() if text != texts[path]}


def refreshed(text: str) -> str:
    """The document with its generated parts as they should be.
    Raises ValueError if it names code that does not exist."""
    text = _BLOCK.sub(lambda found: f"{found[1]}{found[2]}{DIAGRAMS[found[1]]()}", text)
    text = _CODE.sub(
        lambda found: f"{found[1]}{'#' + found[2] if found[2] else ''}{found[3]}{code(found[1], found[2])}",
        text,
    )
    return _TABLE.sub(lambda _: steps(ORDER_SAGA), text)


def code(path: str, name: str | None = None) -> str:
    """The text of a file of this project, or of one function, class or variable in it.
    Raises ValueError if there is none."""
    try:
        text = (HOME / path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"there is no {path}") from error
    if name is None:
        return text
    for node in ast.parse(text).body:
        if name in _names(node):
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
            return "".join(text.splitlines(keepends=True)[first - 1 : node.end_lineno])
    raise ValueError(f"there is no {name} in {path}")


def steps(saga: Saga) -> str:
    """The table of steps in Markdown: what each step and its compensation do
    is the first sentence of their docstrings."""
    rows = ["| step | kind | what it does | compensation |", "| --- | --- | --- | --- |"]
    for step in saga:
        undo = f"`{mermaid.undo_name(step)}`: {_summary(step.undo)}" if step.undo else ""
        rows.append(f"| `{step.name}` | {step.kind} | {_summary(step.task)} | {undo} |")
    return "\n".join(rows) + "\n"


def _summary(task: object) -> str:
    found = _FIRST_SENTENCE.match((task.__doc__ or "").strip())
    return " ".join(found[1].split()).replace("|", "\\|") if found else ""


def _names(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign():
            return [target.id for target in node.targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _documents(home: Path) -> Iterator[Path]:
    yield from sorted(home.glob("*.md"))
    yield from sorted((home / "docs").rglob("*.md"))
