"""Orders whose parcels go through a carrier outside, in both lanes. Checked against the carrier: a label that
was bought and not taken back is a parcel that can leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga import failpoints
from shop.orders import intake, report
from shop.orders.names import own_name
from shop.orders.outcomes import OrderOutcome, Outcome
from shop.review.cancel import ask_to_cancel_sync
from shop.settings import settings
from shop.shipping.carriers import close_carriers
from shop.shipping.labels.stored import label_path
from tests.easypost_server import EasyPost
from tests.integration.world import World, an_order

PRICE = Decimal("999.99")


@pytest.fixture
async def shipping(
    saga: World, easypost_server: EasyPost, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """The shop, with its parcels at EasyPost."""
    for name, value in {**easypost_server.settings, "CARRIER_TIMEOUT_SECONDS": "1"}.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield saga
    failpoints.watch(None)
    await close_carriers()
    easypost_server.behave()


async def own_run(orders: list[dict[str, Any]]) -> None:
    for order in orders:
        await process_order(order, return_state=True)


async def pending(orders: list[dict[str, Any]]) -> None:
    intake.submit(orders)
    await process_pending_orders(consumer_seconds=0)


LANES = pytest.mark.parametrize("lane", [own_run, pending])


def ended(order_id: str) -> OrderOutcome:
    return report.read([order_id])[order_id]


def when(point: str, act: Callable[[], None]) -> None:
    """Does it when the point is passed, once."""
    done: list[str] = []

    def watcher(passed: str) -> None:
        if passed == point and not done:
            done.append(passed)
            act()

    failpoints.watch(watcher)


@LANES
async def test_orders_end_with_one_label_each_or_none(
    shipping: World, easypost_server: EasyPost, unique: str, lane: Any
) -> None:
    good, refused, unlabelled, declined = (
        f"{unique}-{n}" for n in ("good", "refused", "unlabelled", "declined")
    )
    await lane(
        [
            an_order(good),
            an_order(refused, country="AQ"),
            an_order(unlabelled, country="BV"),
            an_order(declined, card="0000"),
        ]
    )

    assert ended(good).outcome is Outcome.COMPLETED
    (label,) = easypost_server.labels(good)
    (shipment,) = shipping.sql("SELECT * FROM shipment WHERE order_id = :id", id=good)
    assert (shipment.tracking_number, shipment.carrier, shipment.service) == (
        label["tracking_code"],
        "USPS",
        "GroundAdvantage",
    )
    assert label["tracking_code"] in shipping.mail(good, "confirmation")
    assert (label_path(shipping.var_dir / "labels", good)).read_bytes().startswith(b"%PDF-")
    for order_id, why in ((refused, "not served"), (unlabelled, "Nobody lives there")):
        assert ended(order_id).outcome is Outcome.COMPENSATED
        assert why in ended(order_id).reasons[0]
        assert shipping.money(order_id) == (PRICE, PRICE)
    for order_id in (refused, unlabelled, declined):
        assert easypost_server.labels(order_id) == []
        assert shipping.shipments(order_id) == 0
    shipping.assert_books_balance()


@pytest.mark.parametrize(
    ("lane", "fault"), [(own_run, "silent_after"), (pending, "lost_after"), (pending, "silent_after")]
)
async def test_a_lost_answer_is_one_label(
    shipping: World, easypost_server: EasyPost, unique: str, lane: Any, fault: str
) -> None:
    easypost_server.misbehave("buy", fault, order_id=unique, seconds=1)
    await lane([an_order(unique), an_order(f"{unique}-other")])
    for order_id in (unique, f"{unique}-other"):
        assert ended(order_id).outcome is Outcome.COMPLETED
        assert len(easypost_server.labels(order_id)) == easypost_server.good_labels(order_id) == 1
    shipping.assert_books_balance()


@LANES
async def test_cancelled_after_its_label_was_bought(
    shipping: World, easypost_server: EasyPost, unique: str, lane: Any
) -> None:
    """The transaction finds it cancelled: nothing leaves, and the label is voided."""
    when("after buying a label", lambda: _cancel(unique))
    await lane([an_order(unique)])
    assert (ended(unique).outcome, ended(unique).failing_step) == (Outcome.COMPENSATED, "fulfill_order")
    assert len(easypost_server.labels(unique)) == 1
    assert easypost_server.good_labels(unique) == 0
    assert shipping.shipments(unique) == 0
    assert shipping.money(unique) == (PRICE, PRICE)
    assert [undone.compensation for undone in ended(unique).undone] == [
        "return_shipment",
        "refund_payment",
        "release_inventory",
    ]
    assert shipping.journal(unique)["fulfill_order"].undo_result["label"] == "voided"
    shipping.assert_books_balance()


async def test_its_reservation_ran_out_while_the_label_was_bought(
    shipping: World, easypost_server: EasyPost, unique: str
) -> None:
    def lose() -> None:
        shipping.sql("UPDATE reservation SET state = 'released' WHERE order_id = :id", id=unique)
        shipping.sql("UPDATE product SET reserved = reserved - 1 WHERE id = 'PROD-001'")

    when("after buying a label", lose)
    await own_run([an_order(unique)])
    assert ended(unique).outcome is Outcome.COMPENSATED
    assert (len(easypost_server.labels(unique)), easypost_server.good_labels(unique)) == (1, 0)
    shipping.assert_books_balance()


@LANES
async def test_a_shipped_order_that_is_cancelled_has_its_label_voided(
    shipping: World, easypost_server: EasyPost, unique: str, lane: Any
) -> None:
    await lane([an_order(unique)])
    on_hand = shipping.stock("PROD-001")[0]
    _cancel(unique)
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is Outcome.COMPENSATED
    assert easypost_server.good_labels(unique) == 0
    assert shipping.stock("PROD-001") == (on_hand + 1, 0)
    assert shipping.money(unique) == (PRICE, PRICE)
    shipping.assert_books_balance()


async def test_after_it_was_handed_over_it_is_a_return(
    shipping: World, easypost_server: EasyPost, unique: str
) -> None:
    await own_run([an_order(unique)])
    easypost_server.scan(unique)
    _cancel(unique)
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is Outcome.COMPENSATED
    assert easypost_server.good_labels(unique) == 1, "it is on its way"
    assert shipping.journal(unique)["fulfill_order"].undo_result["label"] == "handed_over"
    assert shipping.money(unique) == (PRICE, PRICE)
    shipping.assert_books_balance()


async def test_a_label_that_is_not_taken_back_is_for_a_person(
    shipping: World, easypost_server: EasyPost, unique: str
) -> None:
    """What can be undone is: the money goes back all the same."""
    easypost_server.misbehave("forget", "refunds")
    when("after buying a label", lambda: _cancel(unique))
    await own_run([an_order(unique)])
    assert ended(unique).outcome is Outcome.NEEDS_ATTENTION
    (case,) = shipping.sql(
        "SELECT step, error_code, amount_at_risk FROM attention WHERE order_id = :id", id=unique
    )
    assert (case.step, case.error_code, case.amount_at_risk) == ("fulfill_order", "void_refused", 0)
    assert shipping.money(unique) == (PRICE, PRICE)


async def test_a_label_that_was_bought_too_late_is_voided(
    shipping: World, easypost_server: EasyPost, unique: str
) -> None:
    """Its process was paused right before it asked,
    until another one had waited long enough, and undone the order."""

    def undone_meanwhile() -> None:
        shipping.sql("UPDATE lease SET taken_from = true")
        shipping.sql(
            "UPDATE customer_order SET fence = fence + 1, lease_id = NULL, "
            "outcome = 'compensated', finished_at = now() WHERE id = :id",
            id=unique,
        )
        shipping.sql(
            "UPDATE order_step SET undo_status = 'done', undo_due = false WHERE step = 'fulfill_order'"
        )

    when("before buying a label", undone_meanwhile)
    await process_order(an_order(unique), return_state=True)
    assert len(easypost_server.labels(unique)) == 1
    assert easypost_server.good_labels(unique) == 0, "no parcel can leave"
    assert shipping.shipments(unique) == 0


async def test_an_order_waits_for_an_unavailable_carrier(
    shipping: World, easypost_server: EasyPost, unique: str
) -> None:
    """Paid orders are postponed with their stock, and continue when it is available."""
    easypost_server.misbehave("create", "error_503", times=1000)
    intake.submit([an_order(unique)])
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is None
    assert shipping.money(unique) == (PRICE, 0)
    assert shipping.stock("PROD-001")[1] == 1
    easypost_server.behave()
    shipping.sql("UPDATE customer_order SET not_before = NULL")
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is Outcome.COMPLETED
    assert easypost_server.good_labels(unique) == 1


async def test_an_order_waits_for_a_label_that_may_still_arrive(
    shipping: World, easypost_server: EasyPost, unique: str
) -> None:
    """It was asked for and not answered when the order is cancelled:
    it is not called void before it is certain what became of it."""
    when("before buying a label", lambda: _cancel(unique))
    easypost_server.misbehave("buy", "lost", order_id=unique, times=1)
    intake.submit([an_order(unique)])
    await process_pending_orders(consumer_seconds=0)

    async def over() -> bool:
        await process_pending_orders(consumer_seconds=0)
        return ended(unique).outcome is not None

    deadline = asyncio.get_running_loop().time() + 30
    while not await over():
        assert asyncio.get_running_loop().time() < deadline
        shipping.sql("UPDATE customer_order SET not_before = NULL")
    assert ended(unique).outcome is Outcome.COMPENSATED
    assert easypost_server.good_labels(unique) == 0
    shipping.assert_books_balance()


async def test_an_order_stays_with_the_carrier_that_it_was_begun_with(
    shipping: World, easypost_server: EasyPost, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await own_run([an_order(unique)])
    monkeypatch.setenv("CARRIER", "embedded")
    settings.cache_clear()
    _cancel(unique)
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is Outcome.COMPENSATED
    assert easypost_server.good_labels(unique) == 0


class TestAnotherShopWithTheSameAccount:
    """It has bought a label for an order of its own, which has the same id as ours."""

    @pytest.fixture(params=["as plugins write it", "another installation of ours"])
    def theirs(
        self, request: pytest.FixtureRequest, easypost_server: EasyPost, unique: str
    ) -> dict[str, Any]:
        reference = unique if request.param == "as plugins write it" else own_name("fedcba9876543210", unique)
        return easypost_server.sell_to_another_shop(unique, reference=reference)

    @pytest.fixture(autouse=True)
    def untouched(self, theirs: dict[str, Any], easypost_server: EasyPost, unique: str) -> Iterator[None]:
        """Whatever becomes of ours."""
        yield
        (label,) = [each for each in easypost_server.labels(unique) if each["shipment_id"] == theirs["id"]]
        assert label["refund_status"] is None

    def ours(self, easypost_server: EasyPost, theirs: dict[str, Any], order_id: str) -> list[dict[str, Any]]:
        return [label for label in easypost_server.labels(order_id) if label["shipment_id"] != theirs["id"]]

    @LANES
    @pytest.mark.parametrize("move", ["create", "buy"])
    async def test_ours_is_refused(
        self,
        shipping: World,
        easypost_server: EasyPost,
        theirs: dict[str, Any],
        unique: str,
        lane: Any,
        move: str,
    ) -> None:
        easypost_server.misbehave(move, "error_422", order_id=unique)
        await lane([an_order(unique)])
        assert ended(unique).outcome is Outcome.COMPENSATED
        assert self.ours(easypost_server, theirs, unique) == []
        assert shipping.money(unique) == (PRICE, PRICE)
        assert shipping.shipments(unique) == 0
        shipping.assert_books_balance()

    @LANES
    @pytest.mark.parametrize(
        ("move", "fault"),
        [
            ("create", "error_500"),
            ("create", "silent_after"),
            ("create", "lost_after"),
            ("buy", "error_500"),
            ("buy", "silent_after"),
        ],
    )
    @pytest.mark.short_form("silent_after-pending")
    async def test_our_first_call_goes_wrong(
        self,
        shipping: World,
        easypost_server: EasyPost,
        theirs: dict[str, Any],
        unique: str,
        lane: Any,
        move: str,
        fault: str,
    ) -> None:
        easypost_server.misbehave(move, fault, order_id=unique, seconds=1)
        await lane([an_order(unique)])
        assert ended(unique).outcome is Outcome.COMPLETED
        (label,) = self.ours(easypost_server, theirs, unique)
        (parcel,) = shipping.sql("SELECT tracking_number FROM shipment WHERE order_id = :id", id=unique)
        assert parcel.tracking_number == label["tracking_code"] != theirs["tracking_code"]
        (made,) = [each for each in easypost_server.shipments(unique) if each["id"] == label["shipment_id"]]
        assert (made["to_address"]["name"], made["to_address"]["zip"]) == ("John Doe", "90210")
        shipping.assert_books_balance()

    @LANES
    async def test_ours_is_returned(
        self, shipping: World, easypost_server: EasyPost, theirs: dict[str, Any], unique: str, lane: Any
    ) -> None:
        await lane([an_order(unique)])
        _cancel(unique)
        await process_pending_orders(consumer_seconds=0)
        assert ended(unique).outcome is Outcome.COMPENSATED
        assert [label["refund_status"] for label in self.ours(easypost_server, theirs, unique)] == [
            "submitted"
        ]
        assert shipping.money(unique) == (PRICE, PRICE)
        shipping.assert_books_balance()

    @pytest.mark.short_form("another installation")
    async def test_an_earlier_version_had_noted_it_for_ours(
        self, shipping: World, easypost_server: EasyPost, theirs: dict[str, Any], unique: str
    ) -> None:
        """It had found it by the order's id, and its process died before it shipped with it."""
        easypost_server.misbehave("create", "error_503", times=1000)
        intake.submit([an_order(unique)])
        await process_pending_orders(consumer_seconds=0)
        assert ended(unique).outcome is None
        noted = json.dumps({"quote_id": theirs["id"], "carrier": "easypost", "asked_at": 0})
        shipping.sql(
            "UPDATE order_step SET notes = CAST(:noted AS jsonb) "
            "WHERE order_id = :id AND step = 'fulfill_order'",
            id=unique,
            noted=noted,
        )
        shipping.sql("UPDATE customer_order SET not_before = NULL")
        easypost_server.behave()
        await process_pending_orders(consumer_seconds=0)
        assert ended(unique).outcome is Outcome.COMPLETED
        (label,) = self.ours(easypost_server, theirs, unique)
        (parcel,) = shipping.sql("SELECT tracking_number FROM shipment WHERE order_id = :id", id=unique)
        assert parcel.tracking_number == label["tracking_code"]


