"""What a diagram says, before anybody draws it: boxes and arrows, or a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Look(StrEnum):
    """What kind of box it is. Drawings tell them apart by shape and colour, and never by colour alone."""

    START = "start"
    STEP = "step"
    PIVOT = "pivot"
    UNDO = "undo"
    GOOD_END = "good"
    END = "end"
    BAD_END = "bad"
    PART = "part"
    OUTSIDE = "outside"


class Line(StrEnum):
    """What kind of arrow it is."""

    FORWARD = "forward"
    """As it should go."""
    STRONG = "strong"
    """Past the point of no return."""
    BACK = "back"
    """When something fails."""


@dataclass(frozen=True, slots=True)
class Node:
    """A box. `title` is its name, `notes` stand below it, smaller."""

    id: str
    title: str
    look: Look
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrow."""

    start: str
    end: str
    label: str = ""
    line: Line = Line.FORWARD


@dataclass(frozen=True, slots=True)
class Group:
    """Boxes that belong together."""

    id: str
    title: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """Boxes and arrows. `groups`, if there are any, have each box in one of them."""

    title: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    groups: tuple[Group, ...] = ()

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.id == name)


@dataclass(frozen=True, slots=True)
class Message:
    """Who says what to whom."""

    sender: str
    receiver: str
    text: str
    answer: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a conversation that happens only under a condition: `kind` is `alt`, `opt` or `loop`."""

    kind: str
    sections: tuple[tuple[str, tuple[Message | Block, ...]], ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A sequence of messages between parties."""

    title: str
    parties: tuple[tuple[str, str], ...]
    """Each with its id and its name."""
    items: tuple[Message | Block, ...] = field(default=())


def words(name: str) -> str:
    """A name in code as people read it: `check_inventory`, `OutOfStock` and `put-off` become words."""
    spaced = "".join(f" {c.lower()}" if c.isupper() else c for c in name)
    return " ".join(spaced.replace("_", " ").replace("-", " ").split())


def without_shortcuts(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges that are not also a longer way: what is left leads from and to the same places. Circles stay as they are."""
    ways: dict[str, list[str]] = {}
    for start, end in edges:
        ways.setdefault(start, []).append(end)

    def leads(start: str, end: str) -> bool:
        seen, todo = {start}, [each for each in ways.get(start, ()) if each != end]
        while todo:
            here = todo.pop()
            if here == end:
                return True
            if here not in seen:
                seen.add(here)
                todo += ways.get(here, ())
        return False

    return [(start, end) for start, end in edges if not leads(start, end)]
