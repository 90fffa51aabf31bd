"""Taking orders in: stored once, whoever sends them however often; and no card number anywhere."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, text

from saga import failpoints
from saga.database import Tx, engine
from saga.database_action import run_in_database
from saga.definition import Kind, Saga, Step
from saga.errors import StepError
from saga.execution import StepExecution
from saga.finish import finish, record_failures
from saga.wakeup import WAITING, channel, listening_sync
from shop.inventory.catalogue import KnownProducts
from shop.orders import intake, report
from shop.orders.errors import OrderRejected
from shop.orders.intake_content import take_in
from shop.orders.order import Order, OrderInstance
from shop.orders.outcomes import Outcome, Receipt
from shop.orders.store import ORDERS
from shop.orders.validation import validate
from shop.settings import Settings, settings
from tests.integration.domain import Shop, an_order
from tests.waiting import until

pytest_plugins = ["tests.integration.domain_fixtures"]


def statuses(receipts: Sequence[Receipt]) -> list[tuple[str | None, str]]:
    return [(receipt.order_id, receipt.status) for receipt in receipts]


async def test_new_orders_are_stored_as_they_came(shop: Shop) -> None:
    receipts = intake.submit(an_order(i) for i in ("C", "A", "B"))
    assert statuses(receipts) == [("C", "accepted"), ("A", "accepted"), ("B", "accepted")]
    rows = await shop.rows(
        "SELECT id, content, outcome, fence, amount_charged FROM customer_order ORDER BY number"
    )
    assert [row.id for row in rows] == ["C", "A", "B"]
    assert [Order.model_validate(row.content) for row in rows] == [
        Order.model_validate(an_order(i)) for i in "CAB"
    ]
    assert {(row.outcome, row.fence, row.amount_charged) for row in rows} == {(None, 0, 0)}


async def test_nothing_at_all_is_fine(shop: Shop) -> None:
    assert intake.submit([]) == []
    assert await shop.count("customer_order") == 0


async def test_a_large_number_has_time_in_proportion(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow database, where all of them take longer than a transaction may."""
    monkeypatch.setattr(intake, "_BATCH_SIZE", 5)
    monkeypatch.setattr(intake, "TRANSACTION_SECONDS", 2.0)
    await shop.rows(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_sleep(0.05); RETURN NEW; END $$"
    )
    await shop.rows(
        "CREATE TRIGGER slowly BEFORE INSERT ON customer_order FOR EACH ROW EXECUTE FUNCTION slowly()"
    )
    try:
        ids = [f"A-{number}" for number in range(60)]
        again = (
            an_order("A-0"),
            an_order("A-1", total_amount="1.00", items=[{"product_id": "P", "quantity": 1, "price": "1.00"}]),
        )
        receipts = intake.submit([*map(an_order, ids), *again])
    finally:
        await shop.rows("DROP FUNCTION slowly CASCADE")
    assert statuses(receipts) == [
        *((order_id, "accepted") for order_id in ids),
        ("A-0", "known"),
        ("A-1", "refused"),
    ]
    assert [row.id for row in await shop.rows("SELECT id FROM customer_order ORDER BY number")] == ids


async def test_what_fails_in_the_middle_is_stored_when_it_is_sent_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_BATCH_SIZE", 2)
    commits: list[str] = []

    def fail_the_second(point: str) -> None:
        if point == intake.STORING.before:
            commits.append(point)
            if len(commits) == 2:
                raise ConnectionError

    failpoints.watch(fail_the_second)
    try:
        with pytest.raises(ConnectionError):
            intake.submit(map(an_order, "ABCDE"))
    finally:
        failpoints.watch(None)
    assert {row.id for row in await shop.rows("SELECT id FROM customer_order")} == {"A", "B"}
    again = intake.submit(map(an_order, "ABCDE"))
    assert [receipt.status for receipt in again] == ["known", "known", "accepted", "accepted", "accepted"]
    assert await shop.count("customer_order") == 5


