"""A gateway account that is shared with another shop,
whose orders have the same ids: its money is never touched or taken for ours.

The other shop's payments are read from the gateway's own ledger before and after whatever happens to our
order.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as rounds
from hypothesis import strategies as st

from deployments.cli import order_saga
from flows.cancel_order import cancel_order
from flows.housekeeping import housekeeping
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.payments.charge import STEP, charge, refund
from shop.payments.errors import PaymentError, PaymentGatewayTimeout
from shop.payments.events import inbox
from shop.payments.events.inbox import PaymentEvent
from shop.payments.gateways import gateway
from shop.payments.ownership import OwnPayments
from shop.payments.sandbox.ledger import Ledger
from shop.payments.sandbox.records import Refusal
from shop.payments.stripe.calls import StripeCalls
from shop.payments.stripe.gateway import StripeGateway
from shop.reconciliation.discrepancy import Kind
from shop.reconciliation.reconcile import reconcile
from shop.runtime import installation as installations
from shop.runtime.installation import installation_id
from shop.settings import settings
from shop.values.money import from_minor
from tests.integration.domain import Shop
from tests.integration.domain import an_order as small_order
from tests.integration.stripe_world import StripeWorld, paid_by
from tests.integration.world import World, an_order
from tests.journalled import begin, begin_undo
from tests.sandbox_in_process import InProcessGateway

pytest_plugins = ["tests.integration.domain_fixtures"]

PRICE = Decimal("999.99")
UNITS = 99_999
OTHER = "0123456789abcdef"
"""Another installation of the same software."""


class Neighbour(Protocol):
    """Another shop in the same account."""

    def pays(self, order_id: str, units: int = 4500, *, confirm: bool = True) -> str:
        """Its customer pays, or (not `confirm`) is about to. Returns the payment's id."""
        ...

    def stands(self, payment_id: str) -> Any:
        """What the gateway's ledger has of that payment."""
        ...


@dataclass(frozen=True)
class AtTheSandbox:
    url: str
    installation: str | None

    def pays(self, order_id: str, units: int = 4500, *, confirm: bool = True) -> str:
        body = {
            "order_id": order_id,
            "amount": units,
            "currency": "USD",
            "method": "credit_card",
            "card_last4": "4242",
        }
        made: str = self._post("/v1/payments", {**body, "installation": self.installation})["id"]
        if confirm:
            self._post(f"/v1/payments/{made}/confirm", None)
        return made

    def stands(self, payment_id: str) -> Any:
        return httpx.get(f"{self.url}/v1/payments/{payment_id}", timeout=10).raise_for_status().json()

    def _post(self, path: str, body: Any) -> Any:
        return httpx.post(self.url + path, json=body, timeout=10).raise_for_status().json()


@dataclass(frozen=True)
class AtStripe:
    world: StripeWorld
    metadata: dict[str, str]

    def pays(self, order_id: str, units: int = 4500, *, confirm: bool = True) -> str:
        form = {f"metadata[{name}]": value for name, value in {"order_id": order_id, **self.metadata}.items()}
        form |= {
            "payment_method": self.world.stripe.card("4242424242424242"),
            "payment_method_types[0]": "card",
        }
        made: str = self.world.stripe.post("/v1/payment_intents", amount=str(units), currency="usd", **form)[
            "id"
        ]
        if confirm:
            self.world.stripe.post(f"/v1/payment_intents/{made}/confirm")
        return made

    def stands(self, payment_id: str) -> Any:
        intent = self.world.stripe.get(f"/v1/payment_intents/{payment_id}")
        refunds = [each for each in self.world.stripe.all("refunds") if each["payment_intent"] == payment_id]
        return intent["status"], intent["amount"], refunds


@dataclass(frozen=True)
class Account:
    """The account, with us and a neighbour in it."""

    us: World
    neighbour: Neighbour

    def order(self, order_id: str, *, good: bool = True, **fields: Any) -> dict[str, Any]:
        """One piece of ours at `PRICE`, paid by a good card or by one that is declined."""
        if isinstance(self.us, StripeWorld):
            return paid_by(
                "pm_card_visa" if good else "pm_card_chargeCustomerFail", an_order(order_id, **fields)
            )
        return an_order(order_id, card="1234" if good else "0000", **fields)

    def ours(self, order_id: str, theirs: str) -> tuple[Decimal, Decimal]:
        """(charged, refunded) of the order's payments but the neighbour's."""
        mine = [payment for payment in self.us.ledger(order_id) if payment["id"] != theirs]
        charged = sum(payment["amount"] for payment in mine if payment["status"] == "succeeded")
        return from_minor(charged, "USD"), from_minor(
            sum(each["amount"] for p in mine for each in p["refunds"]), "USD"
        )


