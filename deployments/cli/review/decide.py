"""Applies one decision to many orders, each in its own transaction."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from pydantic import ValidationError
from rich.status import Status

from deployments import terminal
from deployments.cli.review.options import Filters, Who
from deployments.cli.review.shown import Row, decided_table
from deployments.cli.trouble import explanation
from deployments.who import user
from shop.review import resolution as review
from shop.review.attention import ReviewCase, Selection, select_sync
from shop.review.errors import ResolutionIncomplete, ReviewError
from shop.review.resolution import Decision, Resolution
from shop.runtime.sync import run_sync
from shop.settings import settings

_DONE = {
    Resolution.RETRY_NOW: "reopened",
    Resolution.HOLD: "held",
    Resolution.REFUNDED_BY_HAND: "refund recorded",
    Resolution.WRITTEN_OFF: "written off",
}
_OPTIONS = {"resolved_by": "--by", "reference": "--reference", "reason": "--reason"}
_REOPENED = (
    "They are reopened, and a running worker or consumer takes them to their outcome. "
    "Nothing was started on a Prefect server: if no worker runs, they stay open until one does."
)


def decide(
    resolution: Resolution, orders: Sequence[str], filters: Filters, who: Who, reference: str | None = None
) -> int:
    """Decides, shows the results, and returns the exit code."""
    settings()
    orders = list(dict.fromkeys(orders))
    problems = _which(orders, filters, who)
    problems += _selection(filters)[1]
    try:
        started_by = user("with order-saga")
        decision = review.decision(
            "", resolution, resolved_by=who.by, reference=reference, reason=who.reason, started_by=started_by
        )
    except ResolutionIncomplete as error:
        problems += [_as_option(problem) for problem in error.problems]
        return _refuse(problems)
    selection, _ = _selection(filters)
    if problems or selection is None:
        return _refuse(problems)
    cases = select_sync(selection, None if who.all else orders)
    known = {case.order_id for case in cases}
    if unknown := [] if who.all else [order_id for order_id in orders if order_id not in known]:
        return _refuse([f"{order_id} was never under manual review" for order_id in unknown])
    return _decide_each(decision, cases, dry_run=who.dry_run)


def selected(filters: Filters) -> Selection | None:
    """Returns the selection; None, after showing the errors, if the filters are invalid."""
    settings()
    selection, problems = _selection(filters)
    if problems:
        _refuse(problems)
    return selection


def _selection(filters: Filters) -> tuple[Selection | None, list[str]]:
    try:
        return Selection.model_validate(asdict(filters)), []
    except ValidationError as error:
        return None, [f"--{str(each['loc'][0]).replace('_', '-')}: {each['msg']}" for each in error.errors()]


def _which(orders: Sequence[str], filters: Filters, who: Who) -> list[str]:
    if who.all:
        return ["give the ids of orders or --all, not both"] if orders else []
    problems = [] if orders else ["give the ids of orders, or --all"]
    if any(value is not None for value in asdict(filters).values()):
        problems.append("filters require --all")
    return problems


def _as_option(problem: str) -> str:
    name, space, rest = problem.partition(" ")
    return f"{_OPTIONS.get(name, name)}{space}{rest}"


def _refuse(problems: Sequence[str]) -> int:
    for problem in problems:
        terminal.write(problem, sys.stderr)
    terminal.write("Nothing was done.", sys.stderr)
    return 2


def _decide_each(decision: Decision, cases: Sequence[ReviewCase], *, dry_run: bool) -> int:
    console = terminal.console(width=150)
    rows: list[Row] = []
    stopped: Exception | None = None
    with console.status("") as status:
        try:
            run_sync(lambda: _each(decision, cases, rows, status, dry_run=dry_run))
        except Exception as error:
            if explanation(error) is None:
                raise
            stopped = error
    console.print(decided_table(rows, dry_run=dry_run) if cases else "No order under manual review matches.")
    changed = any(row.changed for row in rows)
    if changed and not dry_run and decision.resolution is not Resolution.HOLD:
        console.print(_REOPENED)
    if stopped is not None:
        terminal.write(
            f"{explanation(stopped)} Of {len(cases)} orders, {len(cases) - len(rows)} were not reached.",
            sys.stderr,
        )
        return 2
    return int(any(row.refused for row in rows))


async def _each(
    decision: Decision, cases: Sequence[ReviewCase], rows: list[Row], status: Status, *, dry_run: bool
) -> None:
    for number, case in enumerate(cases, 1):
        status.update(f"{number} of {len(cases)}")
        try:
            new = await review.resolve(replace(decision, order_id=case.order_id), dry_run=dry_run)
        except ReviewError as error:
            rows.append(Row(case, str(error), refused=True))
        else:
            rows.append(Row(case, _DONE[decision.resolution] if new else "decided before", changed=new))
