"""Where the arrows of a workflow run, for whoever draws it: in characters or in points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deployments.diagrams.graph import Edge, Node
from deployments.diagrams.workflow import Workflow

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """Where a node stands: its upper left corner, its width and its height."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Route:
    """An arrow's corners, and where its label's end (-1), middle (0) or beginning (1) is."""

    edge: Edge
    corners: tuple[Point, ...]
    label_at: Point
    anchor: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Boxes in columns and rows. `border` is how much of a box its border takes from the arrow that points at it."""

    workflow: Workflow
    boxes: dict[str, Box]
    lane: float
    """Where failures go up, between the steps and their compensations."""
    size: Point
    border: float
    above: float
    """How far above its line a label stands."""

    def routes(self) -> Iterator[Route]:
        """Each edge of the graph."""
        places = self.workflow.places
        crowded = {e.start for e in self.workflow.graph.edges if places[e.start] == (1, places[e.end][1]) and places[e.end][0] == 2}
        for edge in self.workflow.graph.edges:
            (column, row), (to_column, to_row) = places[edge.start], places[edge.end]
            a, b = self.boxes[edge.start], self.boxes[edge.end]
            ay, bx, by = a.y + _half(a.height), b.x + _half(b.width), b.y + _half(b.height)
            right, left = (a.x + a.width, ay), (b.x - self.border, by)
            if column == to_column:
                ends = ((bx, a.y + a.height), (bx, b.y - self.border)) if to_row > row else ((bx, a.y - self.border), (bx, b.y + b.height))
                middle = _half(ends[0][1] + ends[1][1])
                yield Route(edge, ends, (bx + 2 * self.above, middle), 1)
            elif row == to_row and to_column < column:
                ends = ((a.x - self.border, ay), (b.x + b.width, ay))
                yield Route(edge, ends, (_half(ends[0][0] + ends[1][0]), ay - self.above), 0)
            elif row == to_row:
                yield Route(edge, (right, (left[0], ay)), (_half(right[0] + left[0]), ay - self.above), 0)
            elif to_row < row and self._is_last(row):
                yield Route(edge, (right, (bx, ay), (bx, b.y + b.height)), (right[0] + 2 * self.above, ay - self.above), 1)
            else:
                below = self.above if self.border else self.above * 2.6
                label = ay + below if edge.start in crowded else ay - self.above
                yield Route(edge, (right, (self.lane, ay), (self.lane, by), left), (right[0] + 2 * self.above, label), 1)

    def _is_last(self, row: int) -> bool:
        return row == max(place[1] for place in self.workflow.places.values())


def grid(
    workflow: Workflow,
    width: Callable[[str], float],
    height: Callable[[Node], float],
    *,
    margin: float,
    gap: float,
    border: float,
    above: float,
) -> Grid:
    """Columns as wide as their widest box, gaps as wide as the labels in them."""
    nodes, places = workflow.graph.nodes, workflow.places
    columns = range(max(column for column, _ in places.values()) + 1)
    rows = range(max(row for _, row in places.values()) + 1)
    widths = [
        max([width(line) for node in nodes if places[node.id][0] == column for line in (node.title, *node.notes)] or [0])
        for column in columns
    ]
    gaps = [
        max(
            [width(edge.label) for edge in workflow.graph.edges if {places[e][0] for e in (edge.start, edge.end)} == {here, here + 1}]
            or [0]
        )
        for here in columns
    ]
    lefts, x = [], margin
    for column in columns:
        lefts.append(x)
        x += widths[column] + (gaps[column] if column < columns[-1] else 0)
    heights = [max(height(node) for node in nodes if places[node.id][1] == row) for row in rows]
    tops, y = [], margin
    for row in rows:
        tops.append(y)
        y += heights[row] + gap
    boxes = {}
    for node in nodes:
        column, row = places[node.id]
        own = max(width(line) for line in (node.title, *node.notes))
        wide = widths[column] if len(node.notes) else own
        tall = height(node)
        boxes[node.id] = Box(lefts[column] + _half(widths[column] - wide), tops[row] + _half(heights[row] - tall), wide, tall)
    lane = lefts[2] - 3 * above if len(lefts) > 2 else 0
    return Grid(workflow, boxes, lane, (x + margin, y - gap + margin), border, above)


def _half(number: float) -> float:
    return number // 2 if isinstance(number, int) else number / 2
