"""Secrets are planted in every setting that takes one, and card data in orders; then every place where
something is kept is searched."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Worker
from deployments.samples import load_samples
from deployments.trigger import run_order, submit_orders, wake_pending_lane
from flows.log_lines import configure
from flows.process_order import process_order
from shop.orders import intake_content, report
from shop.orders.outcomes import Outcome
from shop.runtime.secrets import is_secret
from shop.runtime.setting_groups import settings_in
from shop.settings import Settings, settings
from tests.crm_server import crm_server
from tests.integration.world import World, an_order
from tests.mail_server import mail_server
from tests.waiting import until

PLANTED = "PLANTEDq7x"
CRM_SECRET = "whsec_UExBTlRFRHE3eFBMQU5URURxN3hQTEFOVEVEcTd4"
CARD, CODE = "4531902746183059", "9173"  # no other test's: they share a Prefect server
LEAKS = re.compile(
    rf"{PLANTED}|{CRM_SECRET}|UExBTlRFRHE3e|4531[ .-]?9027[ .-]?4618[ .-]?3059"
    rf"|\bcv[vc]2?\W{{0,12}}{CODE}(?!\d)",  # the code's digits alone may be anything's
    re.IGNORECASE,
)
SECRETS = {name for name, setting in settings_in(Settings).items() if is_secret(name, setting.info)}


@contextmanager
def model_server() -> Iterator[tuple[str, list[str]]]:
    """A provider that refuses the key and repeats it in its error,
    as some do. Its address, and the keys that it was given."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            keys.append(str(self.headers["authorization"]))
            content = json.dumps(
                {"error": {"message": f"Incorrect API key provided: {keys[-1]}", "code": "invalid_api_key"}}
            ).encode()
            self.send_response(401)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def database_url(database_url: str) -> Iterator[str]:
    """The same with a password in it, which the test's PostgreSQL does not ask for."""
    url = database_url.replace("postgres@", f"postgres:{PLANTED}@", 1)
    with environment({"DATABASE_URL": url}):
        yield url


