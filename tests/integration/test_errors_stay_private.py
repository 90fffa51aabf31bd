"""What the outside says of an order may repeat what its customer typed: no journal, state or log has it."""

from __future__ import annotations

import asyncio
import re
import time
import traceback

import pytest

from saga.errors import StepError
from saga.execution import StepExecution
from saga.external_action import run_external
from shop.inventory.errors import InventoryRefused
from shop.orders.order import OrderInstance
from shop.payments.errors import PaymentDeclined, PaymentGatewayError
from shop.shipping.errors import CarrierRefused, VoidRefused
from tests.integration.domain import Shop, an_order
from tests.saga.scripted import ACT, Ends, Outside

pytest_plugins = ["tests.integration.domain_fixtures"]


async def some(shop: Shop, *order_ids: str) -> list[OrderInstance]:
    return await shop.instance(*map(an_order, order_ids))


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (
            CarrierRefused(
                "EasyPost: house 'Qmarker Street 9' is not in QTOWN; try again (ADDRESS.NOT_FOUND)"
            ),
            "ADDRESS.NOT_FOUND",
        ),
        (
            VoidRefused("EasyPost does not take back what goes to jane.qmarker@example.com"),
            "does not take back",
        ),
        (PaymentGatewayError("no_such_token", "no such token: 'tok_qmarker'"), "no_such_token"),
        (PaymentDeclined("card_declined", "declined for Jane  Qmarker"), "card_declined"),
        (InventoryRefused("the inventory service refused (400): Qtown is not served"), "is not served"),
        (KeyError("Qmarker Street 9"), "KeyError"),
        (ValueError({"city": "Qtown"}), "ValueError"),
    ],
)
async def test_what_a_customer_typed_and_an_error_repeats_is_in_no_journal_state_or_log(
    shop: Shop, error: Exception, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    (order,) = await some(shop, "A")
    order.content |= {
        "customer_name": "Jane Qmarker",
        "customer_email": "jane.qmarker@example.com",
        "payment_info": {"method": "credit_card", "token": "tok_qmarker"},
        "shipping_info": {"address": "Qmarker Street 9", "city": "Qtown", "country": "US"},
    }
    with pytest.raises(StepError) as raised:
        await run_external(StepExecution(ACT, [order]), Outside(A=error))
    row = await shop.step("A", "act")
    prefect_shows = "".join(traceback.format_exception(raised.value)[-1:])
    logged = " ".join(str(vars(record)) for record in caplog.records)
    for shown in (
        str(row.error),
        str(raised.value),
        str(raised.value.reasons()),
        str(raised.value.details()),
        prefect_shows,
        logged,
    ):
        assert not re.search("qmarker|qtown|jane", shown, re.IGNORECASE), shown
    assert kept in str(row.error)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@pytest.mark.slow
async def test_however_long_the_orders_are_that_are_declined_others_have_their_turns(shop: Shop) -> None:
    """Else no lease would be renewed meanwhile. Measured in processor time:
    seconds if there were no turn between them."""
    orders = [
        order
        for first in range(0, 400, 50)
        for order in await some(shop, *(f"O{first + more}" for more in range(50)))
    ]
    for order in orders:
        order.content |= {"items": [{"name": f"ünusual {item} {'wört ' * 20}"} for item in range(1_000)]}
    work, longest, over = StepExecution(ACT, orders), 0.0, False

    async def declined(_: OrderInstance) -> Ends:
        raise PaymentDeclined("card_declined", "the bank does not know wört 17, ünusual")

    async def look() -> None:
        nonlocal longest
        since = time.process_time()
        while not over:
            await asyncio.sleep(0)
            longest, since = max(longest, time.process_time() - since), time.process_time()

    looking = asyncio.create_task(look())
    try:
        await run_external(work, declined)
    finally:
        over = True
        await looking
    assert len(work.failed) == 400
    assert {str(error) for error in work.failed.values()} == {
        "the bank does not know [customer's] 17, [customer's] (card_declined)"
    }
    assert longest < 0.5