@pytest.fixture(
    params=["sandbox, no mark", "sandbox, another mark", "stripe, a plugin", "stripe, another mark"]
)
def account(request: pytest.FixtureRequest) -> Account:
    """The neighbour's software marks its payments with an installation id of its own,
    or knows of no such thing."""
    where, what = request.param.split(", ")
    if where == "sandbox":
        world: World = request.getfixturevalue("saga")
        return Account(world, AtTheSandbox(world.gateway_url, None if what == "no mark" else OTHER))
    at_stripe: StripeWorld = request.getfixturevalue("stripe_saga")
    plugin = {"site_url": "https://other-shop.example", "customer_name": "Other Customer"}
    return Account(
        at_stripe,
        AtStripe(at_stripe, plugin if what == "a plugin" else {"method": "card", "installation": OTHER}),
    )


def ended(order_id: str) -> Any:
    return report.read([order_id])[order_id]


async def test_our_declined_card_refunds_no_other_customer(account: Account, unique: str) -> None:
    theirs = account.neighbour.pays(unique)
    before = account.neighbour.stands(theirs)
    await process_order(account.order(unique, good=False), return_state=True)
    assert account.neighbour.stands(theirs) == before
    assert (ended(unique).outcome, account.ours(unique, theirs)) == (Outcome.COMPENSATED, (0, 0))
    assert account.us.mail_kinds(unique) == {"payment_failed"}, "nobody hears of a refund"


async def test_their_payment_under_way_is_not_cancelled(account: Account, unique: str) -> None:
    theirs = account.neighbour.pays(unique, confirm=False)
    before = account.neighbour.stands(theirs)
    await process_order(account.order(unique, good=False), return_state=True)
    assert account.neighbour.stands(theirs) == before


async def test_cancelling_ours_refunds_only_ours(account: Account, unique: str) -> None:
    theirs = account.neighbour.pays(unique)
    before = account.neighbour.stands(theirs)
    await process_order(account.order(unique, country="AQ"), return_state=True)
    assert account.neighbour.stands(theirs) == before
    assert account.ours(unique, theirs) == (PRICE, PRICE)
    assert (ended(unique).amount_charged, ended(unique).amount_refunded) == (PRICE, PRICE)


