"""A worker's line to the one gateway. Requests and answers wait for the test,
get lost, or arrive when they are no longer awaited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NoReturn

from shop.payments.errors import (
    PaymentError,
    PaymentGatewayError,
    PaymentGatewayTimeout,
    PaymentGatewayUnavailable,
)
from shop.payments.gateway import Payment, Refund
from shop.payments.sandbox.ledger import Ledger
from shop.payments.sandbox.records import PaymentRecord
from tests.model.trouble import Trouble
from tests.model.worker import Dead, Worker
from tests.sandbox_in_process import InProcessGateway


@dataclass(eq=False)
class Request:
    """Sent, and perhaps not yet arrived."""

    what: str
    work: Callable[[], Coroutine[Any, Any, Any]]
    arrived: bool = False

    def arrive(self) -> Any:
        """The gateway does it and answers; in process it never waits for anything.
        Raises what the gateway says no with."""
        self.arrived = True
        doing = self.work()
        try:
            doing.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("the gateway in process waits for something")


@dataclass(eq=False)
class Wire:
    """Between all workers and the gateway. `changed` is called after whatever may have moved money."""

    ledger: Ledger
    changed: Callable[[str], None]
    in_the_air: list[Request] = field(default_factory=list)
    """Requests that are no longer awaited, and may still arrive."""
    asked: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    """What has arrived that may have changed something: which move,
    about which order or payment, and whether its key was remembered."""

    def arrived(self, what: str) -> None:
        move, about = what.split(" ", 1)
        self.asked[move, about, not self.ledger.behaviour.forget_keys] += 1
        self.changed(what)

    def asked_about(
        self, order_id: str, payments: Sequence[PaymentRecord]
    ) -> dict[tuple[str, int, bool], int]:
        """How often each move was made about this order, and about which of its payments."""
        place = {order_id: -1} | {_number(payment.id): i for i, payment in enumerate(payments)}
        return {
            (move, place[about], kept): times
            for (move, about, kept), times in self.asked.items()
            if about in place
        }

    def arrives_late(self, number: int) -> str | None:
        """One of those in the air arrives."""
        if not self.in_the_air:
            return None
        request = self.in_the_air.pop(number % len(self.in_the_air))
        with suppress(PaymentError):  # the answer is not awaited
            request.arrive()
        self.arrived(request.what)
        return request.what


class Gateway:
    """A `PaymentGateway` for one worker."""

    def __init__(self, worker: Worker, wire: Wire) -> None:
        self._worker, self._wire = worker, wire
        self._real = InProcessGateway(wire.ledger)

    async def create(self, *, order_id: str, **rest: Any) -> Payment:
        return await self._send(f"create {order_id}", lambda: self._real.create(order_id=order_id, **rest))  # type: ignore[no-any-return]

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        return await self._send(  # type: ignore[no-any-return]
            f"confirm {_number(payment_id)}", lambda: self._real.confirm(payment_id, key=key)
        )

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        return await self._send(  # type: ignore[no-any-return]
            f"cancel {_number(payment_id)}", lambda: self._real.cancel(payment_id, key=key)
        )

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        def work() -> Coroutine[Any, Any, Refund]:
            return self._real.refund(payment_id, amount=amount, currency=currency, key=key)

        return await self._send(f"refund {_number(payment_id)}", work)  # type: ignore[no-any-return]

    async def get(self, payment_id: str) -> Payment:
        return await self._send(f"get {_number(payment_id)}", lambda: self._real.get(payment_id))  # type: ignore[no-any-return]

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        return await self._send(  # type: ignore[no-any-return]
            f"find {order_id}", lambda: self._real.find(order_id, installation=installation)
        )

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def _send(self, what: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        if self._worker.dead:
            raise Dead
        request, reads, trouble = Request(what, work), what.startswith(("get", "find")), None
        try:
            trouble = await self._worker.point(f"gateway: {what}", "gateway")
            if trouble not in {None, Trouble.LOST_ANSWER, Trouble.SLOW_ANSWER}:
                _fail(trouble)
            try:
                answer = request.arrive()
            finally:
                if not reads:
                    self._wire.arrived(what)
            if trouble is Trouble.SLOW_ANSWER:
                trouble = await self._worker.point(f"gateway: {what}, answered", "gateway")
            if trouble is not None:
                _fail(trouble)
        except BaseException as error:
            # Whoever sent it waits no longer, or is dead.
            if (
                not request.arrived
                and not reads
                and (trouble is Trouble.LATE_REQUEST or not isinstance(error, PaymentError))
            ):
                self._wire.in_the_air.append(request)
            raise
        return answer


def _number(payment_id: str) -> str:
    """Payments are counted, and have a name before their number that each ledger draws anew."""
    return payment_id.rsplit("_", 1)[-1]


def _fail(trouble: str | None) -> NoReturn:
    match trouble:
        case Trouble.ERROR:
            raise PaymentGatewayError("internal_error", "the gateway was told to fail", retryable=True)
        case Trouble.UNAVAILABLE:
            raise PaymentGatewayUnavailable(10)
        case _:
            raise PaymentGatewayTimeout("no answer")
