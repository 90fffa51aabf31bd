"""Draws the saga in characters: steps go down on the left, compensations go up on the right."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.diagrams.mermaid import limits, refusals, retries, undo_name
from saga.definition import Saga
from shop.orders.outcomes import Outcome
from shop.orders.page.boxes import box

_WIDTH = 34
_MIDDLE = _WIDTH // 2 + 1
_GAP = 26
_BLANK = " " * (_WIDTH + 2)
_LINE = f"{'│':>{_MIDDLE + 1}}".ljust(_WIDTH + 2)
"""A line through the middle of a column."""


def workflow_boxes(saga: Saga) -> str:
    """Returns lines of text, each with a line break."""
    undone = [step for step in saga if step.undo is not None]
    pivot = saga[saga.pivot]
    ends = [
        f"{Outcome.COMPENSATED}, or {Outcome.NEEDS_ATTENTION}".center(_WIDTH + 2),
        "if a compensation failed".center(_WIDTH + 2),
        _up(),
    ]
    lines = _row(box(["order"], _WIDTH), ends if undone else [])
    begun = False
    for step in saga:
        words = [
            step.name,
            *(
                f"  {line}"
                for line in (", ".join(limits(step)), *(f"refuses: {end}" for end, _ in refusals(step)))
            ),
        ]
        if step is pivot and step.undo is not None and len(undone) > 1:
            words.append(f"  fails: {undo_name(undone[-2])}")
        left, past = box(words, _WIDTH, gate=True), saga.is_past_pivot(step.name)
        if step.undo is not None:
            begun, label = True, "is unclear" if step is pivot else "fails, or is unclear"
            texts = [undo_name(step), f"  undoes {step.name}", f"  {retries(step.undo_retries)}"]
            more = step is not undone[-1] or step is pivot
            lines += _row(
                left,
                box(texts, _WIDTH, gate=True, more=more),
                f" {label} ".center(_GAP - 2, "─") + "▶ ",
                more=more,
            )
        elif begun and not past:
            lines += _row(
                left, [_LINE, _joined("┤")], " fails ".center(_GAP - 2, "─") + "──", more=step is not pivot
            )
        else:
            lines += _row(left, [_LINE] if (undone and not past) or pivot.undo else [])
        if step is pivot:
            lines += _row([f"{'║':>{_MIDDLE + 1}} the point of no return"], [_LINE] if step.undo else [])
    back = [_LINE, _joined("┘")] if pivot.undo else []
    lines += _row(
        box([Outcome.COMPLETED], _WIDTH, gate=True, more=False),
        back,
        " a person sends it back ".center(_GAP, "─"),
        more=False,
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _row(left: Sequence[str], right: Sequence[str], connector: str = "", *, more: bool = True) -> list[str]:
    """Puts the columns beside each other, with `connector` between their second lines. `more`: a line
    continues below the right one."""
    height = max(len(left), len(right))
    left = [*left, *[_LINE] * (height - len(left))]
    right = [*right, *[_LINE if right and more else _BLANK] * (height - len(right))]
    joints = ["", connector if right else ""]
    return [
        f"{a + joint:<{_WIDTH + 2 + _GAP}}{b}"
        for a, joint, b in zip(left, [*joints, *[""] * height], right, strict=False)
    ]


def _up() -> str:
    return f"{'▲':>{_MIDDLE + 1}}"


def _joined(corner: str) -> str:
    """Returns the connector, extended to the line in the middle of the column."""
    return "─" * _MIDDLE + corner
