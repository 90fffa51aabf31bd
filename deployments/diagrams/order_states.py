"""The states of an order, and what takes it from one to the next: read from the SQL that writes them.

Every statement in `shop/` that changes a lease, an outcome, a failure or a status is an arrow. It says in words what happens, by the
functions that run it; one that has no words here yet bears their names.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deployments.diagrams import story
from deployments.diagrams.graph import Edge, Graph, Line, Look, Node, words
from shop.outcomes import Outcome
from shop.saga import Saga

_UPDATE = re.compile(r"UPDATE customer_order(?: o)?\s+SET(.*?)(?:\bFROM\b(?! unnest)|\bWHERE\b|\bRETURNING\b|$)", re.DOTALL)
_INSERT = "INSERT INTO customer_order "
_SET = re.compile(r"\b(\w+) = (NULL|'\w+'|[:\w.]+)")
START, WAITING, IN_HAND, SHIPPED, UNDOING = "start", "waiting", "in_hand", "shipped", "undoing"
_NOTES = {
    WAITING: ("nobody's, to be claimed",),
    IN_HAND: ("under a lease: the saga's steps",),
    SHIPPED: ("only forward",),
    UNDOING: ("compensations, in reverse",),
}
_WORDS = {
    "store_one": "submitted",
    "submit": "submitted",
    "claim": "claimed by a worker",
    "take": "",
    "set_aside": "it cannot be claimed",
    "remember_failures": "a step fails, or it is cancelled",
    "fulfil": "handed to the carrier",
    "finish": "",
    "put_off": "put off",
    "leave_to_another_version": "its worker does not know a step",
    "hand_back_all": "its worker stops",
    "hand_back_strays": "its worker stops",
    "lease": "",
    "expire_reservations": "its reservation runs out",
    "refund_ended": "its refund did not arrive",
    "refund_is_gone": "its refund did not arrive",
    "reopen_due": "tried again by itself",
    "resolve": "tried again by a person",
    "ask_to_cancel": "cancelled: it comes back",
}
"""What the functions do, for people; nothing for those that are told elsewhere."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What one statement writes, and the public functions that run it."""

    module: str
    sets: tuple[tuple[str, str], ...]
    """Columns and their new values, as in the SQL; none: it stores a new order."""
    functions: tuple[str, ...]
    ends_before: tuple[Outcome, ...]
    """The outcomes that its module is about: those that its constants name."""
    ends_after: tuple[Outcome, ...]
    """Those that its functions give."""
    leased: bool
    """Whether it is for orders that its caller holds."""
    reserved: bool
    """Whether it is for orders that have stock reserved: none that is shipped."""

    @property
    def label(self) -> str:
        said = (_WORDS.get(name, words(name)) for name in sorted({each.removesuffix("_sync") for each in self.functions}))
        return ", ".join(dict.fromkeys(text for text in said if text))


def order_states(saga: Saga, home: Path) -> Graph:
    """The states of an order."""
    edges: dict[Edge, None] = {}
    for statement in statements(home):
        edges |= dict.fromkeys(_arrows(statement, saga))
    joined: dict[tuple[str, str, Line], list[str]] = {}
    for edge in edges:
        joined.setdefault((edge.start, edge.end, edge.line), []).extend(edge.label.split(", "))
    nodes = [Node(START, START, Look.START), *(Node(name, words(name), _look(name), notes) for name, notes in _NOTES.items())]
    ends = [Node(end.value, end.value, _look(end)) for end in Outcome]
    forward = sorted(joined.items(), key=lambda item: item[0][0] != START and item[0][1] == WAITING)  # what leads back is told last
    arrows = tuple(Edge(start, end, ", ".join(sorted(set(labels))), line) for (start, end, line), labels in forward)
    return Graph("The states of an order", (*nodes, *ends), arrows)


