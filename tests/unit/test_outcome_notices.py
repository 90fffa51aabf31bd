"""Which notice an order's end makes due."""

from __future__ import annotations

from decimal import Decimal

import pytest

from saga.errors import (
    RecordedFailure,
    SagaCancelled,
    SagaReturned,
    StepError,
    TooManyTakeovers,
    UnexpectedStepError,
)
from shop.inventory.errors import OutOfStock, Shortage
from shop.notifications.kinds import Kind
from shop.notifications.notices import notice_of
from shop.orders.errors import OrderRejected
from shop.orders.order import EXAMPLE, OrderInstance
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS
from shop.payments.errors import (
    NoDeliveryAddress,
    PaymentDeclined,
    PaymentGatewayError,
    PaymentLapsed,
    PaymentRefused,
)
from shop.shipping.errors import CarrierRefused

SHORT = OutOfStock([Shortage("PROD-001", 2, 1)])
DECLINED = PaymentDeclined("card_declined", "no")


def notice(
    step: str | None,
    failure: StepError | None,
    outcome: Outcome = Outcome.COMPENSATED,
    charged: int = 0,
    back: int = 0,
    risk: int = 0,
) -> Kind | None:
    order = OrderInstance("A", EXAMPLE, 1, ORDERS)
    if step is not None and failure is not None:
        order.fail(step, failure)
    found = notice_of(
        order,
        outcome,
        charged=Decimal(charged),
        given_back=Decimal(back),
        at_risk=Decimal(risk),
        currency="USD",
    )
    return found.kind if found else None


@pytest.mark.parametrize(
    "failure",
    [
        DECLINED,
        PaymentLapsed("requires_action", "too late"),
        PaymentGatewayError("x", "no"),
        UnexpectedStepError("process_payment", ValueError()),
        RecordedFailure(DECLINED.details()),
    ],
)
def test_a_payment_that_failed(failure: StepError) -> None:
    assert notice("process_payment", failure) is Kind.PAYMENT_FAILED


@pytest.mark.parametrize("failure", [NoDeliveryAddress(), PaymentRefused("no token")])
def test_something_was_missing(failure: StepError) -> None:
    assert notice("process_payment", failure) is Kind.INCOMPLETE
    assert notice("process_payment", RecordedFailure(failure.details())) is Kind.INCOMPLETE


@pytest.mark.parametrize("outcome", [Outcome.OUT_OF_STOCK, Outcome.COMPENSATED])
def test_something_is_short(outcome: Outcome) -> None:
    assert notice("check_inventory", SHORT, outcome) is Kind.OUT_OF_STOCK
    assert notice("check_inventory", RecordedFailure(SHORT.details()), outcome) is Kind.OUT_OF_STOCK


@pytest.mark.parametrize(
    "failure", [DECLINED, SHORT, CarrierRefused("no"), SagaCancelled("x"), SagaReturned("x")]
)
def test_a_refunded_customer_gets_only_the_refund_mail(failure: StepError) -> None:
    assert notice("process_payment", failure, charged=5, back=5) is Kind.REFUND


@pytest.mark.parametrize(
    ("step", "failure", "outcome"),
    [
        ("validate_order", OrderRejected([]), Outcome.REJECTED),
        ("validate_order", TooManyTakeovers(20), Outcome.COMPENSATED),
        ("process_payment", SagaCancelled("x"), Outcome.COMPENSATED),
        ("fulfill_order", CarrierRefused("no"), Outcome.COMPENSATED),
        (None, None, Outcome.COMPLETED),
    ],
)
def test_no_notice(step: str | None, failure: StepError | None, outcome: Outcome) -> None:
    assert notice(step, failure, outcome) is None


def test_no_notice_denies_a_charge_that_was_made() -> None:
    """Such as an order whose loss a person has written off, or whose refund a person still has to see to."""
    assert notice("process_payment", DECLINED, charged=5) is None
    assert notice("process_payment", DECLINED, Outcome.NEEDS_ATTENTION, charged=5, risk=5) is None
    assert notice("process_payment", DECLINED, Outcome.NEEDS_ATTENTION, risk=5) is None
    assert notice("process_payment", DECLINED, Outcome.NEEDS_ATTENTION, charged=5, back=2, risk=3) is None
    assert notice("check_inventory", SHORT, charged=5) is None
