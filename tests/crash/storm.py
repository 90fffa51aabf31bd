"""Random kills: many orders in both lanes, several workers,
one of them killed every second or so, a gateway that fails now and then."""

from __future__ import annotations

import random
import signal
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from saga.errors import StepTimeout
from shop.notifications.kinds import Kind
from shop.notifications.maildir import mail_name
from shop.orders.outcomes import Outcome
from shop.payments.errors import PaymentGatewayError, PaymentGatewayTimeout
from tests.crash.scenarios import PRICE, SCENARIOS
from tests.crash.site import Shop, Site
from tests.worker_forkserver.forkserver import Process

_MIX = {"completes": 12, "cannot be shipped": 3, "declined": 2, "sold out": 1, "invalid": 1, "answer lost": 1}
_LEASE_SECONDS = 2
SLOWEST_RECOVERY = 45 * _LEASE_SECONDS
"""Seconds. A lease has to expire, and a worker that survives to claim the orders; that may be
the third one, on a slow machine that is starting others. Anything longer was not recovered."""
# Of what is asked while charging (create, confirm, look up) one answer in thirty is an error or does not
# come: one try in ten fails, and five tries in a row fail for one order in a hundred thousand. More is a
# machine that is so slow that answers come too late.
_MOST_UNDONE = 0.1
_GATEWAYS_FAULTS = {kind.code for kind in (PaymentGatewayError, PaymentGatewayTimeout, StepTimeout)}
_HELD_BY = (
    "SELECT o.id FROM customer_order o JOIN lease l ON l.id = o.lease_id "
    "WHERE o.outcome IS NULL AND l.holder LIKE '%:' || :pid"
)
_HOLDERS = (
    "SELECT DISTINCT l.holder FROM customer_order o JOIN lease l ON l.id = o.lease_id WHERE o.outcome IS NULL"
)
_STILL = (
    "SELECT o.id FROM customer_order o JOIN lease l ON l.id = o.lease_id "
    "WHERE o.id = ANY(CAST(:ids AS text[])) AND o.outcome IS NULL AND l.holder LIKE '%:' || :pid"
)


@dataclass
class Report:
    """How it went."""

    seed: int
    orders: int
    kills: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    undone: int = 0
    """Orders that would have completed, had the gateway not failed."""
    recovered: int = 0
    """Orders that another worker took over."""
    longest_recovery: float = 0
    """Seconds from a kill until somebody else had the last of its orders."""
    seconds: float = 0
    discrepancies: list[str] = field(default_factory=list)


