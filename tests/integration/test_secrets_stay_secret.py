"""Secrets are planted in every setting that takes one, and card data in orders; then every place where something is kept is searched."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from deployments.samples import load_samples
from deployments.stack.postgres import EmbeddedPostgres
from deployments.stack.prefect_server import PrefectServer
from deployments.stack.worker import Worker
from deployments.trigger import run_order, submit_orders, wake_pending_lane
from shop import report
from shop.outcomes import Outcome
from shop.settings import Settings, settings
from tests.crm_server import crm_server
from tests.integration.world import World, an_order
from tests.mail_server import mail_server
from tests.waiting import until

PLANTED = "PLANTEDq7x"
CRM_SECRET = "whsec_UExBTlRFRHE3eFBMQU5URURxN3hQTEFOVEVEcTd4"
CARD, CODE = "4531902746183059", "9173"  # no other test's: they share a Prefect server
LEAKS = re.compile(rf"{PLANTED}|{CRM_SECRET}|UExBTlRFRHE3e|4531[ .-]?9027[ .-]?4618[ .-]?3059", re.IGNORECASE)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The outside is there and takes mails after a login; the CRM and the model answer with errors, which say much."""
    with ExitStack() as stack:
        mails = stack.enter_context(mail_server(login=("mailer", PLANTED)))
        crm = stack.enter_context(crm_server(CRM_SECRET))
        crm.answer = lambda _: (500, {})
        given = {
            "SMTP_URL": f"smtp://mailer:{PLANTED}@{mails.host}:{mails.port}?starttls=never",
            "CRM_WEBHOOK_URL": crm.url,
            "CRM_WEBHOOK_SECRET": CRM_SECRET,
            "DSPY_MODEL": "openai/planted",
            "DSPY_API_BASE": "http://127.0.0.1:9/v1",
            "DSPY_API_KEY": PLANTED,
            "STRIPE_API_KEY": f"sk_test_{PLANTED}",
            "STRIPE_WEBHOOK_SECRET": f"whsec_{PLANTED}",
            "EASYPOST_API_KEY": f"EZTK{PLANTED}",
            "ORDERS_API_KEY": f"{PLANTED}-{PLANTED}",
            "LOG_LEVEL": "DEBUG",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "shop",
        }
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        yield
        assert mails.taken, "mails were sent"
        assert crm.requests, "the CRM was told"
    settings.cache_clear()


def careless(order_id: str) -> dict[str, Any]:
    """What a shop sends that has not read its contract: card data wherever it may be."""
    order = an_order(order_id)
    order["payment_info"] |= {"card_number": CARD, "cvv": CODE, "card_last4": "3059"}
    return {
        **order,
        "notes": f"card 4531-9027-4618-3059, cvc {CODE}",
        "items": [{**item, "name": f"Laptop {CARD}"} for item in order["items"]],
    }


def rows_with_secrets(url: str) -> list[str]:
    """Every row of every table, as PostgreSQL shows it."""
    engine = create_engine(Settings(database_url=url).database_url)
    found = []
    with engine.connect() as connection:
        tables = connection.execute(text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")).scalars().all()
        assert len(tables) > 5
        for table in tables:
            rows = connection.execute(text(f'SELECT t::text FROM "{table}" t')).scalars()
            found += [f"{table}: {row[max(0, hit.start() - 80) : hit.end() + 20]}" for row in rows if (hit := LEAKS.search(row))]
    engine.dispose()
    return found


def files_with_secrets(folder: Path) -> list[str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    return [str(file) for file in files if LEAKS.search(file.read_bytes().decode("latin-1"))]


@pytest.mark.slow
async def test_no_secret_and_no_card_is_kept_anywhere(
    planted: None,
    saga: World,
    worker: Worker,
    postgres: EmbeddedPostgres,
    prefect_api: PrefectServer,
    unique: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    samples = [{**order, "id": f"{order['id']}-{unique}"} for sample in load_samples() for order in sample.orders]
    pending = [*samples, careless(f"CARELESS-{unique}")]
    submit_orders(pending)
    await asyncio.to_thread(wake_pending_lane)
    own = await asyncio.to_thread(run_order, careless(f"CARELESS-OWN-{unique}"), own_run=True, timeout=300)
    assert own.outcome is Outcome.REJECTED, "what looks like a card number is refused"
    ids = [order["id"] for order in pending]

    async def all_ended() -> bool:
        return report.count_ended(ids) == len(set(ids)) and not saga.sql("SELECT 1 FROM outbox WHERE sent_at IS NULL AND attempts = 0")

    await until(all_ended, 300, "all orders to end")
    assert {end.outcome for end in report.read(ids).values()} == set(Outcome), "every outcome is there"

    assert rows_with_secrets(saga.database_url) == []
    assert rows_with_secrets(postgres.url("prefect")) == []
    assert files_with_secrets(saga.var_dir) == []
    shown = capfd.readouterr()
    assert LEAKS.search(shown.out + shown.err) is None


def test_the_search_can_find(saga: World) -> None:
    saga.sql(
        "INSERT INTO customer_interaction (customer_id, order_id, kind, details) VALUES ('c', 'o', 'k', '{\"a\": \"4531 9027 4618 3059\"}')"
    )
    assert len(rows_with_secrets(saga.database_url)) == 1
    (saga.var_dir / "log").write_text(f"password {PLANTED}")
    assert len(files_with_secrets(saga.var_dir)) == 1
