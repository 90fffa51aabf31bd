"""The saga as a graph, on a grid: the steps go down, what is undone goes up beside them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from deployments.diagrams import story
from deployments.diagrams.graph import Edge, Graph, Line, Look, Node, words
from shop.errors import OrderError
from shop.outcomes import Outcome
from shop.saga import Kind, Saga, Step

START = "order"
_LOOKS = {Outcome.COMPLETED: Look.GOOD_END, Outcome.NEEDS_ATTENTION: Look.BAD_END}


@dataclass(frozen=True, slots=True)
class Workflow:
    """The graph, and each box's column and row. Columns: refusals, steps, compensations, what a person must do."""

    graph: Graph
    places: dict[str, tuple[int, int]]


def workflow(saga: Saga) -> Workflow:
    """Everything that may become of an order, as the saga has it."""
    falls, end = story.falls(saga), story.at_the_end(saga)
    nodes = [Node(START, START, Look.START), *(_step(step) for step in saga)]
    places = {node.id: (1, row) for row, node in enumerate(nodes)}
    nodes.append(_end(end))
    places[end] = (1, len(places))
    edges = _forward(saga, end)
    for step in reversed(saga.steps):
        if step.undo is not None:
            nodes.append(Node(undo_of(step), undo_of(step), Look.UNDO, (f"undoes {step.name}", _retries(step.undo_retries))))
            places[undo_of(step)] = (2, places[step.name][1])
    for fall in falls:
        if fall.undone:
            label = "fails, or is unclear" if fall.unclear else "fails"
            edges.append(Edge(fall.step, undo_of(saga[fall.undone[0]]), label, Line.BACK))
        else:
            if fall.outcome not in places:
                nodes.append(_end(fall.outcome))
                places[fall.outcome] = (0, places[fall.step][1])
            edges.append(Edge(fall.step, fall.outcome, _refusal(fall.refusal), Line.BACK))
    if back := story.sent_back(saga):
        edges.append(Edge(end, undo_of(saga[back[0]]), "a person sends it back", Line.BACK))
    chains = {pair: None for plan in (back, *(fall.undone for fall in falls)) for pair in itertools.pairwise(plan)}
    edges += [Edge(undo_of(saga[later]), undo_of(saga[earlier]), "", Line.BACK) for later, earlier in chains]
    if undone := [fall for fall in falls if fall.undone]:
        first = undo_of(saga[undone[0].undone[-1]])
        row, attention = places[first][1], story.after_undoing_failed(saga)
        nodes += [_end(undone[0].outcome), _end(attention)]
        places |= {undone[0].outcome: (2, row - 1), attention: (3, row)}
        edges.append(Edge(first, undone[0].outcome, "all undone", Line.BACK))
        edges.append(Edge(first, attention, "an undo failed", Line.BACK))
    return Workflow(Graph("The saga of an order", tuple(nodes), tuple(edges)), places)


def undo_of(step: Step) -> str:
    """The name of the step's compensation."""
    return str(getattr(step.undo, "__name__", step.name))


def _forward(saga: Saga, end: str) -> list[Edge]:
    names = [START, *(step.name for step in saga), end]
    edges = []
    for here, there in itertools.pairwise(names):
        pivot = here == saga.pivot
        edges.append(Edge(here, there, "the point of no return" if pivot else "", Line.STRONG if pivot else Line.FORWARD))
    return edges


def _step(step: Step) -> Node:
    limits = f"{step.time_limit:g} s, {_retries(step.retries)}"
    return Node(step.name, step.name, Look.PIVOT if step.kind is Kind.PIVOT else Look.STEP, (step.kind.value, limits))


def _retries(number: int) -> str:
    return "1 retry" if number == 1 else f"{number} retries"


def _end(outcome: Outcome) -> Node:
    return Node(outcome.value, outcome.value, _LOOKS.get(outcome, Look.END))


def _refusal(error: type[OrderError]) -> str:
    return words(error.__name__.removeprefix("Order"))