async def test_a_silent_gateway_does_not_make_us_ship_for_their_money(
    account: Account, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The amounts are the same, and our first request has no answer:
    on the second attempt the payment that is there is not ours."""
    theirs = account.neighbour.pays(unique, UNITS)
    before = account.neighbour.stands(theirs)
    if isinstance(account.us, StripeWorld):
        real, calls = StripeGateway.create, list[str]()

        async def silent_once(self: StripeGateway, **given: Any) -> Any:
            calls.append("create")
            if len(calls) == 1:
                raise PaymentGatewayTimeout("no answer")
            return await real(self, **given)

        monkeypatch.setattr(StripeGateway, "create", silent_once)
    else:
        account.us.misbehave(
            faults=[{"fault": "error_500", "move": "create", "order_id": unique, "times": 1}]
        )
    await process_order(account.order(unique), return_state=True)
    assert ended(unique).outcome is Outcome.COMPLETED
    assert account.ours(unique, theirs) == (PRICE, 0)
    assert account.neighbour.stands(theirs) == before


async def test_reconciliation_ignores_their_payments(
    account: Account, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether we know an order of that id (and how it ended) or not."""
    monkeypatch.setenv("RECONCILIATION_GRACE_SECONDS", "0")
    settings.cache_clear()
    ids = {name: f"{unique}-{name}" for name in ("completed", "declined", "unknown")}
    theirs = {name: account.neighbour.pays(order_id) for name, order_id in ids.items()}
    before = {name: account.neighbour.stands(payment) for name, payment in theirs.items()}
    since = datetime.now(UTC) - timedelta(minutes=1)
    await process_order(account.order(ids["completed"]), return_state=True)
    await process_order(account.order(ids["declined"], good=False), return_state=True)
    found = [each async for each in reconcile(gateway(), since) if each.order_id in ids.values()]
    assert found == []
    assert {name: account.neighbour.stands(payment) for name, payment in theirs.items()} == before


ODD: list[dict[str, Any]] = [{"status": "a_new_status"}, {"amount": -5}, {"metadata": None}]


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("whose", ["ours", "theirs"])
@pytest.mark.short_form("status")
async def test_one_record_that_makes_no_sense_is_one_discrepancy_at_the_most(
    stripe_saga: StripeWorld, unique: str, monkeypatch: pytest.MonkeyPatch, odd: dict[str, Any], whose: str
) -> None:
    """And the other orders are compared all the same."""
    monkeypatch.setenv("RECONCILIATION_GRACE_SECONDS", "0")
    settings.cache_clear()
    account = Account(stripe_saga, AtStripe(stripe_saga, {"site_url": "https://other-shop.example"}))
    since = datetime.now(UTC) - timedelta(minutes=1)
    ids = {name: f"{unique}-{name}" for name in ("odd", "differs", "fine")}
    for order_id in ids.values():
        await process_order(account.order(order_id), return_state=True)
    stripe_saga.sql(
        "UPDATE customer_order SET amount_charged = amount_charged - 1 WHERE id = :id", id=ids["differs"]
    )
    (payment,) = [payment["id"] for payment in stripe_saga.ledger(ids["odd"])]
    spoiled = account.neighbour.pays(ids["odd"]) if whose == "theirs" else payment
    real = StripeCalls.__call__

    async def spoil(self: StripeCalls, ask: Any, *, key: str | None = None) -> dict[str, Any]:
        answer = await real(self, ask, key=key)
        each: list[dict[str, Any]] = answer["data"] if answer.get("object") == "list" else [answer]
        for record in each:
            if record.get("id") == spoiled:
                record.update(odd)
        return answer

    monkeypatch.setattr(StripeCalls, "__call__", spoil)
    found = {
        each.order_id: each.kind
        for each in [d async for d in reconcile(gateway(), since)]
        if each.order_id in ids.values()
    }
    expected = {ids["differs"]: Kind.AMOUNT_DIFFERS} | (
        {ids["odd"]: Kind.UNREADABLE} if whose == "ours" else {}
    )
    assert found == expected


async def test_the_event_about_their_payment_moves_nothing(account: Account, unique: str) -> None:
    """Stripe notifies both shops of it, and ours has an order of that id which was rejected."""
    await process_order(account.order(unique, total_amount="1.00"), return_state=True)
    assert ended(unique).outcome is Outcome.REJECTED
    theirs = account.neighbour.pays(unique)
    before = account.neighbour.stands(theirs)
    await inbox.store(PaymentEvent("evt_1", "payment_intent.succeeded", datetime.now(UTC), theirs, unique))
    assert (await housekeeping())["events_handled"] == 1
    assert account.neighbour.stands(theirs) == before
    assert account.us.sql("SELECT order_id, done FROM payment_event")[0].order_id is None, (
        "it is no event of our order"
    )


@pytest.mark.parametrize("by_intent", [True, False])
async def test_a_dispute_of_their_payment_is_not_shown(
    account: Account, unique: str, by_intent: bool
) -> None:
    """Also if their software makes charges without a PaymentIntent."""
    theirs = account.neighbour.pays(unique) if by_intent else None
    dispute = {
        "id": "dp_1",
        "payment_intent": theirs,
        "amount": 4500,
        "currency": "usd",
        "created": 1_790_000_000,
    }
    dispute |= {"reason": "fraudulent", "status": "needs_response", "evidence_details": {"due_by": None}}
    await inbox.store(
        PaymentEvent("evt_1", "charge.dispute.created", datetime.now(UTC), theirs, None, dispute=dispute)
    )
    await housekeeping()
    assert account.us.sql("SELECT 1 FROM dispute") == []


async def test_without_a_token_their_payment_is_not_changed(stripe_saga: StripeWorld, unique: str) -> None:
    neighbour = AtStripe(stripe_saga, {"site_url": "https://other-shop.example"})
    theirs = neighbour.pays(unique, UNITS)
    before = neighbour.stands(theirs)
    await process_order(an_order(unique), return_state=True)
    assert neighbour.stands(theirs) == before
    assert ended(unique).outcome is Outcome.COMPENSATED
    assert ended(unique).amount_refunded == 0


# -- orders that were begun by a version that marked nothing


async def test_an_order_that_was_charged_before_is_refunded_by_its_journalled_id(
    saga: World, unique: str
) -> None:
    await process_order(an_order(unique), return_state=True)
    (marked,) = saga.ledger(unique)
    # as the earlier version would have charged it
    old = AtTheSandbox(saga.gateway_url, None).pays(unique, UNITS)
    noted = "notes || jsonb_build_object('payment_id', CAST(:id AS text))"
    saga.sql(f"UPDATE order_step SET notes = {noted} WHERE step = :step", id=old, step=STEP)
    await cancel(unique)
    refunded = {each["id"]: each["refunded"] for each in saga.ledger(unique)}
    assert refunded == {old: UNITS, marked["id"]: 0}, "the journalled one; a second charge is for a person"


@pytest.mark.parametrize(("units", "is_ours"), [(UNITS, True), (4500, False)])
async def test_a_payment_whose_id_a_crash_has_lost_is_found_by_its_order_and_amount(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch, units: int, is_ours: bool
) -> None:
    """It was created, and its worker died before it had journalled the id:
    it can still be charged, so undoing has to cancel it."""
    saga.sql("UPDATE installation SET made_at = now() + interval '1 hour'")
    monkeypatch.setattr(installations, "_known", {})
    intake.submit([an_order(unique, card="0000")])
    lost = AtTheSandbox(saga.gateway_url, None).pays(unique, units, confirm=False)
    saga.sql(
        "INSERT INTO order_step (order_id, step, status, undo_due) VALUES (:id, :step, 'begun', true)",
        id=unique,
        step=STEP,
    )
    saga.sql(
        "UPDATE customer_order SET failure = CAST(:f AS jsonb) WHERE id = :id",
        id=unique,
        f='{"code": "order_cancelled", "message": "x"}',
    )
    await process_pending_orders(consumer_seconds=0)
    assert ended(unique).outcome is Outcome.COMPENSATED
    (payment,) = saga.ledger(unique)
    assert (payment["id"], payment["status"]) == (lost, "cancelled" if is_ours else "created")


async def cancel(order_id: str) -> None:
    await cancel_order(order_id, "changed their mind", "ann", True, return_state=True)


# -- the books


async def test_the_books_count_only_our_payments_and_find_what_is_wrong(
    account: Account, unique: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At Stripe, too: checked against the gateway, not against our own tables."""
    theirs = account.neighbour.pays(unique)
    await process_order(account.order(unique), return_state=True)
    assert await books() == 0, capsys.readouterr().out
    account.us.sql("UPDATE customer_order SET amount_charged = amount_charged - 1 WHERE id = :id", id=unique)
    assert await books() == 1
    account.us.sql("UPDATE customer_order SET amount_charged = amount_charged + 1 WHERE id = :id", id=unique)
    (mine,) = [payment for payment in account.us.ledger(unique) if payment["id"] != theirs]
    if isinstance(account.us, StripeWorld):
        account.us.stripe.post("/v1/refunds", payment_intent=mine["id"], amount="5998")
    else:
        body = {"payment_id": mine["id"], "amount": 5998, "currency": "USD"}
        httpx.post(f"{account.us.gateway_url}/v1/refunds", json=body, timeout=10).raise_for_status()
    assert await books() == 1, "the gateway gave back 59.98 that our books do not have"
    assert "59.98" in capsys.readouterr().out


async def test_without_the_gateway_nothing_is_reported_as_balanced(
    stripe_saga: StripeWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAYMENT_GATEWAY_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    assert await books() == 2
    printed = capsys.readouterr()
    assert "✓" not in printed.out
    assert "Nothing was compared" in printed.err


async def books() -> int:
    """The command's exit code; in a thread, for it has an event loop of its own."""
    return await asyncio.to_thread(order_saga, ["books"])


# -- any neighbours


FOREIGN = st.fixed_dictionaries(
    {
        "installation": st.sampled_from([None, OTHER]),
        "amount": st.sampled_from([1000, 999, 4500]),
        "currency": st.sampled_from(["USD", "EUR"]),
        "confirmed": st.booleans(),
        "card": st.sampled_from(["1234", "0000"]),
    }
)


@rounds(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    foreign=st.lists(FOREIGN, max_size=4),
    card=st.sampled_from(["1234", "0000", "0119"]),
    attempts=st.integers(1, 3),
    undo=st.booleans(),
)
async def test_charging_and_refunding_affect_only_our_payments_in_a_shared_account(
    shop: Shop, foreign: list[dict[str, Any]], card: str, attempts: int, undo: bool
) -> None:
    await shop.empty()
    ledger = Ledger(None)
    ours = OwnPayments(InProcessGateway(ledger))
    theirs = [_foreign(ledger, "A", number, each) for number, each in enumerate(foreign)]
    before = [ledger.get(each) for each in theirs]
    (order,) = await shop.instance(small_order("A", card=card))
    charged = False
    for _ in range(attempts):
        await begin(STEP, [order])
        with suppress(PaymentError):
            await charge(order, ours)
            charged = True
    if undo or not charged:
        await begin_undo(STEP, [order])
        await refund(order, ours)
    assert [ledger.get(each) for each in theirs] == before
    mine = [payment for payment in ledger.find("A") if payment.id not in theirs]
    kept = sum(payment.amount - payment.refunded for payment in mine if payment.status == "succeeded")
    assert kept == (1000 if charged and not undo else 0)
    assert {payment.installation for payment in mine} <= {await installation_id()}
    ledger.close()


def _foreign(ledger: Ledger, order_id: str, number: int, given: dict[str, Any]) -> str:
    made = ledger.create(
        order_id=order_id,
        amount=given["amount"],
        currency=given["currency"],
        method="credit_card",
        card_last4=given["card"],
        token=None,
        key=f"foreign-{number}",
        installation=given["installation"],
    )
    if given["confirmed"]:
        with suppress(Refusal):  # a declined card
            ledger.confirm(made.id, key=None)
    return made.id