async def test_the_same_order_again_is_known(shop: Shop) -> None:
    intake.submit([an_order("A", notes="hello")])
    before = await shop.order("A")
    again = intake.submit(
        [an_order("A", notes="hello"), an_order("A", notes=" hello ", total_amount=10.0), an_order("B")]
    )
    assert statuses(again) == [("A", "known"), ("A", "known"), ("B", "accepted")]
    assert statuses([await intake.submit_one(an_order("A", notes="hello"))]) == [("A", "known")]
    assert await shop.order("A") == before
    assert await shop.count("customer_order") == 2


async def test_a_known_order_returns_its_outcome(shop: Shop) -> None:
    intake.submit([an_order("A")])
    assert intake.submit([an_order("A")])[0].outcome is None
    await shop.rows(
        """UPDATE customer_order SET outcome = 'out_of_stock', reasons = '["P: 2 requested, 1 available"]'"""
    )
    (receipt,) = intake.submit([an_order("A")])
    assert (receipt.status, receipt.outcome, receipt.reasons) == (
        "known",
        Outcome.OUT_OF_STOCK,
        ["P: 2 requested, 1 available"],
    )
    assert (await intake.submit_one(an_order("A"))) == receipt


async def test_the_same_id_with_other_content_is_refused_and_changes_nothing(shop: Shop) -> None:
    intake.submit([an_order("A")])
    before = await shop.order("A")
    (receipt,) = intake.submit([an_order("A", ("P", 2))])
    assert statuses([receipt]) == [("A", "refused")]
    assert "different content" in receipt.reasons[0]
    assert await shop.order("A") == before
    assert await intake.known_ids(["A", "B"]) == {"A"}


async def test_duplicates_within_one_call(shop: Shop) -> None:
    receipts = intake.submit(
        [an_order("A"), an_order("A"), an_order("B"), an_order("A", ("P", 2)), {"no": "id"}, an_order(" A ")]
    )
    assert statuses(receipts) == [
        *[
            ("A", "accepted"),
            ("A", "known"),
            ("B", "accepted"),
            ("A", "refused"),
            (None, "refused"),
            ("A", "known"),
        ],
    ]
    assert (await shop.order("A")).content["total_amount"] == "10.00"
    assert await shop.count("customer_order") == 2


async def test_orders_without_an_id_are_reported_and_do_not_delay_the_others(shop: Shop) -> None:
    receipts = intake.submit(
        [None, an_order("A"), {"id": ""}, an_order("a" * 201), an_order("B"), {"cvc": 987, "notes": VISA}]
    )
    assert [receipt.status for receipt in receipts] == [
        "refused",
        "accepted",
        "refused",
        "refused",
        "accepted",
        "refused",
    ]
    assert all(receipt.reasons for receipt in receipts if receipt.status == "refused")
    assert "4111" not in str(receipts)
    assert await shop.rows("SELECT id FROM customer_order ORDER BY id") == [("A",), ("B",)]


async def test_invalid_orders_are_stored_to_be_rejected(shop: Shop) -> None:
    bad: list[dict[str, Any]] = [
        {"id": "1"},
        {"id": "2", "items": "none", "total_amount": {"x": [1, None, True]}},
        {**an_order("3"), "total_amount": -100},
        {**an_order("4"), "items": [{"quantity": "NaN"}] * 2_000},
        {"id": "5", "x\x00": "\x00", "y": "\ud800", "z": float("nan"), "n": 10**400},
        {"id": "6", "deep": json.loads("[" * 500 + "]" * 500)},
    ]
    assert {receipt.status for receipt in intake.submit(bad)} == {"accepted"}
    assert await shop.count("customer_order") == len(bad)
    assert {receipt.status for receipt in intake.submit(bad)} == {"known"}


NASTY_IDS = [
    '"',
    "'",
    "\\",
    "{}",
    "{a,b}",
    "NULL",
    "null",
    ",",
    "a,b",
    'a"b\\"c',
    "$1",
    "%s",
    ":id",
    "\\N",
    "字",
    "🙂",
    "a b",
    "/../",
]


