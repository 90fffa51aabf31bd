"""The workflow in characters, with boxes of Unicode, for terminals and comments."""

from __future__ import annotations

from itertools import pairwise

from deployments.diagrams.graph import Line, Look, Node
from deployments.diagrams.grid import Box, grid
from deployments.diagrams.workflow import Workflow

_UP, _RIGHT, _DOWN, _LEFT = 1, 2, 4, 8
_JOINTS = " ╵╶└╷│┌├╴┘─┴┐┤┬┼"
_HEADS = {(0, -1): "▲", (1, 0): "►", (0, 1): "▼", (-1, 0): "◄"}
_FRAMES = {Look.PIVOT: "╔═╗║╚╝", Look.UNDO: "┏━┓┃┗┛"}
_ROUND = "╭─╮│╰╯"
_ENDS = {Look.START, Look.GOOD_END, Look.END, Look.BAD_END}
LEGEND = "╔═╗ the point of no return   ┏━┓ compensation   ╭─╮ beginning and ends"


def draw(workflow: Workflow) -> str:
    """Lines of text, without trailing blanks."""
    laid = grid(workflow, lambda text: len(text) + 4, lambda node: 3 + len(node.notes), margin=0, gap=2, border=1, above=1)
    wide, high = int(laid.size[0]), int(laid.size[1])
    joints = [[0] * wide for _ in range(high)]
    canvas = [[" "] * wide for _ in range(high)]
    routes = list(laid.routes())
    for route in routes:
        corners = [(int(x), int(y)) for x, y in route.corners]
        for (from_x, from_y), (to_x, to_y) in pairwise(corners):
            x, y = from_x, from_y
            step = ((to_x > x) - (to_x < x), (to_y > y) - (to_y < y))
            while (x, y) != (to_x, to_y):
                joints[y][x] |= _way(step)
                x, y = x + step[0], y + step[1]
                joints[y][x] |= _way((-step[0], -step[1]))
    for y, row in enumerate(joints):
        for x, joint in enumerate(row):
            canvas[y][x] = _line(joint)
    for route in routes:
        (before_x, before_y), (x, y) = ((int(a), int(b)) for a, b in route.corners[-2:])
        canvas[y][x] = _HEADS[(x > before_x) - (x < before_x), (y > before_y) - (y < before_y)]
        if route.edge.label:
            _write(canvas, route.edge.label, int(route.label_at[0]), int(route.label_at[1]), route.anchor)
        if route.edge.line is Line.STRONG:
            for between in range(int(route.corners[0][1]), y):
                canvas[between][x] = "║"
    for node in workflow.graph.nodes:
        _box(canvas, node, laid.boxes[node.id])
    return "\n".join([*("".join(row).rstrip() for row in canvas), "", LEGEND]) + "\n"


def _way(step: tuple[int, int]) -> int:
    return {(0, -1): _UP, (1, 0): _RIGHT, (0, 1): _DOWN, (-1, 0): _LEFT}[step]


def _line(joint: int) -> str:
    # An arrow's first piece is half a line.
    return {_UP: "│", _DOWN: "│", _LEFT: "─", _RIGHT: "─"}.get(joint, _JOINTS[joint])


def _write(canvas: list[list[str]], text: str, x: int, y: int, anchor: int) -> None:
    x -= {1: 0, 0: len(text) // 2, -1: len(text)}[anchor]
    for place, letter in enumerate(text, x):
        canvas[y][place] = letter


def _box(canvas: list[list[str]], node: Node, box: Box) -> None:
    x, y, wide, high = int(box.x), int(box.y), int(box.width), int(box.height)
    corner, across, other, side, low, lower = tuple(_FRAMES.get(node.look, _ROUND if node.look in _ENDS else "┌─┐│└┘"))
    _write(canvas, corner + across * (wide - 2) + other, x, y, 1)
    for line, text in enumerate((node.title, *node.notes), y + 1):
        _write(canvas, side + text.center(wide - 2) + side, x, line, 1)
    _write(canvas, low + across * (wide - 2) + lower, x, y + high - 1, 1)
