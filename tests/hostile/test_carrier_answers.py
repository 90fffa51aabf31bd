"""A carrier whose answers are wrong, each in one field: what it sold,
what left, and who paid says whether it was believed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from flows.process_pending_orders import process_pending_orders
from saga.errors import StepError
from shop.notifications import outbox
from shop.orders import intake, report
from shop.orders.order import Order
from shop.orders.outcomes import Outcome
from shop.review.cancel import ask_to_cancel_sync
from shop.settings import settings
from shop.shipping.carrier import Voided
from shop.shipping.carriers import close_carriers
from shop.shipping.labels.stored import label_path
from tests.easypost_server import ANOTHERS, MISSING, EasyPost
from tests.integration.test_easypost_carrier import make
from tests.integration.world import World, an_order

PRICE = Decimal("29.99")
HUGE = "x" * 50_000
_ALL: tuple[Any, ...] = (MISSING, None, [], 7, HUGE, 10**18, ANOTHERS)
PLAUSIBLE: dict[str, tuple[Any, ...]] = {
    "id": ("shp_0123456789abcdef0123456789abcdef", ANOTHERS),
    "reference": ("0123456789abcdef-another-shops", "", ANOTHERS),
    "status": ("cancelled",),
    "tracking_code": ("9400100000000000000000", ANOTHERS),
    "refund_status": ("submitted", "refunded", "rejected"),
    "to_address": (ANOTHERS, {}),
    "to_address.name": ("Somebody Else",),
    "to_address.street1": ("9 Other St",),
    "to_address.street2": ("Apt 9",),
    "to_address.city": ("Otherville",),
    "to_address.state": ("NV",),
    "to_address.zip": ("10001", "9", "902101"),
    "to_address.country": ("DE",),
    "parcel": ({},),
    "parcel.weight": (1.0,),
    "rates": ([], ANOTHERS),
    "rates.0": (ANOTHERS,),
    "rates.1.id": ("rate_0", ANOTHERS),
    "rates.1.carrier": ("DHL",),
    "rates.1.service": ("Pigeon",),
    "rates.1.rate": ("0.01", "999999.00", "-1.00", "NaN", "1e999999999"),
    "rates.1.currency": ("EUR",),
    "rates.1.shipment_id": ("shp_0", ANOTHERS),
    "selected_rate": (ANOTHERS, {}),
    "selected_rate.id": ("rate_0", ANOTHERS),
    "selected_rate.carrier": ("DHL",),
    "selected_rate.service": ("Pigeon",),
    "selected_rate.rate": ("0.01", "999999.00"),
    "selected_rate.currency": ("EUR",),
    "selected_rate.shipment_id": ("shp_0", ANOTHERS),
    "postage_label": (None, {}, ANOTHERS),
    "postage_label.label_url": ("https://evil.example/label.pdf", ANOTHERS),
    "postage_label.label_pdf_url": ("http://127.0.0.1:1/label.pdf", ANOTHERS),
    "postage_label.label_file_type": ("image/png",),
    "tracker": (ANOTHERS,),
    "tracker.tracking_code": ("9400100000000000000000", ANOTHERS),
    "tracker.shipment_id": ("shp_0", ANOTHERS),
    "tracker.status": ("delivered", "in_transit", "return_to_sender", "failure", "cancelled"),
    "messages": ([{"carrier": "USPS", "message": HUGE}],),
}
"""What each field of a shipment may say instead."""
MOVES = ("create", "get", "buy", "refund")


@dataclass(frozen=True)
class Lie:
    """`move`'s answers say `value` in the field at `path`: each of them, or the first one only."""

    move: str
    path: str
    value: Any
    once: bool

    def __str__(self) -> str:
        return f"{self.move}: {self.path}={str(self.value)[:40]}{' once' if self.once else ''}"


def lies(values: dict[str, tuple[Any, ...]], *once: bool) -> list[Lie]:
    return [
        Lie(move, path, value, each)
        for move in MOVES
        for path in values
        for value in values[path]
        for each in once
    ]