async def test_an_order_begun_by_an_earlier_version_continues_with_its_own_label(
    shipping: World, easypost_server: EasyPost, unique: str
) -> None:
    """Its shipment, which is bought already, bears the order's id alone and the order's address."""
    easypost_server.misbehave("create", "error_503", times=1000)
    intake.submit([an_order(unique)])
    await process_pending_orders(consumer_seconds=0)
    easypost_server.behave()
    to = an_order(unique)["shipping_info"]
    address = {"name": to["name"], "street1": to["address"]} | {
        part: to[part] for part in ("city", "state", "zip", "country")
    }
    sold = easypost_server.sell_to_another_shop(unique, **address)
    noted = json.dumps({"quote_id": sold["id"], "carrier": "easypost", "asked_at": 0})
    shipping.sql(
        "UPDATE order_step SET notes = CAST(:noted AS jsonb) WHERE order_id = :id AND step = 'fulfill_order'",
        id=unique,
        noted=noted,
    )
    shipping.sql("UPDATE customer_order SET not_before = NULL")
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is Outcome.COMPLETED
    assert [label["tracking_code"] for label in easypost_server.labels(unique)] == [sold["tracking_code"]]
    _cancel(unique)
    await process_pending_orders(consumer_seconds=0)
    assert easypost_server.good_labels(unique) == 0


async def test_an_order_quoted_by_an_earlier_version_without_a_price_continues(
    shipping: World, easypost_server: EasyPost, unique: str
) -> None:
    easypost_server.misbehave("buy", "error_503", times=1000)
    intake.submit([an_order(unique)])
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is None
    (quoted,) = shipping.sql(
        "SELECT notes -> 'quoted' AS rate FROM order_step WHERE order_id = :id AND step = 'fulfill_order'",
        id=unique,
    )
    assert (quoted.rate["amount"], quoted.rate["currency"]) == ("5.93", "USD")
    easypost_server.behave()
    shipping.sql(
        "UPDATE order_step SET notes = notes || '{\"quoted\": true}'::jsonb "
        "WHERE order_id = :id AND step = 'fulfill_order'",
        id=unique,
    )
    shipping.sql("UPDATE customer_order SET not_before = NULL")
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is Outcome.COMPLETED
    (made,) = easypost_server.shipments(unique)
    assert [label["shipment_id"] for label in easypost_server.labels(unique)] == [made["id"]]


def _cancel(order_id: str) -> None:
    ask_to_cancel_sync(order_id, reason="changed their mind", requested_by="ann")
