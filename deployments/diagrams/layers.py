"""Laying out a graph from left to right: each box in a layer, arrows that jump layers led between the boxes, few crossings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deployments.diagrams.graph import Edge, Graph
from deployments.diagrams.grid import Box, Point

_SWEEPS = 24
_BETWEEN = 16.0
_SLIM = 6.0
_PORT = 17.0
"""Between two arrows at the same side of a box."""
_Slot = tuple[str, int]
"""A box is (its id, -1); a place in a layer that an arrow passes through is (the arrow's number, the layer)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is."""

    boxes: dict[str, Box]
    groups: tuple[Box, ...]
    ways: tuple[tuple[Edge, tuple[Point, ...]], ...]
    size: Point

    def labels(self, sizes: Mapping[int, Point]) -> dict[int, Point]:
        """Where the labels of these arrows stand, by their middles: each on its arrow, clear of boxes and of other labels, and of other
        arrows as far as that can be. The largest is placed first."""
        curves = [list(_along(points)) for _, points in self.ways]
        taken = [Box(box.x - 4, box.y - 3, box.width + 8, box.height + 6) for box in self.boxes.values()]
        found: dict[int, Point] = {}
        for number in sorted(sizes, key=lambda each: (-sizes[each][0] * sizes[each][1], each)):
            wide, high = sizes[number]
            others = [point for other, curve in enumerate(curves) if other != number for point in curve]
            own = curves[number]

            def cost(place: int, own: list[Point] = own, others: list[Point] = others, wide: float = wide, high: float = high) -> float:
                box = Box(own[place][0] - wide / 2, own[place][1] - high / 2, wide, high)
                hidden = sum(_shared(box, other) for other in taken)
                crossed = sum(box.x <= x <= box.x + wide and box.y <= y <= box.y + high for x, y in others)
                return hidden * 1000 + crossed * 10 + abs(place / len(own) - 0.3)

            best = min(range(len(own)), key=cost)
            found[number] = own[best]
            taken.append(Box(own[best][0] - wide / 2, own[best][1] - high / 2, wide, high))
        return found


def lay_out(graph: Graph, sizes: Mapping[str, Point], *, gap: float, margin: float, heading: float, apart: float = _PORT) -> Layout:
    """A layer for each group; without groups, as far to the right as the longest way that leads there. Circles: the arrow that comes last
    in the graph goes back. `apart`: between two arrows, where they begin, end, and pass boxes."""
    layer = _by_group(graph) if graph.groups else _by_distance(graph)
    chains = _chains(graph, layer)
    columns: list[list[_Slot]] = [[] for _ in range(max(layer.values()) + 1)]
    for node in graph.nodes:
        columns[layer[node.id]].append((node.id, -1))
    for chain in chains:
        for slot in chain[1:-1]:
            columns[slot[1]].append(slot)
    _uncross(columns, chains)
    sides = _sides(chains, layer)
    room = {name: max(apart * (len(sides.get((name, way), ())) + 0.5) for way in (-1, 1)) for name in layer}
    heights = {
        slot: (max(sizes[slot[0]][1], room[slot[0]]) if slot[1] < 0 else _SLIM + apart - _PORT) for column in columns for slot in column
    }
    middle = _spread(columns, chains, heights)
    top = margin + heading
    shift = top - min(middle[slot] - heights[slot] / 2 for column in columns for slot in column)
    bottom = max(middle[slot] + heights[slot] / 2 for column in columns for slot in column) + shift
    boxes: dict[str, Box] = {}
    lefts, rights, x = [], [], margin + (10 if graph.groups else 0)
    for column in columns:
        wide = max([sizes[name][0] for name, place in column if place < 0] or [0])
        lefts.append(x)
        rights.append(x + wide)
        for name, place in column:
            if place < 0:
                own_wide = wide if graph.groups else sizes[name][0]
                boxes[name] = Box(x + (wide - own_wide) / 2, middle[name, -1] + shift - heights[name, -1] / 2, own_wide, heights[name, -1])
        x += wide + gap
    ports = _ports(sides, boxes, {slot: y + shift for slot, y in middle.items()})
    ways = tuple(
        (edge, _way(chain, ports[number], middle, shift=shift, sides=list(zip(lefts, rights, strict=True))))
        for number, (edge, chain) in enumerate(zip(graph.edges, chains, strict=True))
    )
    low = bottom + (10 if graph.groups else 0)
    groups = (
        tuple(Box(left - 10, margin, right - left + 20, low - margin) for left, right in zip(lefts, rights, strict=True))
        if graph.groups
        else ()
    )
    return Layout(boxes, groups, ways, (x - gap + margin + (10 if graph.groups else 0), low + margin))


_STEPS = 24
"""Points that are looked at in each part of an arrow."""


def _along(points: tuple[Point, ...]) -> Iterator[Point]:
    """Points of the curve that leads through these."""
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        for step in range(_STEPS):
            t = step / _STEPS
            bend = 3 * t * (1 - t)
            yield x + (to_x - x) * (bend * 0.5 + t**3), y + (to_y - y) * t * t * (3 - 2 * t)


def _shared(one: Box, other: Box) -> float:
    wide = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    high = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return max(0.0, wide) * max(0.0, high)


def _by_group(graph: Graph) -> dict[str, int]:
    return {name: place for place, group in enumerate(graph.groups) for name in group.nodes}


def _by_distance(graph: Graph) -> dict[str, int]:
    """Longest ways, over the arrows that close no circle."""
    straight: list[Edge] = []
    for edge in graph.edges:
        if not _leads(straight, edge.end, edge.start):
            straight.append(edge)
    layer = {node.id: 0 for node in graph.nodes}
    for _ in graph.nodes:
        for edge in straight:
            layer[edge.end] = max(layer[edge.end], layer[edge.start] + 1)
    return layer


def _leads(edges: list[Edge], start: str, end: str) -> bool:
    seen, todo = set[str](), [start]
    while todo:
        here = todo.pop()
        if here == end:
            return True
        if here not in seen:
            seen.add(here)
            todo += [edge.end for edge in edges if edge.start == here]
    return False


def _chains(graph: Graph, layer: Mapping[str, int]) -> list[list[_Slot]]:
    """Each arrow as the slots that it passes, from its start to its end."""
    chains = []
    for number, edge in enumerate(graph.edges):
        here, there = layer[edge.start], layer[edge.end]
        step = 1 if there > here else -1
        between: list[_Slot] = [(str(number), place) for place in range(here + step, there, step)]
        chains.append([(edge.start, -1), *between, (edge.end, -1)])
    return chains


def _uncross(columns: list[list[_Slot]], chains: list[list[_Slot]]) -> None:
    """Puts each slot near the middle of those it is joined to, to and fro."""
    near: dict[_Slot, list[_Slot]] = {}
    for chain in chains:
        for one, other in itertools.pairwise(chain):
            near.setdefault(one, []).append(other)
            near.setdefault(other, []).append(one)
    column_of = {slot: number for number, column in enumerate(columns) for slot in column}
    place = {slot: (at + 0.5) / len(column) for column in columns for at, slot in enumerate(column)}
    for sweep in range(_SWEEPS):
        numbers = range(len(columns)) if sweep % 2 == 0 else range(len(columns) - 1, -1, -1)
        for number in numbers:
            before = number - 1 if sweep % 2 == 0 else number + 1

            def wish(slot: _Slot, before: int = before, place: dict[_Slot, float] = place) -> float:
                there = [place[other] for other in near.get(slot, ()) if column_of[other] == before]
                return sum(there) / len(there) if there else place[slot]

            columns[number].sort(key=wish)
            place |= {slot: (at + 0.5) / len(columns[number]) for at, slot in enumerate(columns[number])}


def _spread(columns: list[list[_Slot]], chains: list[list[_Slot]], heights: Mapping[_Slot, float]) -> dict[_Slot, float]:
    """The middle of each slot: near those it is joined to, without touching its neighbours."""
    near: dict[_Slot, list[_Slot]] = {}
    for chain in chains:
        for one, other in itertools.pairwise(chain):
            near.setdefault(one, []).append(other)
            near.setdefault(other, []).append(one)
    middle: dict[_Slot, float] = {}
    for column in columns:
        y = -sum(heights[slot] + _BETWEEN for slot in column) / 2
        for slot in column:
            middle[slot] = y + heights[slot] / 2
            y += heights[slot] + _BETWEEN
    for _ in range(_SWEEPS):
        for column in columns:
            wishes = {slot: sum(middle[o] for o in near[slot]) / len(near[slot]) if slot in near else middle[slot] for slot in column}
            _settle(column, wishes, heights, middle)
    return middle


def _settle(column: list[_Slot], wishes: Mapping[_Slot, float], heights: Mapping[_Slot, float], middle: dict[_Slot, float]) -> None:
    """As near to the wishes as the sequence allows: neighbours that would touch share their wishes."""
    blocks: list[tuple[float, list[_Slot]]] = []  # the wish for the first one's upper edge, and who follows
    for slot in column:
        blocks.append((wishes[slot] - heights[slot] / 2, [slot]))
        while len(blocks) > 1 and blocks[-2][0] + _tall(blocks[-2][1], heights) > blocks[-1][0]:
            (second, follow), (first, lead) = blocks.pop(), blocks.pop()
            moved = second - _tall(lead, heights)
            blocks.append(((first * len(lead) + moved * len(follow)) / (len(lead) + len(follow)), lead + follow))
    for top, slots in blocks:
        y = top
        for slot in slots:
            middle[slot] = round(y + heights[slot] / 2, 3)
            y += heights[slot] + _BETWEEN


def _tall(slots: list[_Slot], heights: Mapping[_Slot, float]) -> float:
    return sum(heights[slot] + _BETWEEN for slot in slots)


_Side = tuple[str, int]
"""A box's right (1) or left (-1) side."""
_Port = tuple[int, int, _Slot]
"""An arrow's number, whether it begins (0) or ends (1) here, and where it goes on."""


def _sides(chains: list[list[_Slot]], layer: Mapping[str, int]) -> dict[_Side, list[_Port]]:
    """The arrows at each side of each box."""
    sides: dict[_Side, list[_Port]] = {}
    for number, chain in enumerate(chains):
        way = 1 if layer[chain[-1][0]] > layer[chain[0][0]] else -1
        sides.setdefault((chain[0][0], way), []).append((number, 0, chain[1]))
        sides.setdefault((chain[-1][0], -way), []).append((number, 1, chain[-2]))
    return sides


def _ports(sides: Mapping[_Side, list[_Port]], boxes: Mapping[str, Box], middle: Mapping[_Slot, float]) -> dict[int, dict[int, Point]]:
    """Where each arrow begins and ends: those at one side of a box stand apart, in the sequence in which they go on."""
    ports: dict[int, dict[int, Point]] = {}
    for (name, way), there in sides.items():
        box = boxes[name]
        for place, (number, which, _) in enumerate(sorted(there, key=lambda port: (middle[port[2]], port[0])), 1):
            y = box.y + box.height * place / (len(there) + 1)
            ports.setdefault(number, {})[which] = (box.x + box.width if way > 0 else box.x, y)
    return ports


def _way(
    chain: list[_Slot], ports: Mapping[int, Point], middle: Mapping[_Slot, float], *, shift: float, sides: list[Point]
) -> tuple[Point, ...]:
    start, end = ports[0], ports[1]
    points = [start]
    for slot in chain[1:-1]:
        y, both = middle[slot] + shift, sides[slot[1]]
        points += [(x, y) for x in (both if end[0] > start[0] else reversed(both))]
    return (*points, end)
