"""Orders whose stock is at an inventory service, in both lanes.
Checked against the service's own stock and reservations."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from deployments.local.postgres import EmbeddedPostgres
from deployments.samples import all_outside, load_samples
from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga import failpoints
from shop.inventory.catalogue import load_sample_catalogue
from shop.inventory.service.connections import close_inventories
from shop.inventory.service.contract import State, own_order_id, split_own_order_id
from shop.orders import intake, report
from shop.orders.outcomes import OrderOutcome, Outcome
from shop.reconciliation.discrepancy import Kind
from shop.reconciliation.stock import check_stock
from shop.review.cancel import ask_to_cancel_sync
from shop.review.preview import preview_cancel_sync
from shop.review.retry import NewMeans, retry
from shop.runtime.installation import installation_id
from shop.settings import settings
from shop.shipping.carriers import close_carriers
from tests.easypost_server import EasyPost
from tests.integration.test_samples import retry_sample
from tests.integration.world import World, an_order
from tests.inventory_server import InventoryServer, inventory_server

PRICE = Decimal("999.99")
_numbers = itertools.count(1)


@pytest.fixture
def service(postgres: EmbeddedPostgres, template_database: str) -> Iterator[InventoryServer]:
    """On a database of its own, with the sample catalogue."""
    name = f"stock_{next(_numbers)}"
    postgres.create_database(name, template=template_database)
    load_sample_catalogue(postgres.url(name))
    with inventory_server(postgres.url(name)) as server:
        yield server
    postgres.drop_database(name)


@pytest.fixture
async def stocked(
    saga: World, service: InventoryServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """The shop, with its stock at the service."""
    for name, value in {
        **service.settings,
        "INVENTORY_TIMEOUT_SECONDS": "1",
        "INVENTORY_BREAKER_SECONDS": "0.2",
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield saga
    failpoints.watch(None)
    await close_inventories()


def stock(service: InventoryServer, product: str = "PROD-001") -> tuple[int, int]:
    """(on hand, reserved), as the service says."""
    (found,) = [each for each in service.do(service.inventory.stock()) if each.id == product]
    assert found.is_sound
    return found.on_hand, found.reserved


def state(service: InventoryServer, order_id: str) -> State | None:
    found = service.do(service.inventory.get(service.name_of(order_id)))
    return found.state if found else None


async def own_run(orders: list[dict[str, Any]]) -> None:
    for order in orders:
        await process_order(order, return_state=True)


async def pending(orders: list[dict[str, Any]]) -> None:
    intake.submit(orders)
    await process_pending_orders(consumer_seconds=0)


LANES = pytest.mark.parametrize("lane", [own_run, pending])


def ended(order_id: str) -> OrderOutcome:
    return report.read([order_id])[order_id]


def when(point: str, act: Callable[[], object]) -> None:
    """Does it when the point is passed, once."""
    done: list[str] = []

    def watcher(passed: str) -> None:
        if passed == point and not done:
            done.append(passed)
            act()

    failpoints.watch(watcher)


def cancel(order_id: str) -> None:
    ask_to_cancel_sync(order_id, reason="changed their mind", requested_by="ann")


@LANES
async def test_orders_of_every_kind(stocked: World, service: InventoryServer, unique: str, lane: Any) -> None:
    good, refused, declined, short = (f"{unique}-{n}" for n in ("good", "refused", "declined", "short"))
    await lane(
        [
            an_order(good),
            an_order(refused, country="AQ"),
            an_order(declined, card="0000"),
            an_order(short, product="OUT-OF-STOCK"),
        ]
    )
    assert {i: ended(i).outcome for i in (good, refused, declined, short)} == {
        good: Outcome.COMPLETED,
        refused: Outcome.COMPENSATED,
        declined: Outcome.COMPENSATED,
        short: Outcome.OUT_OF_STOCK,
    }
    assert ended(short).reasons == ["OUT-OF-STOCK: 1 requested, 0 available"]
    assert [state(service, i) for i in (good, refused, declined, short)] == [
        State.SHIPPED,
        State.RELEASED,
        State.RELEASED,
        State.RELEASED,
    ]
    assert stock(service) == (99, 0)
    assert stocked.stock("PROD-001") == (100, 0), "our own tables have no part in it"
    assert stocked.sql("SELECT 1 FROM reservation") == []
    release = stocked.journal(declined)["check_inventory"].undo_result
    assert (release["compensation_status"], release["released_items"]) == ("success", {"PROD-001": 1})
    assert stocked.shipments(good) == 1
    stocked.assert_books_balance()


@LANES
async def test_a_second_try_reserves_again(
    stocked: World, service: InventoryServer, unique: str, lane: Any
) -> None:
    """What was released under the order's name has ended there: the second try has a name of its own, which
    no other order can have."""
    declined, short = f"{unique}-declined", f"{unique}-short"
    # Ids that look like the name of a second try.
    namesake = f"{await installation_id()}.2/{declined}"
    orders = [
        an_order(declined, card="0000"),
        an_order(short, product="OUT-OF-STOCK"),
        an_order(namesake, card="0000"),
    ]
    await lane(orders)
    assert stock(service) == (100, 0)
    await retry(short)
    await retry(declined, NewMeans(card_last4="1234"))
    await process_pending_orders(consumer_seconds=0)
    assert [ended(i).outcome for i in (declined, short)] == [Outcome.COMPLETED, Outcome.OUT_OF_STOCK]
    assert stock(service) == (99, 0)
    at = service.inventory
    mine = await installation_id()
    states = [service.do(at.get(own_order_id(mine, declined, number))).state for number in (1, 2)]
    assert states == [State.RELEASED, State.SHIPPED]
    assert split_own_order_id(own_order_id(mine, declined, 2)) == (mine, declined)
    assert own_order_id(mine, namesake) != own_order_id(mine, declined, 2)
    assert stocked.money(declined) == (PRICE, 0)
    await retry(namesake, NewMeans(card_last4="1234"))
    await process_pending_orders(consumer_seconds=0)
    assert ended(namesake).outcome is Outcome.COMPLETED
    assert stock(service) == (98, 0)
    assert [each async for each in check_stock()] == []
    stocked.assert_books_balance()


@pytest.mark.parametrize("carrier", ["embedded", "easypost"])
async def test_the_samples_end_as_make_run_expects(
    stocked: World,
    service: InventoryServer,
    easypost_server: EasyPost,
    unique: str,
    carrier: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = load_samples()
    if carrier == "easypost":
        samples = all_outside(samples)
        for name, value in easypost_server.settings.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
    orders = {
        f"{order['id']}-{unique}": {**order, "id": f"{order['id']}-{unique}"}
        for sample in samples
        for order in sample.orders
    }
    await pending(list(orders.values()))
    for sample in samples:
        sent = [orders[f"{order['id']}-{unique}"] for order in sample.orders]
        await retry_sample(sample, sent)
        ends = [ended(f"{order['id']}-{unique}") for order in sample.orders]
        for outcome, expected in zip(ends, sample.assign(ends), strict=True):
            assert expected.differences(outcome) == []
            assert stocked.money(outcome.order_id) == (expected.charged, expected.refunded)
    assert stock(service, "LAST-ONE") == (0, 0)
    await close_carriers()
    stocked.assert_books_balance()


@pytest.mark.parametrize("kind", ["silent", "lost", "500", "rubbish", "page"])
@pytest.mark.parametrize("lane", [pytest.param(own_run, marks=pytest.mark.slow), pending])
async def test_lost_answers_move_the_stock_once(
    stocked: World, service: InventoryServer, unique: str, lane: Any, kind: str
) -> None:
    """Every operation acts, and its answer does not arrive, or makes no sense."""
    bad, good = f"{unique}-bad", f"{unique}-good"
    for path in ("/reservations", "/release", "/commit", "/put-back"):
        service.misbehave(path, kind, after=True)
    await lane([an_order(bad, country="AQ"), an_order(good)])
    assert (ended(bad).outcome, ended(good).outcome) == (Outcome.COMPENSATED, Outcome.COMPLETED)
    assert (state(service, bad), state(service, good)) == (State.RELEASED, State.SHIPPED)
    assert stock(service) == (99, 0)
    assert (stocked.money(bad), stocked.money(good)) == ((PRICE, PRICE), (PRICE, 0))
    stocked.assert_books_balance()


async def test_an_unclear_reservation_is_looked_up_before_it_is_sent_again(
    stocked: World, service: InventoryServer, unique: str
) -> None:
    service.misbehave("/reservations", "lost", after=True)
    await own_run([an_order(unique)])
    assert ended(unique).outcome is Outcome.COMPLETED
    assert service.asked == ["/v1/reservations", "/v1/reservations", "/v1/reservations/commit"], (
        "reserved, looked up, committed"
    )


@LANES
async def test_cancelled_after_it_was_committed(
    stocked: World, service: InventoryServer, unique: str, lane: Any
) -> None:
    """Our transaction finds the order cancelled: what was committed is put back."""
    when("after committing at the inventory service", lambda: cancel(unique))
    await lane([an_order(unique)])
    assert (ended(unique).outcome, ended(unique).failing_step) == (Outcome.COMPENSATED, "fulfill_order")
    assert state(service, unique) is State.RETURNED
    assert stock(service) == (100, 0)
    assert stocked.money(unique) == (PRICE, PRICE)
    assert stocked.shipments(unique) == 0
    assert stocked.journal(unique)["fulfill_order"].undo_result["returned_items"] == {"PROD-001": 1}
    stocked.assert_books_balance()


@LANES
async def test_a_shipped_order_that_is_sent_back(
    stocked: World, service: InventoryServer, unique: str, lane: Any
) -> None:
    await lane([an_order(unique)])
    assert stock(service) == (99, 0)
    cancel(unique)
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is Outcome.COMPENSATED
    assert (state(service, unique), stock(service)) == (State.RETURNED, (100, 0))
    assert stocked.money(unique) == (PRICE, PRICE)
    stocked.assert_books_balance()


def run_out(service: InventoryServer, order_id: str) -> None:
    with psycopg.connect(service.database_url) as connection:
        connection.execute(
            "UPDATE reservation SET expires_at = now() - interval '1 second' WHERE order_id = %s",
            [service.name_of(order_id)],
        )
        connection.commit()
    assert service.do(service.inventory.expire()) == [service.name_of(order_id)]


async def test_what_ran_out_and_is_still_there_is_reserved_anew(
    stocked: World, service: InventoryServer, unique: str
) -> None:
    when("before committing at the inventory service", lambda: run_out(service, unique))
    await own_run([an_order(unique)])
    assert ended(unique).outcome is Outcome.COMPLETED
    assert (state(service, unique), stock(service)) == (State.SHIPPED, (99, 0))


async def test_what_ran_out_and_is_another_s_by_now(
    stocked: World, service: InventoryServer, unique: str
) -> None:
    def lose() -> None:
        run_out(service, unique)
        service.do(service.inventory.reserve("another", {"LAST-ONE": 1}, seconds=600))

    when("before committing at the inventory service", lose)
    await own_run([an_order(unique, product="LAST-ONE")])
    assert ended(unique).outcome is Outcome.COMPENSATED
    assert stocked.order(unique).failure["code"] == "reservation_lost"
    assert stocked.money(unique) == (PRICE, PRICE)
    assert (state(service, unique), stock(service, "LAST-ONE")) == (State.RELEASED, (1, 1))


@pytest.mark.parametrize("kind", ["503", "silent", "lost"])
@pytest.mark.short_form("503")
async def test_while_the_service_is_unavailable_orders_are_postponed(
    stocked: World, service: InventoryServer, unique: str, kind: str
) -> None:
    """Also those that are paid: they keep their stock and continue, once, when it is available."""
    ids = [f"{unique}-{i}" for i in range(3)]
    service.misbehave("/commit", kind, times=1000)
    intake.submit([an_order(order_id) for order_id in ids])
    await process_pending_orders(consumer_seconds=0)
    assert {ended(order_id).outcome for order_id in ids} == {None}
    assert {stocked.money(order_id) for order_id in ids} == {(PRICE, Decimal(0))}
    assert stock(service) == (100, 3)
    seen = preview_cancel_sync(ids[0], ORDER_SAGA)
    assert (seen.pieces, seen.refund) == ({"PROD-001": 1}, PRICE), (
        "what it holds at the service is told of, although that is away"
    )
    service.behave()
    await close_inventories()
    stocked.sql("UPDATE customer_order SET not_before = NULL")
    await process_pending_orders(consumer_seconds=0)
    assert {ended(order_id).outcome for order_id in ids} == {Outcome.COMPLETED}
    assert stock(service) == (97, 0)
    stocked.assert_books_balance()


async def test_it_is_honoured_for_how_long_a_limit_is_meant(
    stocked: World, service: InventoryServer, unique: str
) -> None:
    service.misbehave("/reservations", "429", headers={"retry-after": "90"})
    intake.submit([an_order(unique)])
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is None
    ((wait,),) = stocked.sql("SELECT extract(epoch FROM not_before - now())::int FROM customer_order")
    assert 60 < wait <= 90
    stocked.sql("UPDATE customer_order SET not_before = NULL")
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is Outcome.COMPLETED


async def test_a_token_that_is_not_accepted(
    stocked: World, service: InventoryServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retries do not help; nothing was charged, and manual review names the setting."""
    monkeypatch.setenv("INVENTORY_SERVICE_TOKEN", "another-token")
    settings.cache_clear()
    await own_run([an_order(unique)])
    assert ended(unique).outcome is Outcome.NEEDS_ATTENTION
    assert "INVENTORY_SERVICE_TOKEN" in ended(unique).reasons[0]
    assert stocked.charges(unique) == 0


