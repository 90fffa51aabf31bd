"""A number of a few characters costs milliseconds, wherever it enters.

Each entry runs in a process of its own, which can be ended: converting 1e999999999 to an integer takes
minutes, during which Python handles no signal and runs no other thread.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

SECONDS = 60
"""Far more than importing takes on a busy machine, far less than the conversion does."""

PROLOGUE = """
import asyncio, json, os
from decimal import Decimal
from shop.orders.order import EXAMPLE

BOMBS = ["1e999999999", "-1e999999999", "1e-999999999", "1.5e99999999", "0e999999999"]
BOMBS += ["1e9999999999999999999", "9" * 5000]

def placed(bomb):
    '''The example's JSON with the number as quantity and as every amount, once each.'''
    for name in ("total_amount", "tax_amount"):
        yield json.dumps({**EXAMPLE, name: "@"}).replace('"@"', bomb)
    for name in ("quantity", "price"):
        yield json.dumps({**EXAMPLE, "items": [{**EXAMPLE["items"][0], name: "@"}]}).replace('"@"', bomb)
    yield json.dumps({**EXAMPLE, "more": {"deep": ["@"]}}).replace('"@"', bomb)
    yield json.dumps({**EXAMPLE, "id": "@"}).replace('"@"', bomb)

class Everything:
    async def known(self, ids):
        return ids

def verdict(content):
    from shop.settings import Settings
    from shop.orders.validation import validate
    return asyncio.run(validate([content], Everything(), Settings()))[0]