@pytest.fixture
def planted(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The outside is there and takes mails after a login;
    the CRM and the model answer with errors, which say much."""
    with ExitStack() as stack:
        mails = stack.enter_context(mail_server(login=("mailer", PLANTED)))
        crm = stack.enter_context(crm_server(CRM_SECRET))
        crm.answer = lambda _: (500, {})
        model, keys = stack.enter_context(model_server())
        given = {
            "DATABASE_URL": database_url,
            "SMTP_URL": f"smtp://mailer:{PLANTED}@{mails.host}:{mails.port}?starttls=never",
            "CRM_WEBHOOK_URL": crm.url,
            "CRM_WEBHOOK_SECRET": CRM_SECRET,
            "DSPY_MODEL": "openai/planted",
            "DSPY_API_BASE": model,
            "DSPY_API_KEY": PLANTED,
            "DSPY_REFLECTION_API_KEY": PLANTED,
            "INVENTORY_SERVICE_TOKEN": PLANTED,
            "METRICS_TOKEN": f"{PLANTED}-{PLANTED}",
            "ALERT_URLS": f"json://{PLANTED}:{PLANTED}@127.0.0.1:9/{PLANTED}?+X-Key={PLANTED}",
            "STRIPE_API_KEY": f"sk_test_{PLANTED}",
            "STRIPE_WEBHOOK_SECRET": f"whsec_{PLANTED}",
            "SHOPIFY_WEBHOOK_SECRET": f"shpss_{PLANTED}",
            "WOOCOMMERCE_WEBHOOK_SECRET": f"woo-{PLANTED}",
            "EASYPOST_API_KEY": f"EZTK{PLANTED}",
            "ORDERS_API_KEY": f"{PLANTED}-{PLANTED}",
            "LOG_LEVEL": "DEBUG",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "shop",
        }
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        assert {name for name in SECRETS if not LEAKS.search(given.get(name, ""))} == set(), (
            "a secret setting that is not planted"
        )
        settings.cache_clear()
        yield
        assert keys, "the model was asked"
        assert all(PLANTED in key for key in keys)
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


def rows_with_secrets(url: str, leaks: re.Pattern[str] = LEAKS) -> list[str]:
    """Every row of every table, as PostgreSQL shows it."""
    engine = create_engine(Settings(DATABASE_URL=url).database_url)
    found = []
    with engine.connect() as connection:
        tables = (
            connection.execute(
                text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
            )
            .scalars()
            .all()
        )
        assert len(tables) > 5
        for table in tables:
            rows = connection.execute(text(f'SELECT t::text FROM "{table}" t')).scalars()
            found += [
                f"{table}: {row[max(0, hit.start() - 80) : hit.end() + 20]}"
                for row in rows
                if (hit := leaks.search(row))
            ]
    engine.dispose()
    return found


def files_with_secrets(folder: Path, leaks: re.Pattern[str] = LEAKS) -> list[str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    return [str(file) for file in files if leaks.search(file.read_bytes().decode("latin-1"))]


def found_in(saga: World, postgres: EmbeddedPostgres, world_dir: Path) -> list[str]:
    """Of the shop and of Prefect: tables, files, and the logs of their servers and of the sandbox."""
    tables = [*rows_with_secrets(saga.database_url), *rows_with_secrets(postgres.url("prefect"))]
    assert {"prefect-server.log", "sandbox.log"} <= {file.name for file in (world_dir / "logs").iterdir()}
    return [*tables, *files_with_secrets(saga.var_dir), *files_with_secrets(world_dir / "logs")]


@pytest.mark.usefixtures("prefect_api")  # its log and its database are searched
async def test_in_this_process_no_secret_and_no_card_is_kept(
    planted: None,
    saga: World,
    postgres: EmbeddedPostgres,
    world_dir: Path,
    unique: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The short one: an order that goes well, one that is undone, and one that is full of card data."""
    configure()
    wanted = {"KEPT": Outcome.COMPLETED, "UNDONE": Outcome.COMPENSATED, "CARELESS": Outcome.REJECTED}
    kept, undone, full = (f"{name}-{unique}" for name in wanted)
    for order in (an_order(kept), an_order(undone, country="AQ"), careless(full)):
        await process_order(json.loads(intake_content.take_in(order).text), return_state=True)
    ends = report.read([kept, undone, full])
    assert [ends[order_id].outcome for order_id in (kept, undone, full)] == list(wanted.values())
    assert found_in(saga, postgres, world_dir) == []
    shown = capfd.readouterr()
    assert LEAKS.search(shown.out + shown.err) is None


@pytest.mark.slow
async def test_no_secret_and_no_card_is_kept_anywhere(
    planted: None,
    saga: World,
    worker: Worker,
    postgres: EmbeddedPostgres,
    world_dir: Path,
    tmp_path: Path,
    prefect_api: PrefectServer,
    unique: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    samples = [
        {**order, "id": f"{order['id']}-{unique}"} for sample in load_samples() for order in sample.orders
    ]
    pending = [*samples, careless(f"CARELESS-{unique}")]
    submit_orders(pending)
    await asyncio.to_thread(wake_pending_lane)
    own = await asyncio.to_thread(run_order, careless(f"CARELESS-OWN-{unique}"), own_run=True, timeout=300)
    assert own.outcome is Outcome.REJECTED, "what looks like a card number is refused"
    ids = [order["id"] for order in pending]

    async def all_ended() -> bool:
        return report.count_ended(ids) == len(set(ids)) and not saga.sql(
            "SELECT 1 FROM outbox WHERE sent_at IS NULL AND attempts = 0"
        )

    await until(all_ended, 300, "all orders to end")
    assert {end.outcome for end in report.read(ids).values()} == set(Outcome), "every outcome is there"

    assert found_in(saga, postgres, world_dir) == []
    assert files_with_secrets(tmp_path / "logs") == [], "the worker's"
    password = re.compile(re.escape(prefect_api.auth[1]))
    assert rows_with_secrets(postgres.url("prefect"), password) == [], "of the Prefect server itself"
    assert [
        *files_with_secrets(tmp_path / "logs", password),
        *files_with_secrets(world_dir / "logs", password),
    ] == []
    shown = capfd.readouterr()
    assert LEAKS.search(shown.out + shown.err) is None


def test_the_search_can_find(saga: World) -> None:
    saga.sql(
        "INSERT INTO customer_interaction (customer_id, order_id, kind, details) "
        """VALUES ('c', 'o', 'k', '{"a": "4531 9027 4618 3059"}')"""
    )
    assert len(rows_with_secrets(saga.database_url)) == 1
    (saga.var_dir / "log").write_text(f"password {PLANTED}")
    assert len(files_with_secrets(saga.var_dir)) == 1
    assert LEAKS.search(f'{{"cvv": "{CODE}"}}')
    assert not LEAKS.search(f"order {CODE} of cvc{CODE}0")