async def test_nasty_ids(shop: Shop) -> None:
    orders = [an_order(i) for i in NASTY_IDS]
    assert statuses(intake.submit(orders)) == [(i, "accepted") for i in NASTY_IDS]
    assert statuses(intake.submit(orders)) == [(i, "known") for i in NASTY_IDS]
    assert sorted(row.id for row in await shop.rows("SELECT id FROM customer_order")) == sorted(NASTY_IDS)
    assert sorted(report.read(NASTY_IDS)) == sorted(NASTY_IDS)
    assert sorted(order.id for order in await shop.claim(*NASTY_IDS)) == sorted(NASTY_IDS)


async def test_reading_unknown_and_unusable_ids(shop: Shop) -> None:
    intake.submit([an_order("A")])
    assert list(report.read(["A", "", "nobody"])) == ["A"]
    assert await report.read_one("nobody") is None


# -- at the same time


async def test_fifty_at_once_store_the_order_once(shop: Shop) -> None:
    with ThreadPoolExecutor(50) as pool:
        receipts = [
            receipt
            for batch in pool.map(lambda _: intake.submit([an_order("A")]), range(50))
            for receipt in batch
        ]
    assert sorted(receipt.status for receipt in receipts) == ["accepted", *["known"] * 49]
    assert await shop.count("customer_order") == 1


async def test_fifty_at_once_in_an_event_loop_store_the_order_once(shop: Shop) -> None:
    receipts = await asyncio.gather(*(intake.submit_one(an_order("A")) for _ in range(50)))
    assert sorted(receipt.status for receipt in receipts) == ["accepted", *["known"] * 49]
    assert await shop.count("customer_order") == 1


async def test_of_different_orders_with_one_id_one_is_stored(shop: Shop) -> None:
    with ThreadPoolExecutor(10) as pool:
        receipts = list(pool.map(lambda n: intake.submit([an_order("A", ("P", n))])[0], range(1, 11)))
    assert sorted(receipt.status for receipt in receipts) == ["accepted", *["refused"] * 9]
    stored = (await shop.order("A")).content["items"][0]["quantity"]
    assert receipts[stored - 1].status == "accepted"


async def test_the_same_orders_in_another_sequence_do_not_wait_for_each_other(shop: Shop) -> None:
    """Two servers of a shop that send the same orders at once,
    each in its own sequence: no error, each order once."""

    async def all_wait() -> bool:
        return bool(
            await shop.value(
                "SELECT count(*) >= 2 FROM pg_locks l JOIN pg_stat_activity USING (pid) "
                "WHERE NOT l.granted AND datname = current_database()"
            )
        )

    async with engine().connect() as in_the_way:
        await in_the_way.execute(
            text("INSERT INTO customer_order (id, content, fingerprint) VALUES ('M', '{}', 'x')")
        )
        calls = [
            asyncio.create_task(asyncio.to_thread(intake.submit, [an_order(i) for i in sequence]))
            for sequence in ("AMB", "BMA")
        ]
        await until(all_wait, 20, "both to have come to the order in the middle, or to each other")
        await in_the_way.rollback()
    receipts = [receipt for call in await asyncio.gather(*calls) for receipt in call]
    assert sorted(receipt.status for receipt in receipts) == ["accepted"] * 3 + ["known"] * 3
    assert await shop.rows("SELECT id FROM customer_order ORDER BY id") == [("A",), ("B",), ("M",)]


async def test_many_senders_of_many_orders(shop: Shop) -> None:
    orders = [an_order(f"ORDER-{i}") for i in range(100)]

    def send(seed: int) -> list[Receipt]:
        mine = random.Random(seed).sample(orders, 10)
        return [receipt for order in mine for receipt in intake.submit([order, order])]

    with ThreadPoolExecutor(10) as pool:
        receipts = [receipt for batch in pool.map(send, range(10)) for receipt in batch]
    accepted = [receipt.order_id for receipt in receipts if receipt.status == "accepted"]
    assert len(accepted) == len(set(accepted)) == len({receipt.order_id for receipt in receipts})
    assert await shop.count("customer_order") == len(accepted)


