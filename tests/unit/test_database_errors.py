"""A database that does not answer: its cause is shown, and no secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from deployments.cli.trouble import explanation
from deployments.database_errors import DatabaseUnavailable, reason
from deployments.environment import environment
from deployments.review import orders_that_need_attention
from deployments.trigger import submit_orders, wait_for_outcome
from saga.database import is_database_error, sync_engine

FAILED = 'connection failed: connection to server at "db.example", port 5432 failed: '


@pytest.fixture(autouse=True)
def nowhere() -> Iterator[None]:
    url = "postgresql://shop:planted-secret@127.0.0.1:1/nowhere"
    with environment({"DATABASE_URL": url, "PREFECT_API_URL": "http://127.0.0.1:1/api"}):
        yield
    sync_engine.cache_clear()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (f'{FAILED}FATAL:  database "nope" does not exist', 'FATAL: database "nope" does not exist'),
        (f"{FAILED}Connection refused\n\tIs the server running on that host?", "Connection refused"),
        (f'{FAILED}FATAL:  password authentication failed for user "shop"', "authentication failed"),
        ("cannot parse planted-secret", "cannot parse ***"),
    ],
)
def test_the_drivers_first_line_is_shown_without_secrets(message: str, shown: str) -> None:
    error = OperationalError("SELECT 1", {}, psycopg.OperationalError(message))
    assert shown in reason(error)
    assert "\n" not in reason(error)
    assert shown in str(explanation(error))
    assert "planted-secret" not in str(explanation(error))


def test_values_of_rows_are_not_shown() -> None:
    error = psycopg.errors.NumericValueOutOfRange("value 4242 is out of range")
    assert reason(OperationalError("INSERT", {}, error)) == "NumericValueOutOfRange"


@pytest.mark.parametrize(
    "call",
    [
        lambda: submit_orders([{"id": "ORDER-1"}]),
        lambda: wait_for_outcome("ORDER-1", 1),
        orders_that_need_attention,
    ],
    ids=["submit_orders", "wait_for_outcome", "orders_that_need_attention"],
)
def test_the_python_api_raises_a_clear_database_error(call: Callable[[], object]) -> None:
    with pytest.raises(DatabaseUnavailable) as raised:
        call()
    assert isinstance(raised.value, OperationalError)
    assert is_database_error(raised.value)
    assert "Connection refused" in str(raised.value)
    assert "sqlalche.me" not in str(raised.value)
    assert "planted-secret" not in str(raised.value)