def statements(home: Path) -> Iterator[Statement]:
    """Every statement in `shop/` that stores an order or changes its state."""
    for path in sorted((home / "shop").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "migrations" in path.parts or ("UPDATE customer_order" not in source and _INSERT not in source):
            continue
        name = ".".join(path.relative_to(home).with_suffix("").parts)
        module, tree = importlib.import_module(name), ast.parse(source)
        found: dict[tuple[tuple[str, str], ...], dict[str, None]] = {}
        for constant, sql in vars(module).items():
            text = sql if isinstance(sql, str) else getattr(sql, "text", None)
            if not isinstance(text, str) or not _is_defined(tree, constant):
                continue
            if _INSERT in text:
                found.setdefault((), {}).update(_runners(tree, constant))
            for change in _UPDATE.findall(text):
                if sets := tuple((column, value) for column, value in _SET.findall(change)):
                    found.setdefault(sets, {}).update(_runners(tree, constant))
        for sets, functions in found.items():
            constants = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
            bodies = [node for node in tree.body if not isinstance(node, ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom)]
            before, after = _outcomes(constants, source), _outcomes(bodies, "")
            yield Statement(
                name, sets, tuple(sorted(functions)), before, after, leased="hold(" in source, reserved="r.state = 'held'" in source
            )


def _arrows(statement: Statement, saga: Saga) -> Iterator[Edge]:
    sets, label = dict(statement.sets), statement.label
    if not sets:
        yield Edge(START, WAITING, label)
    elif sets.get("outcome") == "NULL":
        for end in statement.ends_before or statement.ends_after:
            yield Edge(end.value, WAITING, label, Line.BACK)
    elif "outcome" in sets and statement.leased:
        yield from _finishing(saga)
    elif "outcome" in sets:
        for end in statement.ends_before:
            yield from (
                Edge(end.value, other.value, label, Line.BACK) for other in statement.ends_after if other not in statement.ends_before
            )
    elif "lease_id" in sets and sets["lease_id"] != "NULL":
        yield Edge(WAITING, IN_HAND, label)
    elif "lease_id" in sets:
        for state in (IN_HAND, SHIPPED, UNDOING):
            if not (state == SHIPPED and statement.reserved):
                yield Edge(state, WAITING, label, Line.BACK)
    elif "failure" in sets and statement.leased:
        yield Edge(IN_HAND, UNDOING, label, Line.BACK)
    elif sets.get("status") == f"'{SHIPPED}'":
        yield Edge(IN_HAND, SHIPPED, label, Line.STRONG)
    # What is left changes no state, or takes back what the same transaction has written.


def _finishing(saga: Saga) -> Iterator[Edge]:
    yield Edge(SHIPPED, story.at_the_end(saga).value, "every step is done")
    for fall in story.falls(saga):
        start, label = (UNDOING, "all is undone") if fall.undone else (IN_HAND, f"{words(fall.step)} says no")
        yield Edge(start, fall.outcome.value, label)
    yield Edge(UNDOING, story.after_undoing_failed(saga).value, "an undo fails", Line.BACK)


def _look(name: str) -> Look:
    ends = {Outcome.COMPLETED: Look.GOOD_END, Outcome.NEEDS_ATTENTION: Look.BAD_END, SHIPPED: Look.PIVOT, UNDOING: Look.UNDO}
    return ends.get(name, Look.END if name in set(Outcome) else Look.STEP)


def _is_defined(tree: ast.Module, name: str) -> bool:
    targets = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _runners(tree: ast.Module, name: str) -> Iterator[tuple[str, None]]:
    """The public functions of the module that use the name, also by way of its private ones."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    uses = {f.name: {node.id for node in ast.walk(f) if isinstance(node, ast.Name)} for f in functions}
    todo, seen = [name], set[str]()
    while todo:
        here = todo.pop()
        for function, used in uses.items():
            if here in used and function not in seen:
                seen.add(function)
                if function.startswith("_"):
                    todo.append(function)
                else:
                    yield function, None


def _outcomes(nodes: list[ast.Assign | ast.AnnAssign] | list[ast.stmt], source: str) -> tuple[Outcome, ...]:
    named = {node.attr for each in nodes for node in ast.walk(each) if isinstance(node, ast.Attribute)}
    about_desk = {Outcome.NEEDS_ATTENTION.name} if "JOIN attention" in source or f"'{Outcome.NEEDS_ATTENTION}'" in source else set()
    return tuple(end for end in Outcome if end.name in named | about_desk)
