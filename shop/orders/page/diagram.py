"""The history of one order as a Mermaid flowchart: the steps, then the compensations that ran or are due."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from saga.definition import Kind, Saga
from shop.orders.page.formatting import duration, for_mermaid
from shop.orders.page.story import (
    OrderStory,
    StepState,
    StepView,
    UndoState,
    UndoView,
    step_views,
    undos_in_order,
)
from shop.orders.tries import EarlierTry

# Each has its own background, border and text colour,
# readable on light and dark pages (contrast 4.5 or more).
_CLASSES = {
    "order": "fill:#334155,stroke:#94a3b8,color:#ffffff",
    "done": "fill:#166534,stroke:#4ade80,color:#ffffff",
    "retried": "fill:#166534,stroke:#fbbf24,color:#ffffff,stroke-width:3px",
    "failed": "fill:#991b1b,stroke:#f87171,color:#ffffff",
    "undone": "fill:#475569,stroke:#38bdf8,color:#ffffff,stroke-dasharray:6 3",
    "undo": "fill:#075985,stroke:#38bdf8,color:#ffffff",
    "underway": "fill:#1e40af,stroke:#93c5fd,color:#ffffff",
    "skipped": "fill:#e2e8f0,stroke:#94a3b8,color:#475569,stroke-dasharray:3 3",
    "attention": "fill:#991b1b,stroke:#fecaca,color:#ffffff,stroke-width:4px",
}
_STEPS = {
    StepState.DONE: "done",
    StepState.FAILED: "failed",
    StepState.UNDONE: "undone",
    StepState.UNDER_WAY: "underway",
}
"""The class of a step; `skipped` in any other state. So is that of a compensation."""
_UNDOS = {
    UndoState.DONE: "undo",
    UndoState.NOTHING: "undo",
    UndoState.FAILED: "failed",
    UndoState.UNDER_WAY: "underway",
}
_ENDS = {
    "completed": "done",
    "needs_attention": "attention",
    "compensated": "undo",
    "rejected": "failed",
    "out_of_stock": "failed",
}
_LINES = "#808080"
"""The colour of lines, visible on white and on black."""
_Edge = tuple[str, str, str]


def order_diagram(story: OrderStory, saga: Saga) -> str:
    """Returns the Mermaid text, with a final line break."""
    steps = step_views(story, saga)
    undos = undos_in_order(steps)
    names = {step.name: f"s{place}" for place, step in enumerate(steps)}
    tries = [f"t{place}" for place in range(len(story.tries))]
    lines = ["flowchart TD"]
    lines += [
        f'    {name}["{_try(each)}"]:::{_ENDS.get(each.outcome, "undo")}'
        for name, each in zip(tries, story.tries, strict=True)
    ]
    lines.append(f'    o(["{_order(story)}"]):::order')
    lines += [f'    {names[step.name]}["{_box(step)}"]:::{_step_class(step)}' for step in steps]
    lines += [
        f'    u{place}["{_box(undo)}"]:::{_UNDOS.get(undo.state, "skipped")}'
        for place, undo in enumerate(undos)
    ]
    lines.append(f'    e(["{_end(story)}"]):::{_ENDS.get(story.end, "underway")}')
    lines += [f"    {start} --> {end}" for start, end in pairwise([*tries, "o"])]
    edges = list(_edges(story, steps, [f"u{place}" for place in range(len(undos))], names))
    lines += [f"    {start} {arrow} {end}" for start, arrow, end in edges]
    lines += [f"    classDef {name} {style}" for name, style in _CLASSES.items()]
    lines.append(f"    linkStyle default stroke:{_LINES}")
    return "\n".join(lines) + "\n"


def _edges(
    story: OrderStory, steps: Sequence[StepView], undos: Sequence[str], names: dict[str, str]
) -> Iterator[_Edge]:
    """Yields the edges. Thick: the pivot. Dotted: steps that did not run, and compensations."""
    previous = "o"
    last = "o"
    """The last step that was begun."""
    for step in steps:
        reached = step.state not in {StepState.SKIPPED, StepState.WAITING, StepState.ABSENT}
        pivot = step.kind == Kind.PIVOT and step.state in {StepState.DONE, StepState.UNDONE}
        yield previous, "==>" if pivot else "-->" if reached else "-.->", names[step.name]
        previous = names[step.name]
        last = previous if reached else last
    for undo in undos:
        yield last, "-.->", undo
        last = undo
    forward = story.outcome in {None, "completed"} and not undos
    yield previous if forward else last, "-->" if story.outcome == "completed" else "-.->", "e"


def _order(story: OrderStory) -> str:
    many = "once" if story.takeovers == 1 else f"{story.takeovers} times"
    taken_over = f"<br/>taken over {many}" if story.takeovers else ""
    number = f"<br/>try {len(story.tries) + 1}" if story.tries else ""
    return f"order {for_mermaid(story.order_id)}{number}{taken_over}"


def _try(each: EarlierTry) -> str:
    at = f"<br/>at {for_mermaid(each.failing_step)}" if each.failing_step else ""
    return f"try {each.number}<br/>{for_mermaid(each.outcome)}{at}"


def _end(story: OrderStory) -> str:
    why = " (cancelled)" if story.cancelled else ""
    return (
        f"{for_mermaid(story.end)}{why}<br/>{'after ' if story.outcome else 'for '}{duration(story.seconds)}"
    )


def _step_class(step: StepView) -> str:
    return "retried" if step.state is StepState.DONE and step.retried else _STEPS.get(step.state, "skipped")


def _box(shown: StepView | UndoView) -> str:
    return "<br/>".join(map(for_mermaid, [shown.name, *state_words(shown)]))


def state_words(shown: StepView | UndoView) -> list[str]:
    """Returns the state of a step or a compensation in short lines: `done, 12 ms`, `3 attempts`."""
    words = [", ".join(part for part in (shown.state, duration(shown.seconds)) if part)]
    if shown.error and shown.state not in (StepState.DONE, UndoState.DONE):
        words.append(shown.error.replace("_", " "))
    if shown.attempts > 1:
        words.append(f"{shown.attempts} attempts")
    return words
