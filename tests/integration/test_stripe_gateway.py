"""The Stripe client against localstripe, a Stripe server that is not ours.
Checked against what localstripe has."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shop.orders import names
from shop.payments.errors import (
    PaymentDeclined,
    PaymentError,
    PaymentGatewayError,
    PaymentKeyRefused,
    PaymentLapsed,
    PaymentNeedsCustomer,
    PaymentRefused,
)
from shop.payments.gateway import Payment, PaymentStatus
from shop.payments.stripe.gateway import StripeGateway
from tests.localstripe_server import KEY, LocalStripe
from tests.waiting import until

PRICE = Decimal("10.59")
VISA, DECLINED, ASKS = "4242424242424242", "4000000000000341", "4000002500003155"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
TIMEOUT = 20.0


@pytest.fixture
async def gateway(localstripe: LocalStripe) -> AsyncIterator[StripeGateway]:
    made = StripeGateway(localstripe.url, KEY, TIMEOUT, 4)
    yield made
    await made.aclose()


async def new(
    gateway: StripeGateway,
    order_id: str,
    token: str = "pm_card_visa",
    amount: Decimal = PRICE,
    currency: str = "USD",
) -> Payment:
    return await gateway.create(
        order_id=order_id,
        amount=amount,
        currency=currency,
        method="credit_card",
        card_last4=None,
        token=token,
        key=names.key(order_id, "create"),
    )


async def charged(gateway: StripeGateway, order_id: str, **more: Any) -> Payment:
    return await gateway.confirm((await new(gateway, order_id, **more)).id, key="confirm")


async def test_created_confirmed_and_looked_up(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str
) -> None:
    created = await new(gateway, unique)
    assert (created.status, created.order_id, created.amount, created.currency) == (
        PaymentStatus.CREATED,
        unique,
        PRICE,
        "USD",
    )
    assert (created.charged, created.transaction_id, created.charged_at) == (0, None, None)
    assert localstripe.ledger(unique)[0]["amount"] == 0, "creating costs nothing"

    paid = await gateway.confirm(created.id, key="confirm")

    assert (paid.id, paid.status, paid.charged, paid.kept, paid.method) == (
        created.id,
        PaymentStatus.SUCCEEDED,
        PRICE,
        PRICE,
        "credit_card",
    )
    assert paid.transaction_id is not None
    assert paid.charged_at is not None
    assert abs(paid.charged_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert await gateway.get(paid.id) == paid
    assert await gateway.find(unique) == [paid]
    assert [entry["amount"] for entry in localstripe.ledger(unique)] == [1059]


async def test_confirming_again_charges_once_and_returns_the_charge(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str
) -> None:
    paid = await charged(gateway, unique)
    assert await gateway.confirm(paid.id, key="confirm") == paid
    assert await gateway.confirm(paid.id, key="another") == paid
    assert [entry["amount"] for entry in localstripe.ledger(unique)] == [1059]


async def test_many_confirmations_at_once_charge_once(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str
) -> None:
    created = await new(gateway, unique)
    answers = await asyncio.gather(*(gateway.confirm(created.id, key="confirm") for _ in range(8)))
    assert {answer.transaction_id for answer in answers} == {answers[0].transaction_id}
    assert [entry["amount"] for entry in localstripe.ledger(unique)] == [1059]


async def test_a_forgotten_key_makes_a_payment_that_costs_nothing(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str
) -> None:
    """localstripe honours no idempotency keys: both are found,
    by order id, and only what is confirmed is charged."""
    first, second = await new(gateway, unique), await new(gateway, unique)
    assert first.id != second.id
    await gateway.confirm(second.id, key="confirm")
    found = await gateway.find(unique)
    assert {payment.id: payment.charged for payment in found} == {first.id: 0, second.id: PRICE}
    assert sorted(entry["amount"] for entry in localstripe.ledger(unique)) == [0, 1059]


async def test_a_declined_card(gateway: StripeGateway, localstripe: LocalStripe, unique: str) -> None:
    created = await new(gateway, unique, localstripe.card(DECLINED))
    for key in ("confirm", "confirm", "another"):  # the second answer is not a 402 any more
        with pytest.raises(PaymentDeclined) as declined:
            await gateway.confirm(created.id, key=key)
        assert (declined.value.error_code, declined.value.retryable) == ("card_declined", False)
    assert (await gateway.get(created.id)).status is PaymentStatus.CREATED, "another card may still pay it"
    assert (await gateway.cancel(created.id, key="cancel")).status is PaymentStatus.CANCELLED
    with pytest.raises(PaymentDeclined, match="card_declined"):
        await gateway.confirm(created.id, key="confirm")
    assert [entry["amount"] for entry in localstripe.ledger(unique)] == [0]


async def test_a_card_that_asks_its_holder(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str
) -> None:
    created = await new(gateway, unique, localstripe.card(ASKS))
    for _ in range(2):
        with pytest.raises(PaymentNeedsCustomer) as asking:
            await gateway.confirm(created.id, key="confirm")
        assert 0 < (asking.value.retry_after or 0) <= 60
    assert (await gateway.get(created.id)).status is PaymentStatus.CREATED
    localstripe.authenticate(created.id, success=True)
    paid = await gateway.confirm(created.id, key="confirm")
    assert paid.charged == PRICE
    assert [entry["amount"] for entry in localstripe.ledger(unique)] == [1059]


async def test_a_card_holder_declines(gateway: StripeGateway, localstripe: LocalStripe, unique: str) -> None:
    created = await new(gateway, unique, localstripe.card(ASKS))
    with pytest.raises(PaymentNeedsCustomer):
        await gateway.confirm(created.id, key="confirm")
    localstripe.authenticate(created.id, success=False)
    with pytest.raises(PaymentDeclined, match="payment_intent_authentication_failure"):
        await gateway.confirm(created.id, key="confirm")


async def test_a_card_holder_does_not_respond(localstripe: LocalStripe, unique: str) -> None:
    """After the time limit the payment is cancelled, so that no answer can charge it any more."""
    gateway = StripeGateway(localstripe.url, KEY, TIMEOUT, 1, customer_minutes=1e-9)
    created = await new(gateway, unique, localstripe.card(ASKS))
    with pytest.raises(PaymentLapsed, match="requires_action"):
        await gateway.confirm(created.id, key="confirm")
    assert localstripe.ledger(unique)[0]["status"] == "canceled"
    await gateway.aclose()


async def test_cancelled_is_never_charged(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str
) -> None:
    created = await new(gateway, unique)
    for _ in range(2):
        assert (await gateway.cancel(created.id, key="cancel")).status is PaymentStatus.CANCELLED
    with pytest.raises(PaymentDeclined, match="canceled"):
        await gateway.confirm(created.id, key="confirm")
    assert [entry["status"] for entry in localstripe.ledger(unique)] == ["canceled"]


async def test_cancelling_a_charged_payment_reports_the_charge(gateway: StripeGateway, unique: str) -> None:
    paid = await charged(gateway, unique)
    assert await gateway.cancel(paid.id, key="cancel") == paid


async def test_refunded_in_parts_and_no_more_than_there_is(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str
) -> None:
    """localstripe gives back any amount, any number of times: it is the client that does not ask for it."""
    paid = await charged(gateway, unique)
    part = await gateway.refund(paid.id, amount=Decimal("0.59"), currency="USD", key=f"{unique}-1")
    assert (part.payment_id, part.amount, part.currency) == (paid.id, Decimal("0.59"), "USD")
    assert await gateway.refund(paid.id, amount=Decimal("0.59"), currency="USD", key=f"{unique}-1") == part, (
        "the same request again"
    )
    with pytest.raises(PaymentGatewayError) as too_much:
        await gateway.refund(paid.id, amount=PRICE, currency="USD", key=f"{unique}-2")
    assert (too_much.value.error_code, too_much.value.retryable) == ("refund_too_large", False)
    rest = await gateway.refund(paid.id, amount=Decimal(10), currency="USD", key=f"{unique}-3")
    now = await gateway.get(paid.id)
    assert (now.status, now.kept, {refund.id for refund in now.refunds}) == (
        PaymentStatus.SUCCEEDED,
        0,
        {part.id, rest.id},
    )
    assert sorted(refund["amount"] for refund in localstripe.ledger(unique)[0]["refunds"]) == [59, 1000]


async def test_refunded_in_more_parts_than_come_with_a_payment(gateway: StripeGateway, unique: str) -> None:
    paid = await charged(gateway, unique)
    for number in range(12):
        await gateway.refund(paid.id, amount=Decimal("0.10"), currency="USD", key=f"{unique}-{number}")
    now = await gateway.get(paid.id)
    assert (len(now.refunds), now.amount_refunded) == (12, Decimal("1.20"))


@pytest.mark.parametrize("currency", ["EUR", "usd"])
async def test_not_refunded_in_another_currency(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str, currency: str
) -> None:
    paid = await charged(gateway, unique)
    with pytest.raises(PaymentGatewayError) as refused:
        await gateway.refund(paid.id, amount=PRICE, currency=currency, key=unique)
    assert not refused.value.retryable
    assert localstripe.ledger(unique)[0]["refunds"] == []


async def test_what_was_not_charged_is_not_refunded(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str
) -> None:
    for number, card in enumerate((VISA, DECLINED)):
        payment = await new(gateway, f"{unique}-{number}", localstripe.card(card))
        if card == DECLINED:
            with pytest.raises(PaymentDeclined):
                await gateway.confirm(payment.id, key="confirm")
        with pytest.raises(PaymentGatewayError, match="not_refundable"):
            await gateway.refund(payment.id, amount=PRICE, currency="USD", key=unique)


@pytest.mark.parametrize(
    ("amount", "currency", "units"),
    [("500", "JPY", 500), ("5.12", "KWD", 5120), ("5", "ISK", 500), ("5", "UGX", 500), ("7", "MGA", 7)],
)
async def test_currencies(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str, amount: str, currency: str, units: int
) -> None:
    paid = await charged(gateway, unique, amount=Decimal(amount), currency=currency)
    assert (paid.amount, paid.currency) == (Decimal(amount), currency)
    back = await gateway.refund(paid.id, amount=Decimal(amount), currency=currency, key=unique)
    assert (back.amount, back.currency) == (Decimal(amount), currency)
    (entry,) = localstripe.ledger(unique)
    assert (entry["amount"], [refund["amount"] for refund in entry["refunds"]]) == (units, [units])


async def test_an_amount_that_cannot_be_charged_exactly_is_not_sent(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str
) -> None:
    with pytest.raises(PaymentGatewayError, match="invalid_amount"):
        await new(gateway, unique, amount=Decimal("5.124"), currency="KWD")
    assert localstripe.ledger(unique) == []


@pytest.mark.parametrize(
    "token", [None, "4242424242424242", "tok_visa", "pm_", "pm_card_visa/../x", "pm_x\n", ""]
)
async def test_without_a_payment_method_nothing_is_sent(
    gateway: StripeGateway, localstripe: LocalStripe, unique: str, token: Any
) -> None:
    def posted() -> int:
        return localstripe.log.read_text().count("POST /v1/payment_intents ")

    earlier = posted()
    assert (await new(gateway, f"{unique}-before")).id

    async def noted() -> bool:  # after the answer
        return posted() > earlier

    await until(noted, 10, "localstripe to note what it was asked")
    before = posted()
    with pytest.raises(PaymentRefused, match=r"payment_info\.token") as refused:
        await gateway.create(
            order_id=unique,
            amount=PRICE,
            currency="USD",
            method="credit_card",
            card_last4="4242",
            token=token,
            key=unique,
        )
    assert not token or token not in str(refused.value)
    assert posted() == before


async def test_an_unknown_payment_method_or_payment_is_refused_for_good(
    gateway: StripeGateway, unique: str
) -> None:
    asks: list[Callable[[], Any]] = [
        lambda: new(gateway, unique, "pm_unknown"),
        lambda: gateway.get("pi_unknown"),
        lambda: gateway.confirm("pi_unknown", key="k"),
        lambda: gateway.cancel("pi_unknown", key="k"),
        lambda: gateway.refund("pi_unknown", amount=PRICE, currency="USD", key="k"),
        lambda: gateway.get("../charges"),
        lambda: gateway.confirm("", key="k"),
    ]
    for ask in asks:
        with pytest.raises(PaymentGatewayError) as refused:
            await ask()
        assert not refused.value.retryable
    assert await gateway.find(f"{unique}-nobody") == []


@pytest.mark.parametrize(
    "order_id", ["it's", 'a "b"', "back\\slash", "Ünï çødé 🎈", "a&b=c", "metadata['x']:'y'", "UPPER", "a  b"]
)
async def test_any_order_id_comes_back_as_it_was(gateway: StripeGateway, unique: str, order_id: str) -> None:
    created = await new(gateway, f"{unique} {order_id}")
    assert created.order_id == f"{unique} {order_id}"
    assert [payment.id for payment in await gateway.find(created.order_id)] == [created.id]


async def test_pages_have_everything_once(localstripe: LocalStripe, unique: str) -> None:
    gateway = StripeGateway(localstripe.url, KEY, TIMEOUT, 2, page=3)
    mine = {(await charged(gateway, f"{unique}-{n}")).id for n in range(7)}
    left = await new(gateway, f"{unique}-left")
    refunded = min(mine)
    await gateway.refund(refunded, amount=Decimal(1), currency="USD", key=unique)
    paid = {"amount": "100", "currency": "usd", "payment_method": "pm_card_visa"}
    unmarked = localstripe.post("/v1/payment_intents", **paid)["id"]
    pages = [page async for page in gateway.pages(LONG_AGO)]
    listed = [payment for page in pages for payment in page]
    assert len({payment.id for payment in listed}) == len(listed), "a payment twice"
    assert {payment.id for payment in listed if payment.order_id.startswith(unique)} == {*mine, left.id}
    assert [payment.order_id for payment in listed if payment.id == unmarked] == [""], "an order may adopt it"
    assert max(len(page) for page in pages) <= 3
    assert next(payment for payment in listed if payment.id == refunded).amount_refunded == 1
    assert [page async for page in gateway.pages(datetime.now(UTC) + timedelta(hours=1))] == []
    await gateway.aclose()


async def test_a_server_that_is_killed_and_comes_back(tmp_path: Path, unique: str) -> None:
    server = LocalStripe(tmp_path, tmp_path / "run")
    gateway = StripeGateway(server.url, KEY, TIMEOUT, 2)
    try:
        server.start()
        created = await new(gateway, unique)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        with pytest.raises(PaymentGatewayError) as raised:
            await gateway.confirm(created.id, key="confirm")
        assert (raised.value.retryable, raised.value.error_code) in {
            (True, "unreachable"),
            (True, "connection_lost"),
        }
        server.start()
        paid = await gateway.confirm(created.id, key="confirm")
        assert (paid.id, paid.charged) == (created.id, PRICE)
        assert await gateway.find(unique) == [paid]
    finally:
        await gateway.aclose()
        server.stop()


async def test_a_key_that_stripe_does_not_know_stops_at_once(localstripe: LocalStripe, unique: str) -> None:
    gateway = StripeGateway(localstripe.url, "xk_wrong_secret", TIMEOUT, 1)
    with pytest.raises(PaymentKeyRefused, match="STRIPE_API_KEY") as refused:
        await new(gateway, unique)
    assert refused.value.error_code == "authentication"
    assert "wrong_secret" not in str(refused.value)
    await gateway.aclose()


async def test_after_it_was_closed_it_opens_new_connections(localstripe: LocalStripe, unique: str) -> None:
    gateway = StripeGateway(localstripe.url, KEY, TIMEOUT, 2)
    paid = await charged(gateway, unique)
    await gateway.aclose()
    assert await gateway.find(unique) == [paid]
    await gateway.aclose()


async def test_neither_the_key_nor_card_data_nor_client_secrets_are_logged(
    localstripe: LocalStripe, unique: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "sk_test_SECRETKEY"
    with caplog.at_level(logging.DEBUG):
        gateway = StripeGateway(localstripe.url, key, TIMEOUT, 1)
        paid = await charged(gateway, unique, token=localstripe.card(VISA))
        for ask in (lambda: gateway.get("pi_unknown"), lambda: new(gateway, unique, "pm_unknown")):
            try:
                await ask()
            except PaymentError:
                logging.getLogger("test").exception("as a worker logs it")
        await gateway.aclose()
    secret = localstripe.get(f"/v1/payment_intents/{paid.id}")["client_secret"]
    out = capfd.readouterr()
    printed = caplog.text + out.out + out.err
    assert "as a worker logs it" in printed
    for planted in (key, "SECRETKEY", secret, VISA):
        assert planted not in printed
