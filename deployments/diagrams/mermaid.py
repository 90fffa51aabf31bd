"""Mermaid text, as GitHub and the Prefect UI show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deployments.diagrams.graph import Block, Conversation, Graph, Line, Look, Message, Node

_ARROWS = {Line.FORWARD: "-->", Line.STRONG: "==>", Line.BACK: "-.->"}
_SHAPES = {
    Look.START: ("([", "])"),
    Look.GOOD_END: ("([", "])"),
    Look.END: ("([", "])"),
    Look.BAD_END: ("([", "])"),
    Look.PIVOT: ("[[", "]]"),
    Look.UNDO: ("[/", "\\]"),
    Look.OUTSIDE: ("[(", ")]"),
}


def flowchart(graph: Graph, direction: str = "TD") -> str:
    """Boxes and arrows."""
    lines = [f"flowchart {direction}"]
    grouped = {name for group in graph.groups for name in group.nodes}
    for group in graph.groups:
        lines.append(f'    subgraph {_id(group.id)}["{_text(group.title)}"]')
        lines += [f"        {_box(graph[name])}" for name in group.nodes]
        lines.append("    end")
    lines += [f"    {_box(node)}" for node in graph.nodes if node.id not in grouped]
    for edge in graph.edges:
        label = f'|"{_text(edge.label)}"|' if edge.label else ""
        lines.append(f"    {_id(edge.start)} {_ARROWS[edge.line]}{label} {_id(edge.end)}")
    return "\n".join(lines) + "\n"


def states(graph: Graph) -> str:
    """The same as a state diagram: it begins where nothing leads to, and ends where nothing leads away."""
    lines = ["stateDiagram-v2", "    direction LR"]
    for node in graph.nodes:
        if node.look is not Look.START:
            lines += [f'    state "{_text(node.title)}" as {_id(node.id)}']
    for edge in graph.edges:
        start = "[*]" if graph[edge.start].look is Look.START else _id(edge.start)
        lines.append(f"    {start} --> {_id(edge.end)}" + (f": {_text(edge.label)}" if edge.label else ""))
    left = {edge.start for edge in graph.edges}
    lines += [f"    {_id(node.id)} --> [*]" for node in graph.nodes if node.id not in left]
    return "\n".join(lines) + "\n"


def sequence(conversation: Conversation) -> str:
    """Who says what to whom, in time."""
    lines = ["sequenceDiagram"]
    lines += [f"    participant {_id(name)} as {_text(title)}" for name, title in conversation.parties]
    lines += _said(conversation.items, "    ")
    return "\n".join(lines) + "\n"


def _said(items: Sequence[Message | Block], indent: str) -> Iterator[str]:
    for item in items:
        if isinstance(item, Message):
            arrow = "-->>" if item.answer else "->>"
            yield f"{indent}{_id(item.sender)}{arrow}{_id(item.receiver)}: {_text(item.text)}"
            continue
        for place, (condition, inside) in enumerate(item.sections):
            yield f"{indent}{'else' if place else item.kind} {_text(condition)}"
            yield from _said(inside, indent + "    ")
        yield f"{indent}end"


def _box(node: Node) -> str:
    left, right = _SHAPES.get(node.look, ("[", "]"))
    return f'{_id(node.id)}{left}"{"<br>".join(_text(line) for line in (node.title, *node.notes))}"{right}'


def _id(name: str) -> str:
    safe = "".join(c if c.isalnum() else "_" for c in name)
    return f"{safe}_" if safe in {"end", "default", "graph", "state"} else safe


def _text(text: str) -> str:
    """Nothing that Mermaid would take for its own."""
    return text.replace('"', "'").replace("`", "'").replace("#", "").replace(";", ",").replace("<", "‹").replace(">", "›")
