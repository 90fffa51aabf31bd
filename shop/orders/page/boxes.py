"""The history of one order for a terminal: a box per step, with its compensation's box beside it."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from saga.definition import Saga
from shop.orders.page.diagram import state_words
from shop.orders.page.formatting import duration, for_terminal
from shop.orders.page.story import OrderStory, StepState, StepView, UndoState, step_views, undos_in_order
from shop.orders.tries import EarlierTry
from shop.runtime.times import shown
from shop.values.money import show

_WIDTH = 30
_HALF = _WIDTH // 2
_STEPS = {
    StepState.DONE: "✓",
    StepState.FAILED: "✗",
    StepState.UNDONE: "↶",
    StepState.UNDER_WAY: "…",
}
"""The mark of a step; a dot in any other state. So is that of a compensation."""
_UNDOS = {UndoState.DONE: "↶", UndoState.FAILED: "✗", UndoState.UNDER_WAY: "…"}


def order_boxes(story: OrderStory, saga: Saga) -> str:
    """Returns lines of text, each with a line break. Compensations are numbered as they ran."""
    steps = step_views(story, saga)
    places = {undo.name: place for place, undo in enumerate(undos_in_order(steps), 1)}
    lines = [f"order {for_terminal(story.order_id)}", *(_try_line(each, story) for each in story.tries)]
    if story.tries:
        lines.append(f"try {len(story.tries) + 1}")
    for number, step in enumerate(steps):
        left = box(
            [f"{_STEPS.get(step.state, '·')} {step.name}", *(f"  {word}" for word in state_words(step))],
            gate=number > 0,
        )
        lines += _beside(left, _undo_box(step, places))
    lines += box(_ending(story), gate=True, more=False)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _try_line(each: EarlierTry, story: OrderStory) -> str:
    at = f" at {each.failing_step}" if each.failing_step else ""
    amount = show(each.amount_charged, story.currency)
    money = f", {amount} charged and refunded" if each.amount_charged else ""
    why = f": {for_terminal('; '.join(each.reasons))}" if each.reasons else ""
    return f"try {each.number} {each.outcome}{at}, {shown(each.finished_at)}{money}{why}"


def order_facts(story: OrderStory) -> str:
    """Returns what the boxes do not show, each line with a line break: reasons, what was ordered and how
    it is paid, times, mails, decisions of people."""
    lines = [f"reason: {for_terminal(reason, 300)}" for reason in story.reasons]
    if (details := story.details) is not None:
        lines += [f"{name}: {for_terminal(value, 300)}" for name, value in details.facts]
        lines += [
            f"{each.quantity} x {for_terminal(each.product, 300)}, {each.price}: {each.total}"
            for each in details.lines
        ]
        if details.more_lines:
            lines.append(f"and {details.more_lines:,} more lines")
        lines += [f"{for_terminal(name, 300)}: {amount}" for name, amount in details.sums]
    if story.submitted_at is not None:
        lines.append(f"submitted {shown(story.submitted_at)}")
    if story.not_before is not None and story.outcome is None:
        lines.append(f"continues at {shown(story.not_before)}")
    for mail in story.mails:
        state = "sent" if mail.sent else f"not sent yet{f': {mail.error}' if mail.error else ''}"
        lines.append(for_terminal(f"mail {mail.kind}: {state}", 300))
    for entry in story.review:
        amount = f", {show(entry.amount, story.currency)}" if entry.amount else ""
        reference = f", {entry.reference}" if entry.reference else ""
        lines.append(for_terminal(f"{entry.at}: {entry.action} by {entry.by}{amount}{reference}", 300))
    return "".join(f"{line}\n" for line in lines)


def _undo_box(step: StepView, places: dict[str, int]) -> list[str]:
    if step.undo is None:
        return []
    words = [
        f"{_UNDOS.get(step.undo.state, '·')} {step.undo.name}",
        *(f"  {word}" for word in state_words(step.undo)),
    ]
    if len(places) > 1:
        words[0] = f"{words[0]} ({places[step.undo.name]})"
    return box(words)


def box(words: Sequence[str], width: int = _WIDTH, *, gate: bool = False, more: bool = True) -> list[str]:
    """Returns a box around the words; long ones continue in the next line. `gate`: a line enters from above;
    `more`: a line leaves below."""
    half = width // 2
    lid = f"┌{'─' * half}{'┴' if gate else '─'}{'─' * (width - half - 1)}┐"
    floor = f"└{'─' * half}{'┬' if more else '─'}{'─' * (width - half - 1)}┘"
    return [lid, *(f"│{f' {line}':<{width}}│" for word in words for line in _lines(word, width - 1)), floor]


def _lines(word: str, width: int) -> list[str]:
    indent = " " * (len(word) - len(word.lstrip()) + 2)
    return wrap(word, width, subsequent_indent=indent) or [""]


def _beside(left: Sequence[str], right: Sequence[str]) -> list[str]:
    height = max(len(left), len(right))
    rows = [*left, *[f"{'│':>{_HALF + 2}}{'':{_WIDTH - _HALF}}"] * (height - len(left))]
    lines = []
    for place, row in enumerate(rows):
        other = right[place].replace("┬", "─") if place < len(right) else ""
        lines.append(f"{row}{' ◀─ ' if other and place == 1 else '    ' if other else ''}{other}")
    return lines


def _ending(story: OrderStory) -> list[str]:
    end = f"{story.end}{' (cancelled)' if story.cancelled else ''}"
    lines = [f"{end}, {'after' if story.outcome else 'for'} {duration(story.seconds)}"]
    lines += [f"{name:<9} {show(each, story.currency)}" for name, each in story.amounts.items() if each]
    if story.tracking_number:
        lines.append(f"{'tracking':<9} {for_terminal(story.tracking_number)}")
    if story.takeovers:
        lines.append(f"taken over {story.takeovers} times")
    return lines