async def test_nothing_is_stored_unless_all_of_it_is(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "notification", lambda *_: text("SELECT 1 / 0"))
    with pytest.raises(Exception, match="division by zero"):
        intake.submit([an_order("A"), an_order("B")])
    assert await shop.count("customer_order") == 0


async def test_those_who_wait_are_woken_only_when_something_is_there(shop: Shop) -> None:
    with listening_sync(ORDERS, WAITING) as connection:
        intake.submit([an_order("A")])
        assert len(list(connection.notifies(timeout=10, stop_after=1))) == 1
        intake.submit([an_order("A"), {"no": "id"}])
        await shop.rows("SELECT pg_notify(:channel, 'mark')", channel=channel(ORDERS, WAITING))
        (next_one,) = connection.notifies(timeout=10, stop_after=1)
        assert next_one.payload == "mark"


# -- no card number anywhere

VISA = "4111111111111111"
CODE = "987"


def with_cards() -> list[dict[str, Any]]:
    """Orders that are rejected for it, or for what is left."""
    payment = {"method": "credit_card", "card_last4": "1111"}
    return [
        an_order("card_last4", card=VISA),
        an_order("spaces", payment_info={**payment, "number": "4111 1111 1111 1111"}),
        an_order("integer", payment_info={**payment, "number": int(VISA)}),
        an_order("code", payment_info={**payment, "cvv": CODE, "security_code": int(CODE)}),
        an_order("pan", pan=grouped(VISA), notes=VISA),
        an_order("mail", customer_name=VISA, customer_email=f"{VISA}@example.com"),
        an_order("total", total_amount=int(VISA), currency=VISA),
        {"id": "shapeless", "items": VISA, "payment_info": VISA, "shipping_info": [VISA], VISA: {VISA: VISA}},
        {**an_order("quantity"), "items": [{"product_id": "P", "quantity": int(VISA), "price": 1}]},
        an_order("float", payment_info={**payment, "number": float(VISA)}, items=None),
    ]


def with_masked_cards() -> list[dict[str, Any]]:
    """Orders that are good, but for what their customers typed, and what their shops send along."""
    return [
        an_order("notes", notes=f"my card is {VISA}, cvc {CODE}, thanks"),
        an_order("beside a date", notes=f"{grouped(VISA)} 12/30 {CODE}"),
        an_order(
            "names",
            customer_name=VISA,
            items=[{"product_id": "P", "quantity": 1, "price": "10.00", "name": f"engraved {VISA}"}],
        ),
        an_order(
            "address",
            shipping_info={
                "address": f"1 Main St {VISA}",
                "city": "Anytown",
                "country": "US",
                "name": grouped(VISA),
            },
        ),
        an_order(
            "unknown",
            tags=[VISA],
            number=int(VISA),
            payment_info={"method": "paypal", VISA: "x"},
            checkout={"id": VISA, "pin": CODE},
        ),
    ]


def grouped(card: str) -> str:
    return " ".join(card[i : i + 4] for i in range(0, len(card), 4))


async def everything_in(shop: Shop) -> dict[str, str]:
    """Every text and every JSON of every table."""
    columns = await shop.rows(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND data_type IN ('text', 'jsonb', 'json', 'character varying')"
    )
    assert len(columns) > 20
    found = {}
    for table, column in columns:
        cells = await shop.rows(f'SELECT "{column}"::text FROM "{table}"')
        found[f"{table}.{column}"] = "\n".join(str(cell) for (cell,) in cells if cell is not None)
    return found