def storm(
    site: Site, *, orders: int, seed: int, workers: int = 3, pause: float = 1.0, limit: float = 900
) -> Report:
    """Kills until every order has its outcome, then lets one worker finish, then checks money, stock and
    mails. The same seed makes the same orders, the same choices and the same gateway; how far each worker
    is when it is killed depends on the machine."""
    dice, report, begin = random.Random(seed), Report(seed, orders), time.monotonic()
    gateway = dice.choice(["remembers", "forgets"])
    with site.shop(
        gateway,
        LEASE_SECONDS=str(_LEASE_SECONDS),
        MAX_TAKEOVERS="1000",
        BATCH_SIZE=str(max(4, orders // 25)),
        RESERVATION_MINUTES="60",
    ) as shop:
        _stock_up(shop, orders)
        sent = {
            f"STORM-{uuid.uuid4().hex[:10]}": dice.choices(list(_MIX), list(_MIX.values()))[0]
            for _ in range(orders)
        }
        contents = [SCENARIOS[name].order(order_id) for order_id, name in sent.items()]
        # It takes its time, so that many die in the middle.
        shop.world.misbehave(
            forget_keys=gateway == "forgets", error_rate=0.03, hang_rate=0.005, latency_ms=150, seed=seed
        )
        try:
            _kill_and_kill(shop, contents, dice, report, workers, pause, begin + limit)
        finally:
            shop.world.misbehave(error_rate=0, hang_rate=0, latency_ms=0)
        deadline = time.monotonic() + 120
        while shop.world.sql(
            "SELECT 1 FROM customer_order WHERE outcome IS NULL "
            "UNION SELECT 1 FROM outbox WHERE sent_at IS NULL LIMIT 1"
        ):
            assert time.monotonic() < deadline, "the orders do not come to their ends"
            shop.time_passes()
            shop.work("pending", [], seconds=200)
        _judge(shop, sent, report)
    report.seconds = time.monotonic() - begin
    return report


def _stock_up(shop: Shop, orders: int) -> None:
    shop.world.receive("PROD-001", 2 * orders)


def _kill_and_kill(
    shop: Shop,
    contents: list[dict[str, Any]],
    dice: random.Random,
    report: Report,
    workers: int,
    pause: float,
    limit: float,
) -> None:
    lost: list[tuple[int, float, list[str]]] = []
    at_work: list[Process] = []
    # each worker's part is submitted by it, all of them over and over
    shares = [contents[i::workers] for i in range(workers)]
    next_kill, pace, left_before = time.monotonic(), pause, len(contents)
    try:
        while True:
            at_work = [worker for worker in at_work if worker.running()]
            while len(at_work) < workers:
                share = dice.choice(shares)
                lane = "process_order" if dice.random() < 0.3 else "pending"
                at_work.append(shop.start(lane, [dice.choice(share)] if lane == "process_order" else share))
            lost = _still_lost(shop, lost, report)
            left = shop.world.sql(
                "SELECT count(*) FILTER (WHERE outcome IS NULL), count(*) FROM customer_order"
            )[0]
            if left[0] == 0 and left[1] == len(contents):
                return
            assert time.monotonic() < limit, f"{left} orders are left after {report.kills} kills"
            if time.monotonic() > next_kill and (
                chosen := _in_danger(shop, at_work, only_holders=report.kills % 2 == 0)
            ):
                victim = dice.choice(chosen)
                victim.signal(signal.SIGKILL)
                held = [row.id for row in shop.world.sql(_HELD_BY, pid=str(victim.pid))]
                report.kills += 1
                if held:
                    lost.append((victim.pid, time.monotonic(), held))
                # On a slow machine workers need longer to get anywhere: the pace gives them that.
                pace = pause if left[0] < left_before else pace * 1.3
                left_before = left[0]
                next_kill = time.monotonic() + pace * dice.uniform(0.5, 1.5)
            time.sleep(0.05)  # the pace of the storm; nothing is waited for here
    finally:
        for worker in at_work:
            worker.signal(signal.SIGKILL)


def _in_danger(shop: Shop, at_work: list[Process], *, only_holders: bool) -> list[Process]:
    """Which processes may be killed. Every other time only those that hold orders:
    on a quick machine most kills would hit nothing else."""
    if not only_holders:
        return at_work
    holders = {row.holder.rpartition(":")[2] for row in shop.world.sql(_HOLDERS)}
    return [worker for worker in at_work if str(worker.pid) in holders]


def _still_lost(
    shop: Shop, lost: list[tuple[int, float, list[str]]], report: Report
) -> list[tuple[int, float, list[str]]]:
    still = []
    for pid, since, ids in lost:
        if left := [row.id for row in shop.world.sql(_STILL, ids=ids, pid=str(pid))]:
            still.append((pid, since, left))
        report.longest_recovery = max(report.longest_recovery, time.monotonic() - since)
    return still


def _judge(shop: Shop, sent: dict[str, str], report: Report) -> None:
    rows = {row.id: row for row in shop.world.sql("SELECT * FROM customer_order")}
    mails, labels = set(shop.world.mails()), set(shop.world.labels(sent))
    for order_id, name in sent.items():
        expected, row = SCENARIOS[name], rows.get(order_id)
        if row is None:
            report.discrepancies.append(f"{order_id} was lost")
            continue
        report.outcomes[row.outcome] += 1
        report.recovered += row.takeovers > 0
        charged, refunded = shop.world.money(order_id)
        completed = row.outcome == Outcome.COMPLETED
        # A gateway that fails often enough is a reason to undo an order that would have completed,
        # and there is no other.
        undone = (
            expected.outcome is Outcome.COMPLETED
            and row.outcome == Outcome.COMPENSATED
            and _for_the_gateway(row)
        )
        report.undone += undone
        facts = {
            "outcome": row.outcome == expected.outcome or undone,
            "charged once at most": shop.world.charges(order_id) <= 1,
            "the money": charged - refunded == (PRICE if completed else 0),
            "our amounts": (row.amount_charged, row.amount_refunded) == (charged, refunded),
            "one parcel": shop.world.shipments(order_id) == completed,
            "one label": (order_id in labels) == completed,
            "one mail": (mail_name(order_id, Kind.CONFIRMATION) in mails) == completed,
            "notified of the refund": (mail_name(order_id, Kind.REFUND) in mails) == (refunded > 0),
            "notified once of the failure": (mail_name(order_id, Kind.PAYMENT_FAILED) in mails)
            == (row.outcome == Outcome.COMPENSATED and row.failing_step == "process_payment" and not charged),
            "notified of what is short": (mail_name(order_id, Kind.OUT_OF_STOCK) in mails)
            == (row.outcome == Outcome.OUT_OF_STOCK),
        }
        report.discrepancies += [
            f"{order_id} ({name}, {row.outcome}): {what}" for what, holds in facts.items() if not holds
        ]
    might = sum(SCENARIOS[name].outcome is Outcome.COMPLETED for name in sent.values())
    if report.undone > max(1, _MOST_UNDONE * might):
        report.discrepancies.append(
            f"{report.undone} of {might} orders were undone that would have completed"
        )
    try:
        shop.world.assert_books_balance()
    except AssertionError as error:
        report.discrepancies.append(f"the books: {error}")


def _for_the_gateway(row: Any) -> bool:
    """Whether the order is undone because the gateway gave no usable answer."""
    return row.failing_step == "process_payment" and (row.failure or {}).get("code") in _GATEWAYS_FAULTS
