"""`order-saga review`: the orders under manual review. Needs the database, `refunded` also the payment
gateway; never Prefect."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from json import dumps
from typing import Annotated

from cyclopts import App, Group, Parameter
from pydantic import ValidationError
from rich import console as rich
from rich.status import Status
from rich.text import Text

from deployments import terminal
from deployments.cli.trouble import explanation
from deployments.running import user
from shop.orders.page.story import ReviewEntry, read_story_sync
from shop.review import resolution as decisions
from shop.review.attention import ReviewCase, Selection, advice, select_sync
from shop.review.errors import ResolutionIncomplete, ReviewError
from shop.review.resolution import Decision, Resolution
from shop.runtime.sync import run_sync
from shop.runtime.times import shown_minute
from shop.settings import settings
from shop.values.messages import in_words
from shop.values.money import show as money

_DONE = {
    Resolution.RETRY_NOW: "reopened",
    Resolution.HOLD: "held",
    Resolution.REFUNDED_BY_HAND: "refund recorded",
    Resolution.WRITTEN_OFF: "written off",
}
_OPTIONS = {name: f"--{name}" for name in ("reference", "reason", "amount")} | {"resolved_by": "--by"}
_REOPENED = (
    "They are reopened, and a running worker or consumer takes them to their outcome. "
    "Nothing was started on a Prefect server: if no worker runs, they stay open until one does."
)
_FILTERS, _WHO = Group("Which orders", sort_key=1), Group("Who decides, and why", sort_key=2)


def _filter(text: str) -> Parameter:
    return Parameter(help=text, group=_FILTERS)


_STEP = _filter("The step whose compensation failed, such as process_payment.")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Selects orders under manual review."""

    step: Annotated[str | None, _STEP] = None
    code: Annotated[str | None, _filter("The last error's code, such as refund_refused.")] = None
    currency: Annotated[str | None, _filter("The currency, such as USD.")] = None
    held: Annotated[
        bool | None, Parameter(help="Held by a person, or not.", group=_FILTERS, negative="--not-held")
    ] = None
    older_than: Annotated[str | None, _filter("Under manual review for longer than 30m, 24h, 7d.")] = None
    at_least: Annotated[str | None, _filter("The least amount at risk, in the order's currency.")] = None
    at_most: Annotated[str | None, _filter("The greatest amount at risk.")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Who:
    """Who decides, and why; for all orders or some."""

    all: Annotated[
        bool, Parameter(help="Every order that the filters match, instead of ids.", group=_FILTERS)
    ] = False
    by: Annotated[
        str,
        Parameter(help="Required: the name of the person who decides. Stored with the order.", group=_WHO),
    ] = ""
    reason: Annotated[
        str | None, Parameter(help="The reason. Stored with the order; no card data.", group=_WHO)
    ] = None
    dry_run: Annotated[bool, Parameter(help="Show what would be done, and change nothing.")] = False


_ANYTHING, _UNNAMED = Filters(), Who()
_Amount = Annotated[
    str | None,
    Parameter(
        help='For one order: the amount at risk that you see, such as 12.34 or "12.34 EUR". '
        "If another amount is at risk by now, nothing is settled.",
        group=_WHO,
    ),
]

review = App(
    name="review",
    help="""List and resolve the orders under manual review.

A decision is stored with who made it and why, as by the flow resolve-order. Needs only the database (refunded
also the payment gateway) and no Prefect server: it starts no run. retry, refunded and write-off reopen the
order, and a running worker or consumer takes it to its outcome; without one the order stays open until one
starts.

Exit codes: 0, done, or decided before; 1, some orders were refused, and the table shows why; 2, arguments or
settings are invalid and nothing was done, or the database stopped answering, and the table shows what was
done before.""",
)


@review.command(name="list")
def list_(*, filters: Filters = _ANYTHING, json: bool = False) -> int:
    """List the orders under manual review, the oldest first.

    Args:
        json: Print JSON, one order per line.
    """
    if (selection := _selected(filters)) is None:
        return 2
    cases = select_sync(selection)
    if json:
        for case in cases:
            terminal.write_json(case.model_dump_json())
    else:
        terminal.console(width=200).print(_listed(cases))
        for command in filter(None, map(_settling, cases)):
            terminal.write(command)
    return 0


@review.command
def show(*orders: str, json: bool = False) -> int:
    """Show orders under manual review in detail: the error, what to do, earlier decisions.

    Args:
        orders: Their ids.
        json: Print JSON, one order per line.
    """
    cases = {case.order_id: case for case in select_sync(Selection(), orders)}
    for order_id in orders:
        if order_id not in cases:
            terminal.write(f"{order_id} was never under manual review", sys.stderr)
            continue
        story = read_story_sync(order_id)
        details = _details(cases[order_id], story.review if story else ())
        if json:
            terminal.write_json(dumps(details))
        else:
            for name, value in details.items():
                terminal.write(f"{name:>15}  {value}")
    return int(any(order_id not in cases for order_id in orders))


@review.command
def retry(*orders: str, filters: Filters = _ANYTHING, who: Who = _UNNAMED) -> int:
    """Reopen orders, so that a running worker or consumer retries their compensations at once.

    Args:
        orders: Their ids, unless --all is given.
    """
    return _decide(Resolution.RETRY_NOW, orders, filters, who)


@review.command
def hold(*orders: str, filters: Filters = _ANYTHING, who: Who = _UNNAMED) -> int:
    """Stop automatic retries: a person handles it.

    Args:
        orders: Their ids, unless --all is given.
    """
    return _decide(Resolution.HOLD, orders, filters, who)


@review.command
def refunded(
    *orders: str,
    filters: Filters = _ANYTHING,
    who: Who = _UNNAMED,
    reference: str | None = None,
    amount: _Amount = None,
) -> int:
    """Record a refund outside the gateway, after asking the gateway whether it has refunded the money.

    Settles the amount that is shown; an order whose amount at risk changes meanwhile is left out.

    Args:
        orders: Their ids, unless --all is given.
        reference: Required: a proof, such as the number of a bank transfer. No card data.
    """
    return _decide(Resolution.REFUNDED_BY_HAND, orders, filters, who, reference=reference, amount=amount)


@review.command
def write_off(*orders: str, filters: Filters = _ANYTHING, who: Who = _UNNAMED, amount: _Amount = None) -> int:
    """Write off what is still due. Needs --reason.

    Settles the amount that is shown; an order whose amount at risk changes meanwhile is left out.

    Args:
        orders: Their ids, unless --all is given.
    """
    return _decide(Resolution.WRITTEN_OFF, orders, filters, who, amount=amount)


def _decide(
    resolution: Resolution,
    orders: Sequence[str],
    filters: Filters,
    who: Who,
    *,
    reference: str | None = None,
    amount: str | None = None,
) -> int:
    """Decides, shows the results, and returns the exit code."""
    settings()
    orders = list(dict.fromkeys(orders))
    problems = _which(orders, filters, who)
    problems += _selection(filters)[1]
    if amount is not None and (who.all or len(orders) > 1):
        problems.append("--amount is for one order; each of several is settled with the amount that is shown")
    if amount is not None and not amount.strip():
        problems.append("--amount is empty")
    try:
        decision = decisions.decision(
            "",
            resolution,
            resolved_by=who.by,
            reference=reference,
            reason=who.reason,
            started_by=user("with order-saga"),
            amount=amount,
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


def _selected(filters: Filters) -> Selection | None:
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
        problems = [(str(each["loc"][0]).replace("_", "-"), in_words(each)) for each in error.errors()]
        return None, [f"--{option}: {what}" for option, what in problems]


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
    return terminal.refused("\n".join([*problems, "Nothing was done."]))


def _decide_each(decision: Decision, cases: Sequence[ReviewCase], *, dry_run: bool) -> int:
    console = terminal.console(width=200)
    rows: list[_Row] = []
    stopped: Exception | None = None
    with console.status("") as status:
        try:
            run_sync(lambda: _each(decision, cases, rows, status, dry_run=dry_run))
        except Exception as error:
            if explanation(error) is None:
                raise
            stopped = error
    console.print(_decided(rows, dry_run=dry_run) if cases else "No order under manual review matches.")
    changed = any(row.changed for row in rows)
    if changed and not dry_run and decision.resolution is not Resolution.HOLD:
        console.print(_REOPENED)
    if stopped is not None:
        left = f"Of {len(cases)} orders, {len(cases) - len(rows)} were not reached."
        return terminal.refused(f"{explanation(stopped)} {left}")
    return int(any(row.refused for row in rows))


async def _each(
    decision: Decision, cases: Sequence[ReviewCase], rows: list[_Row], status: Status, *, dry_run: bool
) -> None:
    for number, case in enumerate(cases, 1):
        status.update(f"{number} of {len(cases)}")
        about = replace(decision, order_id=case.order_id)
        if about.amount is None:  # only what was selected
            about = replace(about, amount=case.amount_at_risk, currency=case.currency)
        try:
            new = await decisions.resolve(about, dry_run=dry_run)
        except ReviewError as error:
            rows.append(_Row(case, str(error), refused=True))
        else:
            rows.append(_Row(case, _DONE[decision.resolution] if new else "decided before", changed=new))


@dataclass(frozen=True, slots=True)
class _Row:
    """The result for one order."""

    case: ReviewCase
    result: str
    refused: bool = False
    changed: bool = False


def _listed(cases: Sequence[ReviewCase]) -> rich.Group:
    """Makes one line per order, and the sums."""
    columns = ("order", "since", "step", ">at risk", "code", "last error", ">retries", "next try")
    less = ("retries", "next try", "last error", "since", "step", "code")
    title = f"Under manual review: {len(cases)}"
    table = terminal.table(title, *columns, wrapped=("last error",), optional=less)
    for case in cases:
        table.add_row(
            Text(case.order_id),
            shown_minute(case.since),
            case.step,
            money(case.amount_at_risk, case.currency),
            case.error_code,
            Text(case.last_error),
            str(case.retries),
            _next_try(case),
        )
    return rich.Group(table, _sums(cases))


def _decided(rows: Sequence[_Row], *, dry_run: bool) -> rich.Group:
    """Makes one line per order, the count of each result, and the sum of the changed ones."""
    title = "What would be done; nothing was changed" if dry_run else "What was done"
    table = terminal.table(title, "order", "step", ">at risk", "result", wrapped=("result",))
    for row in rows:
        style = "bold red" if row.refused else "green" if row.changed else "dim"
        amount = money(row.case.amount_at_risk, row.case.currency)
        table.add_row(Text(row.case.order_id), row.case.step, amount, Text(row.result, style))
    counts = Counter("refused" if row.refused else row.result for row in rows)
    text = ", ".join(f"{count} {result}" for result, count in counts.most_common())
    return rich.Group(table, Text(f"{text}; ") + _sums([row.case for row in rows if row.changed]))


def _details(case: ReviewCase, decisions: Iterable[ReviewEntry]) -> dict[str, str]:
    """Returns the details of one order, by label."""
    return {
        "order": case.order_id,
        "since": shown_minute(case.since),
        "step": case.step,
        "at risk": money(case.amount_at_risk, case.currency),
        "code": case.error_code,
        "last error": case.last_error,
        "retries": str(case.retries),
        "next try": _next_try(case),
        "what to do": in_commands(advice(case)),
        "to settle it": _settling(case) or "no money is at risk",
        "decided before": "; ".join(_decision(each) for each in decisions) or "nothing",
    }


_COMMANDS = {
    "Run resolve-order: 'hold'": "Run order-saga review hold",
    "resolve-order with ": "",
    "'retry_now'": "order-saga review retry",
    "'hold'": "order-saga review hold",
    "'refunded_by_hand' with the reference": "order-saga review refunded --reference R",
    "'refunded_by_hand' and the reference": "order-saga review refunded --reference R",
    "'refunded_by_hand'": "order-saga review refunded",
    "'written_off'": "order-saga review write-off",
}
"""What a person at the command line uses instead of the words of the form `resolve-order`."""


def in_commands(text: str) -> str:
    """Returns the advice for the command line."""
    for words, command in _COMMANDS.items():
        text = text.replace(words, command)
    return text


def _settling(case: ReviewCase) -> str | None:
    """Returns the command that settles this amount and no other; None if no money is at risk."""
    if case.amount_at_risk <= 0:
        return None
    amount = f"{case.amount_at_risk} {case.currency}"
    order = shlex.quote(case.order_id)
    return f'order-saga review refunded {order} --amount "{amount}" --by NAME --reference R'


def _decision(row: ReviewEntry) -> str:
    reference = f", {row.reference}" if row.reference else ""
    return f"{row.at} {row.action} by {row.by}{reference} ({row.started_by or 'unknown'})"


def _next_try(case: ReviewCase) -> str:
    if case.being_retried:
        return "now"
    return shown_minute(case.next_retry_at) if case.next_retry_at else "held"


def _sums(cases: Iterable[ReviewCase]) -> Text:
    sums: dict[str, Decimal] = {}
    for case in cases:
        sums[case.currency] = sums.get(case.currency, Decimal(0)) + case.amount_at_risk
    amounts = ", ".join(money(amount, currency) for currency, amount in sorted(sums.items()))
    return Text(f"at risk: {amounts or 'nothing'}")
