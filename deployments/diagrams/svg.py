"""SVG that needs nothing else, in the colours of whoever looks: light or dark. The same text for the same diagram, on any machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from deployments.diagrams import layers
from deployments.diagrams.graph import Block, Conversation, Edge, Graph, Line, Look, Message, Node
from deployments.diagrams.grid import Box, Point, grid
from deployments.diagrams.workflow import Workflow

_STYLE = """
svg { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; font-size: 13px;
  --page: #fff; --ink: #1f2328; --faint: #59636e; --line: #59636e; --box: #f6f8fa; --group: #eef1f4;
  --good: #dafbe1; --bad: #ffebe9; --undo: #fff8c5; --pivot: #ddf4ff; --failing: #bc4c00 }
@media (prefers-color-scheme: dark) { svg {
  --page: #0d1117; --ink: #f0f6fc; --faint: #9198a1; --line: #9198a1; --box: #21262d; --group: #151b23;
  --good: #12401f; --bad: #5d1a1a; --undo: #4a3a0a; --pivot: #0c3a66; --failing: #f0883e } }
.page { fill: var(--page) } text { fill: var(--ink) } .note { fill: var(--faint); font-size: 11px } .title { font-weight: 600 }
.label { font-size: 11px; stroke: var(--page); stroke-width: 4px; paint-order: stroke; stroke-linejoin: round }
.box { fill: var(--box); stroke: var(--line) } .good { fill: var(--good) } .bad { fill: var(--bad); stroke-width: 2 }
.undo { fill: var(--undo); stroke-dasharray: 5 3 } .pivot { fill: var(--pivot); stroke-width: 3 }
.start { fill: var(--page) }
.outside { stroke-width: 1.5; stroke-dasharray: 2 2 } .group { fill: var(--group) }
.arrow { fill: none; stroke: var(--line); stroke-width: 1.3 } .strong { stroke-width: 3.5 }
.back { stroke: var(--failing); stroke-dasharray: 5 4 }
.head { fill: var(--line) } .head-back { fill: var(--failing) }
.life { stroke: var(--line); stroke-dasharray: 2 4 }
.frame { fill: none; stroke: var(--line) }
""".strip()
_HEAD = (
    '<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" markerHeight="9" markerUnits="userSpaceOnUse" orient="auto">'
    '<path class="{name}" d="M0 0 L10 5 L0 10 z"/></marker>'
)
_HEADS = f"<defs>{_HEAD.format(name='head')}{_HEAD.format(name='head-back')}</defs>"
_ROUND = {Look.START, Look.GOOD_END, Look.END, Look.BAD_END}
_MARGIN = 16.0
_LINE = 16.0
_SMALL = 13.0
"""A line of a label."""
_NARROW, _WIDE = "fijlrtI.,:;'|!()[] ", "mwMW@%"


def text_width(text: str, size: float = 13) -> float:
    """About how wide a text will be: fonts differ, so rather more than less."""
    return sum(0.36 if c in _NARROW else 0.92 if c in _WIDE else 0.7 if c.isupper() else 0.6 for c in text) * size


def workflow(what: Workflow) -> str:
    """The saga on its grid."""
    laid = grid(what, lambda text: text_width(text) * 1.05 + 24, _height, margin=_MARGIN, gap=30, border=0, above=6)
    parts = [_arrow(route.corners, route.edge) for route in laid.routes()]
    parts += [_box(node, laid.boxes[node.id]) for node in what.graph.nodes]
    parts += [_label(route.edge.label, route.label_at, route.anchor) for route in laid.routes() if route.edge.label]
    return _document(what.graph.title, laid.size, parts)


def layered(graph: Graph, *, gap: float, apart: float = 17) -> str:
    """Any graph, from left to right. `gap` is between two layers, `apart` between two arrows: for the arrows and their labels."""
    sizes = {node.id: (_width(node), _height(node)) for node in graph.nodes}
    laid = layers.lay_out(graph, sizes, gap=gap, margin=_MARGIN, heading=28 if graph.groups else 0, apart=apart)
    parts = []
    for group, box in zip(graph.groups, laid.groups, strict=True):
        parts.append(f'<rect class="group" x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}" rx="8"/>')
        parts.append(f'<text class="title" x="{_n(box.x + 10)}" y="{_n(box.y + 19)}">{escape(group.title)}</text>')
    parts += [_curve(points, edge) for edge, points in laid.ways]
    parts += [_box(node, laid.boxes[node.id]) for node in graph.nodes]
    said = {number: edge.label.split(", ") for number, (edge, _) in enumerate(laid.ways) if edge.label}
    at = laid.labels({number: (max(text_width(line, 11) for line in lines) + 6, _SMALL * len(lines) + 4) for number, lines in said.items()})
    for number, lines in said.items():
        x, y = at[number]
        first = y - _SMALL * len(lines) / 2 + 10
        parts += [_label(line, (x, first + _SMALL * place), 0) for place, line in enumerate(lines)]
    return _document(graph.title, laid.size, parts)


def sequence(what: Conversation) -> str:
    """A conversation: time goes down."""
    wide = max(text_width(title) * 1.08 for _, title in what.parties) + 24
    pitch = max(wide + 20, 175.0)
    at = {name: _MARGIN + 30 + wide / 2 + place * pitch for place, (name, _) in enumerate(what.parties)}
    drawing = _Sequence(at, right=_MARGIN + 60 + wide + pitch * (len(at) - 1))
    y = drawing.say(what.items, 76, 0) + 20
    parts = []
    for name, title in what.parties:
        parts.append(f'<line class="life" x1="{_n(at[name])}" x2="{_n(at[name])}" y1="50" y2="{_n(y)}"/>')
        parts.append(_box(Node(name, title, Look.PART), Box(at[name] - wide / 2, _MARGIN, wide, 34)))
    return _document(what.title, (drawing.right + _MARGIN, y + _MARGIN), [*parts, *drawing.parts])


class _Sequence:
    def __init__(self, at: dict[str, float], right: float) -> None:
        self.at, self.right, self.parts = at, right, list[str]()

    def say(self, items: Sequence[Message | Block], y: float, depth: int) -> float:
        """Draws from `y` on; returns where it ended."""
        for item in items:
            y = self._message(item, y) if isinstance(item, Message) else self._block(item, y, depth)
        return y

    def _message(self, message: Message, y: float) -> float:
        start, end = self.at[message.sender], self.at[message.receiver]
        edge = Edge("", "", message.text, Line.BACK if message.answer else Line.FORWARD)
        if message.sender == message.receiver:
            self.parts.append(_arrow(((start, y), (start + 34, y), (start + 34, y + 16), (start, y + 16)), edge))
            self.parts.append(_label(message.text, (start + 42, y + 12), 1))
            return y + 44
        self.parts.append(_arrow(((start, y), (end, y)), edge))
        self.parts.append(_label(message.text, ((start + end) / 2, y - 6), 0))
        return y + 34

    def _block(self, block: Block, y: float, depth: int) -> float:
        top, x = y - 12, _MARGIN + 8 * depth
        wide = self.right - _MARGIN - 16 * depth
        for place, (condition, inside) in enumerate(block.sections):
            if place:
                self.parts.append(f'<line class="life" x1="{_n(x)}" x2="{_n(x + wide)}" y1="{_n(y - 12)}" y2="{_n(y - 12)}"/>')
            self.parts.append(_label(f"{'else' if place else block.kind}: {condition}", (x + 8, y + 4), 1, css="label title"))
            y = self.say(inside, y + 36, depth + 1)
        self.parts.append(f'<rect class="frame" x="{_n(x)}" y="{_n(top)}" width="{_n(wide)}" height="{_n(y - 14 - top)}" rx="6"/>')
        return y + 10


def _width(node: Node) -> float:
    return max([text_width(node.title) * 1.08, *(text_width(note, 11) for note in node.notes)]) + 24


def _height(node: Node) -> float:
    return 20 + _LINE * (1 + len(node.notes))


def _document(title: str, size: Point, parts: Iterable[str]) -> str:
    wide, high = _n(size[0]), _n(size[1])
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            _HEADS,
            '<rect class="page" width="100%" height="100%"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _box(node: Node, box: Box) -> str:
    radius = min(box.height / 2, 20) if node.look in _ROUND else 6
    where = f'x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}"'
    lines = [f'<rect class="box {node.look.value}" {where} rx="{_n(radius)}"/>']
    y = box.y + box.height / 2 - _LINE * len(node.notes) / 2 + 4.5
    for place, text in enumerate((node.title, *node.notes)):
        css = "note" if place else "title"
        lines.append(
            f'<text class="{css}" x="{_n(box.x + box.width / 2)}" y="{_n(y + _LINE * place)}" text-anchor="middle">{escape(text)}</text>'
        )
    return "\n".join(lines)


def _arrow(corners: Sequence[Point], edge: Edge) -> str:
    return _path("M" + " L".join(f"{_n(x)} {_n(y)}" for x, y in corners), edge)


def _curve(points: Sequence[Point], edge: Edge) -> str:
    path = f"M{_n(points[0][0])} {_n(points[0][1])}"
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        bend = (to_x - x) / 2
        path += f" C{_n(x + bend)} {_n(y)} {_n(to_x - bend)} {_n(to_y)} {_n(to_x)} {_n(to_y)}"
    return _path(path, edge)


def _path(path: str, edge: Edge) -> str:
    head = "head-back" if edge.line is Line.BACK else "head"
    return f'<path class="arrow {edge.line.value}" d="{path}" marker-end="url(#{head})"/>'


def _label(text: str, at: Point, anchor: int, css: str = "label") -> str:
    where = {1: "start", 0: "middle", -1: "end"}[anchor]
    return f'<text class="{css}" x="{_n(at[0])}" y="{_n(at[1])}" text-anchor="{where}">{escape(text)}</text>'


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