@pytest.mark.parametrize("order", with_cards(), ids=lambda order: order["id"])
async def test_no_card_number_is_anywhere_in_the_database(shop: Shop, order: Mapping[str, Any]) -> None:
    """Not in the order, nor in what is written about it when it is rejected."""

    async def check(tx: Tx, orders: Sequence[OrderInstance]) -> Mapping[str, dict[str, Any] | StepError]:
        verdicts = await validate([each.content for each in orders], KnownProducts(), settings())
        return {
            each.id: v if isinstance(v, OrderRejected) else {}
            for each, v in zip(orders, verdicts, strict=True)
        }

    async def nothing(work: StepExecution) -> None:
        """Not run here."""

    await shop.add_stock(P=10)
    (receipt,) = intake.submit([order])
    assert receipt.status == "accepted"
    (instance,) = await shop.claim()
    step = Step(nothing, None, Kind.READ_ONLY, 5, 0, name="validate_order")
    work = StepExecution(step, [instance])
    with pytest.raises(OrderRejected) as rejected:
        await run_in_database(work, check)
    instance.fail("validate_order", rejected.value)
    await record_failures([instance])
    assert await finish([instance], Saga(step, Step(nothing, None, Kind.PIVOT, 5, 0, name="ship"))) == {
        order["id"]: Outcome.REJECTED
    }
    for place, held in (await everything_in(shop)).items():
        bare = held.replace(" ", "").replace("-", "")
        assert VISA[:13] not in bare, place
        assert CODE not in held, place
    assert "1111111" not in str(report.read([str(order["id"])])).replace(" ", "")


@pytest.mark.parametrize("order", with_masked_cards(), ids=lambda order: order["id"])
async def test_an_order_continues_without_a_typed_card_number(shop: Shop, order: Mapping[str, Any]) -> None:
    await shop.add_stock(P=10)
    assert [receipt.status for receipt in intake.submit([order, order])] == ["accepted", "known"]
    (instance,) = await shop.claim()
    (verdict,) = await validate([instance.content], KnownProducts(), settings())
    assert isinstance(verdict, Order)
    for place, held in (await everything_in(shop)).items():
        bare = held.replace(" ", "").replace("-", "")
        assert VISA[:13] not in bare, place
        assert CODE not in held, place


async def test_what_is_refused_leaves_no_trace(shop: Shop) -> None:
    intake.submit([{"id": "", "notes": VISA}, {"id": None, "notes": VISA}])
    assert not any(VISA in held for held in (await everything_in(shop)).values())


# -- anything

texts = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(), max_size=5),
    st.sampled_from(["\x00", "\ud800", "\\u0000", "\\", '"', "\x08\x0c"]),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([10**29, 10**30, 10**400, 1e308, 5e-324]),
    texts,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=10,
)
fields = st.dictionaries(st.one_of(texts, st.sampled_from(list(Order.model_fields))), values, max_size=5)


@pytest.fixture(scope="module")
def database(postgres: Any) -> Iterator[Connection]:
    pool = create_engine(Settings(DATABASE_URL=postgres.url("postgres")).database_url)
    with pool.connect() as connection:
        yield connection
    pool.dispose()


@hypothesis_settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.builds(
            lambda some, base: {**base, **some, "id": "A"}, fields, st.sampled_from([{}, an_order("A")])
        ),
        min_size=1,
        max_size=8,
    )
)
def test_the_database_takes_whatever_intake_lets_through(
    database: Connection, orders: list[dict[str, Any]]
) -> None:
    """One that it did not take would make all that are sent together fail."""
    sent = [take_in(order).text for order in orders]
    with database.begin():
        query = text(
            "SELECT CAST(t AS jsonb) "
            "FROM unnest(CAST(:texts AS text[])) WITH ORDINALITY AS u(t, n) ORDER BY n"
        )
        back = database.execute(query, {"texts": sent}).scalars().all()
    assert [row["id"] for row in back] == ["A"] * len(sent)
    assert [set(row) for row in back] == [set(json.loads(each)) for each in sent]