"""

ENTRIES = {
    "an order from Python": """
        from shop.orders.errors import OrderRejected, UnusableOrder
        from shop.orders.intake_content import take_in
        for number in ("1e999999999", "-1e99999999", "1e-999999999", "NaN", "-Infinity", "1." + "0" * 1000):
            for name in ("quantity", "price"):
                order = {**EXAMPLE, "items": [{**EXAMPLE["items"][0], name: Decimal(number)}]}
                assert isinstance(verdict(json.loads(take_in(order).text)), OrderRejected), number
            try:
                take_in({**EXAMPLE, "id": Decimal(number)})
            except UnusableOrder:
                continue
            raise AssertionError(number)
    """,
    "stored content": """
        from shop.orders.errors import OrderRejected
        from shop.orders.order import read_stored
        bombs = ("1e999999999", "1E+999999999", "1e-999999999", "9" * 5000, Decimal("1e999999999"), 1e308)
        for number in bombs:
            content = {**EXAMPLE, "items": [{**EXAMPLE["items"][0], "quantity": number}]}
            assert isinstance(verdict(content), OrderRejected), number
            try:
                read_stored(content)
            except ValueError:
                continue
            raise AssertionError(number)
    """,
    "a body of the web app": """
        from starlette.requests import Request
        from deployments.web.requests import read_json
        from deployments.web.problems import ProblemError

        def request(body):
            async def receive():
                return {"type": "http.request", "body": body.encode(), "more_body": False}
            headers = [(b"content-type", b"application/json")]
            return Request({"type": "http", "method": "POST", "headers": headers}, receive)

        for bomb in BOMBS:
            for body in placed(bomb):
                try:
                    asyncio.run(read_json(request(body)))
                except ProblemError as error:
                    assert error.problem.status == 400 and "a number" in error.problem.detail, error
                else:
                    raise AssertionError(body)
        read = asyncio.run(read_json(request('{"a": 1e3, "b": 0.10}')))
        assert read == {"a": Decimal(1000), "b": Decimal("0.10")}, read
    """,
    "the shell command, JSON and NDJSON": """
        from deployments.cli.entries import InputError, read_orders
        for bomb in BOMBS:
            for order in placed(bomb):
                for text in (order, f"[{order}]", f'{{"id": "A"}}\\n{order}'):
                    try:
                        read_orders(text)
                    except InputError as error:
                        assert "a number" in str(error), error
                    else:
                        raise AssertionError(text)
    """,
    "parameters of a flow run": """
        from prefect.exceptions import ParameterTypeError
        from flows.process_order import process_order
        # as Prefect's server reads them
        as_read = [json.loads(order) for bomb in BOMBS[:-1] for order in placed(bomb)]
        as_called = [json.loads(order, parse_float=Decimal) for bomb in BOMBS[:-2] for order in placed(bomb)]
        refused = 0
        for order in as_read + as_called:
            try:
                process_order.validate_parameters({"order": order})
            except ParameterTypeError:
                refused += 1
        assert refused >= len(BOMBS) * 4, refused
    """,
    "settings": """
        from pydantic import ValidationError
        from shop.settings import Settings
        cases = [("MAX_ORDER_TOTAL", "1e999999999"), ("MAX_ORDER_TOTAL_BY_CURRENCY", '{"JPY": 1e300}')]
        cases += [("MAX_ORDER_TOTAL_BY_CURRENCY", '{"JPY": "1e999999999"}')]
        cases += [("MAX_QUANTITY", "1e999999999"), ("MAX_ITEMS", "9" * 5000)]
        cases += [("LEASE_SECONDS", "1e999999999")]
        cases += [("RESERVATION_MINUTES", "inf"), ("CARRIER_PIECE_OUNCES", "1e400")]
        for name, value in cases:
            os.environ[name] = value
            try:
                Settings()
            except ValidationError:
                del os.environ[name]
                continue
            raise AssertionError(name)
    """,
    "a webhook of Stripe": """
        import hashlib, hmac, time
        from shop.payments.stripe.event import UnreadableEvent, read_signed
        for bomb in BOMBS:
            data = '"data": {"object": {"id": "pi_1"}}'
            kind = '"object": "event", "id": "evt_1", "type": "payment_intent.succeeded"'
            payload, now = ('{%s, "created": %s, %s}' % (kind, bomb, data)).encode(), int(time.time())
            signed = hmac.new(b"whsec_12345678", b"%d." % now + payload, hashlib.sha256).hexdigest()
            try:
                read_signed(payload, f"t={now},v1={signed}", ("whsec_12345678",))
            except UnreadableEvent:
                continue
            assert bomb in {"0e999999999", "1e-999999999"}, bomb
    """,
    "answers of the gateway, the carrier and the inventory service": """
        from pydantic import TypeAdapter, ValidationError
        from shop.shipping.errors import CarrierUnavailable
        from shop.payments.sandbox.records import CurrencyTotals, PaymentRecord
        from shop.payments.stripe.records import RefundRecord
        from shop.shipping.easypost.records import RateRecord, read
        from shop.inventory.service.wire import RESERVATION, SHIPPED, STOCK, ProblemDetails

        def refused(parse, text):
            try:
                parse(text)
            except ValidationError:
                return True
            return False

        for bomb in ["1e999999999", "-1e99999999", "1e9999999999999999999", "9" * 4000, "9" * 5000]:
            assert refused(SHIPPED.validate_json, f'{{"A": {bomb}}}'), bomb
            none = '"reserved": 0, "shipped": 0, "served": 0, "held": 0'
            stock = '[{"id": "A", "received": %s, "on_hand": 1, %s}]'
            assert refused(STOCK.validate_json, stock % (bomb, none)), bomb
            held = '{"order_id": "A", "id": "B", "state": "held", "items": {"A": %s}, "expires_at": "%s"}'
            assert refused(RESERVATION.validate_json, held % (bomb, "2030-01-01T00:00:00Z")), bomb
            short = '{"shortages": [{"product_id": "A", "requested": %s, "available": 0}]}'
            assert refused(ProblemDetails.model_validate_json, short % bomb), bomb
            totals = '{"currency": "USD", "charged": %s, "refunded": 0}'
            assert refused(TypeAdapter(CurrencyTotals).validate_json, totals % bomb), bomb
            refund = '{"id": "re_1", "amount": %s, "currency": "usd", "created": 1, "status": "succeeded"}'
            assert refused(RefundRecord.model_validate_json, refund % bomb), bomb
            try:
                read(RateRecord, {"id": "r", "carrier": "c", "service": "s", "rate": bomb})
            except CarrierUnavailable:
                continue
            raise AssertionError(bomb)
    """,
    "a field of a log line": """
        import orjson
        from shop.monitoring.masking import masked
        from shop.settings import Settings
        for number in (10**30, -(10**400), 1 << 1_000_000, 2**63 - 1, Decimal("1e999999999")):
            orjson.dumps(masked({"amount": [number]}, Settings()))
    """,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_number_of_a_few_characters_costs_nothing(entry: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROLOGUE + textwrap.dedent(ENTRIES[entry])],
        timeout=SECONDS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3_000:]