async def test_orders_stay_with_the_inventory_that_they_were_begun_with(
    stocked: World, service: InventoryServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting is switched off while one is paid and not shipped,
    and another is shipped and then sent back."""
    half, whole, later = (f"{unique}-{n}" for n in ("half", "whole", "later"))
    await own_run([an_order(whole)])
    service.misbehave("/commit", "503", times=1000)
    intake.submit([an_order(half)])
    await process_pending_orders(consumer_seconds=0)
    assert stock(service) == (99, 1)
    service.behave()
    await close_inventories()
    monkeypatch.delenv("INVENTORY_SERVICE_URL")
    settings.cache_clear()
    stocked.sql("UPDATE customer_order SET not_before = NULL")
    cancel(whole)
    intake.submit([an_order(later)])
    await process_pending_orders(consumer_seconds=0)
    assert [ended(i).outcome for i in (half, whole, later)] == [
        Outcome.COMPLETED,
        Outcome.COMPENSATED,
        Outcome.COMPLETED,
    ]
    assert stock(service) == (99, 0)
    assert stocked.stock("PROD-001") == (99, 0), "the later one is from our own shelf"
    stocked.assert_books_balance()


async def test_and_the_other_way_round(
    stocked: World, service: InventoryServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INVENTORY_SERVICE_URL")
    settings.cache_clear()
    await own_run([an_order(unique)])
    monkeypatch.setenv("INVENTORY_SERVICE_URL", service.url)
    settings.cache_clear()
    cancel(unique)
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is Outcome.COMPENSATED
    assert stocked.stock("PROD-001") == (100, 0)
    assert state(service, unique) is None
    stocked.assert_books_balance()


OTHER = "fedcba9876543210"


class TestAnotherShopAtTheSameService:
    """It holds pieces for an order of its own, which has the same id as ours."""

    @pytest.fixture(params=["another installation", "an earlier version"])
    def theirs(
        self, request: pytest.FixtureRequest, stocked: World, service: InventoryServer, unique: str
    ) -> str:
        """What its order is called at the service. Of an earlier version it is the id alone."""
        name = own_order_id(OTHER, unique) if request.param == "another installation" else unique
        service.do(service.inventory.reserve(name, {"PROD-001": 1}, seconds=3600))
        return name

    async def ours(self, service: InventoryServer, order_id: str) -> State | None:
        found = service.do(service.inventory.get(own_order_id(await installation_id(), order_id)))
        return found.state if found else None

    def is_theirs_held(self, service: InventoryServer, name: str) -> bool:
        found = service.do(service.inventory.get(name))
        return found is not None and (found.state, found.items) == (State.HELD, {"PROD-001": 1})

    @LANES
    async def test_ours_is_undone(
        self, stocked: World, service: InventoryServer, unique: str, theirs: str, lane: Any
    ) -> None:
        await lane([an_order(unique, card="0000")])
        assert ended(unique).outcome is Outcome.COMPENSATED
        assert await self.ours(service, unique) is State.RELEASED
        assert self.is_theirs_held(service, theirs)
        assert stock(service) == (100, 1)
        stocked.assert_books_balance()

    @LANES
    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/reservations", "500"),
            ("/reservations", "silent"),
            ("/commit", "500"),
            ("/commit", "silent"),
            ("", ""),
        ],
    )
    @pytest.mark.short_form("silent-pending")
    async def test_ours_is_shipped(
        self,
        stocked: World,
        service: InventoryServer,
        unique: str,
        theirs: str,
        lane: Any,
        path: str,
        kind: str,
    ) -> None:
        if path:
            service.misbehave(path, kind, after=True)
        await lane([an_order(unique)])
        assert ended(unique).outcome is Outcome.COMPLETED
        assert await self.ours(service, unique) is State.SHIPPED
        assert self.is_theirs_held(service, theirs)
        assert stock(service) == (99, 1)
        stocked.assert_books_balance()
        assert [found async for found in check_stock()] == []

    @LANES
    async def test_ours_is_returned(
        self, stocked: World, service: InventoryServer, unique: str, theirs: str, lane: Any
    ) -> None:
        await lane([an_order(unique)])
        service.do(service.inventory.commit(theirs))
        cancel(unique)
        await process_pending_orders(consumer_seconds=0)
        assert ended(unique).outcome is Outcome.COMPENSATED
        assert await self.ours(service, unique) is State.RETURNED
        assert service.do(service.inventory.get(theirs)).state is State.SHIPPED
        assert stock(service) == (99, 0)
        assert stocked.money(unique) == (PRICE, PRICE)
        stocked.assert_books_balance()
        assert [found async for found in check_stock()] == []

    async def test_theirs_is_over_before_ours_begins(
        self, stocked: World, service: InventoryServer, unique: str, theirs: str
    ) -> None:
        service.do(service.inventory.release(theirs))
        await own_run([an_order(unique)])
        assert ended(unique).outcome is Outcome.COMPLETED
        assert stock(service) == (99, 0)

    async def test_theirs_has_other_items(
        self, stocked: World, service: InventoryServer, unique: str, theirs: str
    ) -> None:
        await own_run([an_order(unique, product="PROD-002", price="29.99")])
        assert ended(unique).outcome is Outcome.COMPLETED
        assert self.is_theirs_held(service, theirs)
        assert stock(service, "PROD-002")[1] == 0

    async def test_what_is_wrong_with_ours_is_still_found(
        self, stocked: World, service: InventoryServer, unique: str, theirs: str
    ) -> None:
        """A reservation that an ended order of ours has left,
        and a parcel that the service knows nothing of."""
        await own_run([an_order(unique), an_order(f"{unique}-lost")])
        mine = await installation_id()
        service.do(service.inventory.reserve(own_order_id(mine, "GHOST"), {"PROD-002": 2}, seconds=3600))
        service.do(service.inventory.put_back(own_order_id(mine, f"{unique}-lost")))
        found = {(each.kind, each.order_id, each.product_id) async for each in check_stock()}
        assert found == {
            (Kind.RESERVATION_WITHOUT_ORDER, "GHOST", None),
            (Kind.STOCK_ON_HAND, None, "PROD-001"),
        }


class TestAnOrderOfAnEarlierVersion:
    """Its reservation has the order's id alone as its name, and its journal no installation id."""

    @pytest.fixture
    async def half_done(self, stocked: World, service: InventoryServer, unique: str) -> str:
        service.misbehave("/commit", "503", times=1000)
        intake.submit([an_order(unique)])
        await process_pending_orders(consumer_seconds=0)
        assert stock(service) == (100, 1)
        with psycopg.connect(service.database_url) as connection:
            connection.execute("UPDATE reservation SET order_id = %s", [unique])
        stocked.sql("UPDATE order_step SET notes = notes - 'installation_id' WHERE step = 'check_inventory'")
        stocked.sql("UPDATE customer_order SET not_before = NULL")
        service.behave()
        await close_inventories()
        return unique

    @pytest.mark.slow
    async def test_continues_and_can_be_returned(
        self, stocked: World, service: InventoryServer, half_done: str
    ) -> None:
        await process_pending_orders(consumer_seconds=0)
        assert ended(half_done).outcome is Outcome.COMPLETED
        assert service.do(service.inventory.get(half_done)).state is State.SHIPPED
        assert stock(service) == (99, 0)
        stocked.assert_books_balance()
        assert [found async for found in check_stock()] == []
        cancel(half_done)
        await process_pending_orders(consumer_seconds=0)
        assert service.do(service.inventory.get(half_done)).state is State.RETURNED
        assert stock(service) == (100, 0)
        stocked.assert_books_balance()

    @pytest.mark.slow
    async def test_is_released(self, stocked: World, service: InventoryServer, half_done: str) -> None:
        cancel(half_done)
        await process_pending_orders(consumer_seconds=0)
        assert ended(half_done).outcome is Outcome.COMPENSATED
        assert service.do(service.inventory.get(half_done)).state is State.RELEASED
        assert stock(service) == (100, 0)
        stocked.assert_books_balance()

    @pytest.mark.parametrize("cancelled", [True, False])
    @pytest.mark.short_form("True")
    async def test_touches_nothing_with_other_items(
        self, stocked: World, service: InventoryServer, half_done: str, cancelled: bool
    ) -> None:
        """Then it is another shop's, which has the same id."""
        service.do(service.inventory.release(half_done))
        with psycopg.connect(service.database_url) as connection:
            connection.execute("DELETE FROM reservation")
        service.do(service.inventory.reserve(half_done, {"PROD-002": 3}, seconds=3600))
        if cancelled:
            cancel(half_done)
        await process_pending_orders(consumer_seconds=0)
        assert ended(half_done).outcome is Outcome.COMPENSATED
        theirs = service.do(service.inventory.get(half_done))
        assert (theirs.state, theirs.items) == (State.HELD, {"PROD-002": 3})
        assert stocked.money(half_done) == (PRICE, PRICE)
        assert stocked.shipments(half_done) == 0