@pytest.fixture
async def shipping(
    saga: World, easypost_server: EasyPost, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """The shop, with its parcels at EasyPost."""
    for name, value in {**easypost_server.settings, "CARRIER_TIMEOUT_SECONDS": "10"}.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    saga.receive("PROD-002", 10000)
    yield saga
    await close_carriers()
    easypost_server.behave()


@pytest.mark.parametrize(
    "kind",
    [
        "good",
        pytest.param("cancelled", marks=pytest.mark.slow),
        pytest.param("answer lost", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "picked",
    [
        pytest.param(lies({path: values[:1] for path, values in PLAUSIBLE.items()}, False), id="one of each"),
        pytest.param(lies(PLAUSIBLE, False), id="always", marks=pytest.mark.slow),
        pytest.param(lies(PLAUSIBLE, True), id="once", marks=pytest.mark.slow),
    ],
)
async def test_no_lie_ships_to_another_or_sells_twice(
    shipping: World, easypost_server: EasyPost, unique: str, picked: list[Lie], kind: str
) -> None:
    """Nor does it leave an unrecorded label. An order that stays unclear goes to manual review."""
    easypost_server.sell_to_another_shop(f"{unique}-decoy")
    by_order = {f"{unique}-{number}": lie for number, lie in enumerate(picked)}
    for order_id, lie in by_order.items():
        easypost_server.lie(order_id, lie.move, lie.path, lie.value, once=lie.once)
        if kind == "answer lost":  # to the purchase: so that it is looked up
            easypost_server.misbehave("buy", "lost_after", order_id=order_id)
    intake.submit([an_order(order_id, product="PROD-002", price=str(PRICE)) for order_id in by_order])
    await settle(shipping, list(by_order))
    if kind == "cancelled":
        for order_id, end in report.read(list(by_order)).items():
            if end.outcome is Outcome.COMPLETED:
                ask_to_cancel_sync(order_id, reason="changed their mind", requested_by="ann")
        await settle(shipping, list(by_order))
    await outbox.deliver()
    ends = report.read(list(by_order))
    wrong = [
        f"{lie}: {why}"
        for order_id, lie in by_order.items()
        for why in judge(shipping, easypost_server, order_id, ends[order_id])
    ]
    assert not wrong, "\n".join(wrong)
    assert sum(end.outcome is Outcome.COMPLETED for end in ends.values()) < len(ends), (
        "some of it was noticed"
    )


@pytest.mark.parametrize("service", [None, "USPS GroundAdvantage"])
@pytest.mark.parametrize(("path", "value"), [("rates.1.rate", "5000.00"), ("rates.1.currency", "JPY")])
@pytest.mark.slow
async def test_a_price_that_grows_after_the_quote_is_not_paid(
    shipping: World,
    easypost_server: EasyPost,
    unique: str,
    path: str,
    value: str,
    service: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is a dearer service bought instead."""
    if service is not None:
        monkeypatch.setenv("CARRIER_SERVICE", service)
        settings.cache_clear()
    easypost_server.lie(unique, "get", path, value)
    intake.submit([an_order(unique, product="PROD-002", price=str(PRICE))])
    await settle(shipping, [unique])
    assert easypost_server.labels(unique) == []
    assert report.read([unique])[unique].outcome is Outcome.COMPENSATED
    assert shipping.money(unique) == (PRICE, PRICE)
    assert shipping.sql("SELECT * FROM shipment WHERE order_id = :id", id=unique) == []


@pytest.mark.parametrize("move", [pytest.param("create", marks=pytest.mark.slow), "get", "buy"])
@pytest.mark.slow
async def test_what_is_missing_or_of_another_kind_is_not_believed(
    easypost_server: EasyPost, unique: str, move: str
) -> None:
    """Each answer is the truth or a typed error, and a label that is said to be taken back is."""
    easypost_server.sell_to_another_shop(f"{unique}-decoy")
    carrier = make(easypost_server, CARRIER_TIMEOUT_SECONDS=30)
    by_order = {
        f"{unique}-{number}": lie
        for number, lie in enumerate(lies(dict.fromkeys(PLAUSIBLE, _ALL), False))
        if lie.move == move
    }
    noticed = 0
    for order_id, lie in by_order.items():
        easypost_server.lie(order_id, lie.move, lie.path, lie.value)
        order = Order.model_validate(an_order(order_id))
        quote_id = "shp_none"
        try:
            quote = await carrier.quote(order)
            quote_id = quote.id
            bought = await carrier.create(order, quote_id, quote.chosen)
        except StepError:
            noticed += 1
        else:
            (label,) = easypost_server.labels(order_id)
            assert (bought.id, bought.tracking_number) == (label["shipment_id"], label["tracking_code"]), str(
                lie
            )
            (there,) = easypost_server.shipments(order_id)
            price = Decimal(there["selected_rate"]["rate"])
            assert (bought.amount, bought.currency, bought.service) == (
                price,
                "USD",
                there["selected_rate"]["service"],
            ), str(lie)
        assert len(easypost_server.labels(order_id)) <= 1, str(lie)
        with suppress(StepError):
            if await carrier.void(order, quote_id) is not Voided.HANDED_OVER:
                assert easypost_server.good_labels(order_id) == 0, str(lie)
    assert len(by_order) / 4 < noticed < len(by_order)
    await carrier.aclose()
    easypost_server.behave()


async def settle(saga: World, order_ids: list[str]) -> None:
    """Lets all orders end; postponed orders are due at once."""
    for _ in range(20):
        await process_pending_orders(consumer_seconds=0)
        if all(end.outcome is not None for end in report.read(order_ids).values()):
            return
        saga.sql("UPDATE customer_order SET not_before = NULL")
        for note in ("asked_at", "away_since"):
            saga.sql(
                "UPDATE order_step SET notes = notes || jsonb_build_object(CAST(:note AS text), 1) "
                "WHERE jsonb_exists(notes, :note)",
                note=note,
            )
    raise AssertionError(
        f"not ended: {[i for i, end in report.read(order_ids).items() if end.outcome is None]}"
    )


def judge(saga: World, carrier: EasyPost, order_id: str, end: Any) -> Iterator[str]:
    """What is wrong with the order, by the carrier's own book, our parcels and the ledger."""
    bought = carrier.labels(order_id)
    good = [label for label in bought if label["refund_status"] is None]
    charged, refunded = saga.money(order_id)
    parcels = saga.sql("SELECT tracking_number, returned_at FROM shipment WHERE order_id = :id", id=order_id)
    printed = label_path(saga.var_dir / "labels", order_id).exists()
    left = [parcel for parcel in parcels if parcel.returned_at is None]
    if (
        left
        and end.outcome is Outcome.NEEDS_ATTENTION
        and saga.order(order_id).cancel_requested_at is not None
    ):
        left = []  # a person finds out what becomes of its label; what can be undone is
    if len(good) > 1:
        yield f"{len(good)} labels that can be used"
    if end.outcome is Outcome.COMPLETED and not left:
        yield "completed without a parcel"
    if left and [parcel.tracking_number for parcel in left] != [label["tracking_code"] for label in good]:
        yield f"a parcel {left} for labels {good}"
    if left and charged - refunded != PRICE:
        yield f"a parcel for {charged - refunded}"
    if end.outcome is Outcome.COMPENSATED and good:
        yield "undone, with a label that can be used"
    if end.outcome is Outcome.COMPENSATED and charged != refunded:
        yield f"undone, and {charged - refunded} kept"
    if end.outcome not in {Outcome.COMPLETED, Outcome.COMPENSATED, Outcome.NEEDS_ATTENTION}:
        yield f"it ended as {end.outcome}"
    if printed and not parcels:
        yield "a label was printed, and nothing shipped"
