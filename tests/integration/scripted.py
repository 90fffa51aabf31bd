"""Orders under way, and effects that end as a test says, counted: in our own database and outside."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import saga.database_action
import saga.execution
import saga.external_action
from saga.database import Tx, transaction
from saga.definition import Kind, Step
from saga.errors import StepError
from shop.orders.order import OrderInstance
from shop.payments.errors import PaymentGatewayError
from tests.integration.domain import Shop, an_order

LONG = 30.0
Ends = Mapping[str, Any]


async def not_run(work: Any) -> None:
    """Tests call `run_in_database` and `run_external` themselves."""


def step(kind: Kind = Kind.COMPENSATABLE, *, name: str = "act", time_limit: float = LONG) -> Step:
    return Step(not_run, not_run if kind is Kind.COMPENSATABLE else None, kind, time_limit, 0, name=name)


ACT, READ, SHIP = step(), step(Kind.READ_ONLY, name="read"), step(Kind.PIVOT, name="ship")


def gone() -> OperationalError:
    return OperationalError("SELECT 1", {}, Exception("server closed the connection"))


def ids(orders: Sequence[OrderInstance]) -> list[str]:
    return [order.id for order in orders]


async def some(shop: Shop, *order_ids: str) -> list[OrderInstance]:
    return await shop.instance(*map(an_order, order_ids))


async def statuses(shop: Shop, name: str = "act") -> dict[str, str]:
    """Order to the status in its journal."""
    return dict(await shop.rows("SELECT order_id, status FROM order_step WHERE step = :step", step=name))


class Effects:
    """An effect in our own database: a piece of stock for each order. Ends some orders otherwise."""

    def __init__(self, shop: Shop, **ends: Any) -> None:
        self.shop, self.ends, self.asked = shop, ends, list[list[str]]()

    async def __call__(self, tx: Tx, orders: Sequence[OrderInstance]) -> Ends:
        self.asked.append(ids(orders))
        done: dict[str, Any] = {}
        for order in orders:
            end = self.ends.get(order.id)
            if isinstance(end, StepError):
                done[order.id] = end
                continue
            await tx.execute(text("UPDATE product SET on_hand = on_hand - 1 WHERE id = :id"), {"id": order.id})
            done[order.id] = {"piece": order.id}
            if isinstance(end, BaseException):
                raise end
        return done

    async def made(self) -> dict[str, int]:
        """How often each order's effect was made, of those that were made at all."""
        return {row.id: row.n for row in await self.shop.rows("SELECT id, received - on_hand AS n FROM product WHERE on_hand < received")}


class Outside:
    """An effect outside: one call for each order, counted. Each order answers as it is told to, one answer for each call."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {i: list(a) if isinstance(a, list) else [a] for i, a in answers.items()}
        self.calls, self.at_once, self._now = Counter[str](), Counter[str](), Counter[str]()
        self.hold: dict[str, asyncio.Event] = {}

    def slow(self, order_id: str) -> asyncio.Event:
        """This order answers when the event is set."""
        return self.hold.setdefault(order_id, asyncio.Event())

    def busy(self, order_id: str) -> bool:
        """Whether a call for this order is not answered yet."""
        return self._now[order_id] > 0

    async def __call__(self, order: OrderInstance) -> Any:
        self.calls[order.id] += 1
        self._now[order.id] += 1
        self.at_once[order.id] = max(self.at_once[order.id], self._now[order.id])
        try:
            if order.id in self.hold:
                await self.hold[order.id].wait()
            answers = self.answers.get(order.id, [])
            answer = answers.pop(0) if answers else None
            if isinstance(answer, BaseException):
                raise answer
            return {"called": order.id}
        finally:
            self._now[order.id] -= 1


def busy() -> PaymentGatewayError:
    return PaymentGatewayError("busy", "try again", retryable=True)


def failing_commits(monkeypatch: pytest.MonkeyPatch, *, arrives: bool, error: BaseException | None = None) -> None:
    """The next commit fails for the worker, whether it arrived at the database or not."""
    count = itertools.count()

    @asynccontextmanager
    async def unclear(*_: object, **_more: object) -> AsyncIterator[Tx]:
        fails = next(count) == 0
        async with transaction() as tx:
            yield tx
            if fails and not arrives:
                raise error or gone()
        if fails:
            raise error or gone()

    for module in (saga.execution, saga.database_action, saga.external_action):
        monkeypatch.setattr(module, "transaction", unclear)
