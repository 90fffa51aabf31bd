"""Checks every external part through the client that orders use. Changes nothing there."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from http import HTTPStatus

import httpx
import psycopg
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from deployments.check.finding import Finding, State
from deployments.check.open_server import open_beyond_loopback
from deployments.check.pooler import Pooler, recognise_pooler
from saga.database import new_engine
from saga.errors import StepError
from saga.wakeup import plain_url
from shop.runtime.extras import MissingExtra, needs_extra
from shop.runtime.files import make_private
from shop.runtime.migrate import newest_revision, revision
from shop.runtime.setting_groups import settings_in
from shop.settings import Settings, mistakes

_ALIKE = 0.87
SECONDS = 20
"""Time limit per part, in seconds."""
NOT_RUNNING = "not running now: `make run` starts it"


@dataclass(frozen=True, slots=True)
class Known:
    """`given`: whether a person has set this setting; otherwise the part is our own. `prefect_api_url`,
    `web_url`: None if unknown."""

    settings: Settings
    given: Callable[[str], bool]
    prefect_api_url: str | None
    web_url: str | None = None


Check = Callable[[Known], Awaitable[Finding]]


async def check_part(part: str, ask: Check, known: Known) -> Finding:
    """Checks a part. Never raises: an unexpected error is a finding, too."""
    try:
        async with asyncio.timeout(SECONDS):
            return await ask(known)
    except TimeoutError:
        return Finding(
            part,
            State.WRONG,
            f"no answer within {SECONDS} s",
            "check the network between this machine and the part",
        )
    except MissingExtra as error:
        return Finding(part, State.WRONG, str(error), f"install the extra `{error.extra}`")
    except StepError as error:
        return Finding(
            part, State.WRONG, str(error), "correct the setting that the message names, or try again later"
        )
    except Exception as error:  # noqa: BLE001
        hidden = f"{type(error).__name__} (its text is hidden because it may contain a secret)"
        return Finding(part, State.WRONG, hidden, "see docs/reference/settings.md")


_WITHOUT_POOLER = (
    "set DATABASE_URL to PostgreSQL itself (its own port, usually 5432), "
    "or set the pooler to session mode (PgBouncer: pool_mode = session)"
)


async def database(known: Known) -> Finding:
    given = known.given("DATABASE_URL")
    through, url = "", make_url(known.settings.database_url)
    where = f"{url.database} at {url.query.get('host', url.host or 'localhost')}"

    def read() -> tuple[str, bool, str | None, str | None] | None:
        nonlocal through
        address = known.settings.database_url
        if (pooler := recognise_pooler(plain_url(), seconds=SECONDS // 2)) is Pooler.TRANSACTION:
            return None
        through = f", through a pooler in {pooler}" if pooler else ""
        engine = new_engine(address, seconds=SECONDS // 2)
        try:
            with engine.connect() as connection:
                version = connection.execute(text("SHOW server_version")).scalar_one()
                read_only = connection.execute(text("SHOW transaction_read_only")).scalar_one() == "on"
                return str(version).split()[0], read_only, revision(connection), newest_revision()
        finally:
            engine.dispose()

    try:
        answers = await asyncio.to_thread(read)
    except (SQLAlchemyError, psycopg.Error) as error:
        if not given:
            return Finding("database", State.EMBEDDED, f"PostgreSQL, {NOT_RUNNING}")
        why = type(getattr(error, "orig", error)).__name__
        return Finding(
            "database",
            State.WRONG,
            f"{where} cannot be used ({why})",
            "check DATABASE_URL and whether the server runs",
        )
    if answers is None:
        what = (
            f"{where} is behind a pooler in {Pooler.TRANSACTION}: "
            "successive statements were answered by different server processes"
        )
        return Finding(
            "database",
            State.WRONG,
            f"{what}, so LISTEN, session settings and session locks do not last",
            _WITHOUT_POOLER,
        )
    version, read_only, current, newest = answers
    state, what = (State.REAL if given else State.EMBEDDED), f"PostgreSQL {version}, {where}{through}"
    if read_only:
        remedy = "set DATABASE_URL to the primary; of several hosts (?host=a,b) the writable one is used"
        return Finding(
            "database", State.WRONG, f"{what}: it is read-only, a standby or a demoted primary", remedy
        )
    if current != newest:
        return Finding(
            "database",
            State.WRONG,
            f"{what}: its tables are at {current or 'nothing'}, not {newest}",
            "run order-saga migrate",
        )
    return Finding("database", state, what)


_CLOSE = (
    "set PREFECT_SERVER_API_AUTH_STRING at the server, and the same value as PREFECT_API_AUTH_STRING "
    "at each client, or let it listen on 127.0.0.1 only; see docs/security.md"
)


async def prefect_server(known: Known) -> Finding:
    part, given, api = "Prefect server", known.given("PREFECT_API_URL"), known.prefect_api_url
    if api is None:
        return Finding(part, State.EMBEDDED, NOT_RUNNING)
    if where := await open_beyond_loopback(api):
        what = (
            f"{where} requires no password: whoever can reach it "
            "can read all customers, refund orders, and run code on the workers"
        )
        return Finding(part, State.WRONG, what, _CLOSE)
    from prefect.client.base import ServerType
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import WorkPoolStatus
    from prefect.exceptions import ObjectNotFound

    from deployments.automations import automations as wanted_automations
    from deployments.prefect_file import described

    try:
        async with get_client() as client:
            is_cloud = client.server_type == ServerType.CLOUD
            version = "Cloud" if is_cloud else await client.api_version()
            try:
                pool = await client.read_work_pool(known.settings.workers.pool)
            except ObjectNotFound:
                return Finding(
                    part,
                    State.WRONG,
                    f"{api} has no work pool {known.settings.workers.pool}",
                    "run order-saga setup",
                )
            there = {deployment.name for deployment in await client.read_deployments(limit=200)}
            wanted = described()["deployments"]
            missing = [each["name"] for each in wanted if each["name"] not in there]
            automations = {automation.name for automation in await client.read_automations()}
    except httpx.HTTPError as error:
        if not given:
            return Finding(part, State.EMBEDDED, NOT_RUNNING)
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in {
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.FORBIDDEN,
        }:
            return Finding(
                part,
                State.WRONG,
                f"{api} refuses the login",
                "check PREFECT_API_AUTH_STRING, or PREFECT_API_KEY (Prefect Cloud)",
            )
        return Finding(
            part,
            State.WRONG,
            f"{api} does not answer ({type(error).__name__})",
            "check PREFECT_API_URL and PREFECT_API_KEY",
        )
    if missing:
        return Finding(
            part, State.WRONG, f"{api} has no deployment {', '.join(missing)}", "run order-saga setup"
        )
    triggers = [trigger["name"] for each in wanted for trigger in each.get("triggers", ())]
    names = [*triggers, *(each.name for each in wanted_automations())]
    if left := [name for name in names if name not in automations]:
        return Finding(
            part, State.WRONG, f"{api} has no automation {', '.join(map(repr, left))}", "run order-saga setup"
        )
    if given and pool.status != WorkPoolStatus.READY:
        return Finding(
            part,
            State.WRONG,
            f"no worker takes runs of the pool {pool.name} at {api}",
            "run order-saga worker",
        )
    return Finding(part, State.REAL if given else State.EMBEDDED, f"Prefect {version}, {api}")


async def payments(known: Known) -> Finding:
    from shop.payments.gateways import close_gateway, gateway

    s = known.settings
    try:
        async for _ in gateway().pages(datetime.now(UTC)):
            break
    except StepError as error:
        if s.payments.gateway == "sandbox" and not known.given("PAYMENT_GATEWAY_URL"):
            return Finding("payments", State.EMBEDDED, f"the sandbox, {NOT_RUNNING}")
        return Finding(
            "payments",
            State.WRONG,
            str(error),
            f"check PAYMENT_GATEWAY_URL ({s.payments.url}) and the gateway's key",
        )
    finally:
        await close_gateway()
    if s.payments.gateway == "sandbox":
        return Finding("payments", State.EMBEDDED, f"the sandbox at {s.payments.url}: no real money")
    live = s.stripe.api_key is not None and "_live_" in s.stripe.api_key.get_secret_value()
    return Finding("payments", State.REAL, f"Stripe, {'LIVE: real money' if live else 'a test key'}")


async def inventory(known: Known) -> Finding:
    url = known.settings.inventory.service_url
    if url is None:
        return Finding("inventory", State.EMBEDDED, "the shop's own tables")
    from shop.inventory.service.connections import service

    there = service(url)
    try:
        await there.get("order-that-is-not-there")
    except StepError as error:
        return Finding(
            "inventory",
            State.WRONG,
            str(error),
            f"check INVENTORY_SERVICE_URL ({url}) and INVENTORY_SERVICE_TOKEN",
        )
    finally:
        await there.aclose()
    return Finding("inventory", State.REAL, f"the service at {url}")


async def language_model(known: Known) -> Finding:
    part, s = "language model", known.settings
    if not s.language_model.model:
        return Finding(part, State.OFF, "the template writes the confirmations (DSPY_MODEL)")
    from shop.confirmation.language_model import probe

    try:
        await probe(s)
    except MissingExtra:
        raise
    except Exception as error:  # noqa: BLE001  (any provider's error)
        found = f"{s.language_model.model} does not answer ({type(error).__name__})"
        return Finding(part, State.WRONG, found, "check DSPY_MODEL, DSPY_API_BASE, DSPY_API_KEY")
    return Finding(part, State.REAL, s.language_model.model)


async def mail(known: Known) -> Finding:
    s = known.settings
    if s.smtp.url is None:
        return Finding("mail", State.EMBEDDED, f"into the Maildir {s.mail_dir}")
    from shop.notifications.settings import smtp_server
    from shop.notifications.smtp import MailServerError, check_login

    server = smtp_server(s.smtp.url.get_secret_value())
    try:
        await check_login(server, seconds=s.smtp.timeout_seconds, name=s.shop.email.rpartition("@")[2])
    except MailServerError as trouble:
        return Finding("mail", State.WRONG, str(trouble), "see SMTP_URL")
    return Finding("mail", State.REAL, f"SMTP, {server.host}:{server.port}")


async def alerts(known: Known) -> Finding:
    """Checks the services without sending: any message would alert people."""
    from shop.alerts.delivery import destinations
    from shop.alerts.sender import client_for

    services = destinations(known.settings)
    if not services:
        return Finding("alerts", State.OFF, "as Prefect events only: ALERT_URLS is not set")
    if refused := [
        name.removeprefix("url-")
        for name, url in services.items()
        if await asyncio.to_thread(client_for, url) is None
    ]:
        return Finding(
            "alerts",
            State.WRONG,
            f"apprise does not accept entry {', '.join(refused)} of ALERT_URLS",
            "correct ALERT_URLS",
        )
    return Finding(
        "alerts", State.REAL, f"sent to {', '.join(url.partition('://')[0] for url in services.values())}"
    )


async def crm(known: Known) -> Finding:
    """Requests the address with a method that changes nothing; any answer will do. A message would stay in
    the CRM."""
    url = known.settings.crm.webhook_url
    if url is None:
        return Finding("CRM", State.EMBEDDED, "the table customer_interaction")
    try:
        timeout = known.settings.crm.timeout_seconds
        async with httpx.AsyncClient(timeout=timeout) as client, client.stream("OPTIONS", url) as answer:
            pass  # its status is enough
    except httpx.HTTPError as error:
        return Finding(
            "CRM", State.WRONG, f"does not answer ({type(error).__name__})", "check CRM_WEBHOOK_URL"
        )
    if answer.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE} or answer.is_redirect:
        return Finding(
            "CRM",
            State.WRONG,
            f"answers {answer.status_code}: no service at this address",
            "check CRM_WEBHOOK_URL",
        )
    return Finding("CRM", State.REAL, httpx.URL(url).host)


async def shipping(known: Known) -> Finding:
    from shop.shipping.carriers import EMBEDDED, carrier, close_carriers
    from shop.shipping.embedded import check_labels

    s = known.settings
    if s.shipping.carrier == EMBEDDED:
        check_labels()
        return Finding("carrier", State.EMBEDDED, "labels with numbers that no carrier knows")
    try:
        await carrier(s.shipping.carrier).probe()
    finally:
        await close_carriers()
    real = s.easypost.api_key is not None and s.easypost.api_key.get_secret_value().startswith("EZAK")
    return Finding("carrier", State.REAL, f"EasyPost, {'labels that cost money' if real else 'a test key'}")


async def traces(known: Known) -> Finding:
    """Whether they can be sent; none is sent."""
    endpoint = known.settings.traces.endpoint
    if endpoint is None:
        return Finding("traces", State.OFF, "none are made: OTEL_EXPORTER_OTLP_ENDPOINT is not set")
    with needs_extra("otel", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        import shop.monitoring.traces  # noqa: F401
    return Finding("traces", State.REAL, f"sent to {endpoint}")


async def web_app(known: Known) -> Finding:
    """Checks the intake over HTTP and Stripe's webhooks."""
    if known.web_url is None:
        return Finding("web app", State.EMBEDDED, NOT_RUNNING)
    try:
        async with httpx.AsyncClient(timeout=SECONDS / 2) as client:
            answer = await client.get(f"{known.web_url}/ready")
    except httpx.HTTPError as error:
        return Finding(
            "web app",
            State.WRONG,
            f"{known.web_url} does not answer ({type(error).__name__})",
            "run order-saga web",
        )
    if not answer.is_success:
        return Finding(
            "web app",
            State.WRONG,
            f"{known.web_url} answers {answer.status_code}",
            "read its log; it needs the database",
        )
    able = answer.json()
    orders = "orders" if able.get("orders") else "no orders (ORDERS_API_KEY is not set)"
    hooks = (
        "Stripe's webhooks"
        if able.get("stripe_webhooks")
        else "no webhooks of Stripe's (STRIPE_WEBHOOK_SECRET is not set)"
    )
    shops = "".join(f", {name.capitalize()}'s webhooks" for name in able.get("shops", ()))
    return Finding("web app", State.REAL, f"{known.web_url}: takes {orders}, {hooks}{shops}")


async def files(known: Known) -> Finding:
    """Checks the folder for labels, mails and logs."""
    folder = known.settings.var_dir
    try:
        make_private(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(
            "files",
            State.WRONG,
            f"{folder} cannot be written ({error.strerror})",
            "check VAR_DIR and the folder's permissions",
        )
    return Finding("files", State.REAL, str(folder))


PARTS: dict[str, Check] = {
    "database": database,
    "Prefect server": prefect_server,
    "payments": payments,
    "inventory": inventory,
    "language model": language_model,
    "mail": mail,
    "CRM": crm,
    "alerts": alerts,
    "carrier": shipping,
    "traces": traces,
    "web app": web_app,
    "files": files,
}


async def check_all(known: Known, report: Callable[[Finding], None] = lambda _: None) -> list[Finding]:
    """Checks all parts concurrently, and calls `report` with each finding as it arrives."""

    async def one(part: str, ask: Check) -> Finding:
        found = await check_part(part, ask, known)
        with suppress(Exception):
            report(found)
        return found

    return list(await asyncio.gather(*(one(part, ask) for part, ask in PARTS.items())))


def unknown_settings(names: Iterable[str]) -> list[Finding]:
    """Returns names that are not settings but resemble one. A name that continues a setting's name belongs
    to something else."""
    ours = list(settings_in(Settings))
    known = {*ours, *(name + ending for name in ours for ending in ("_FILE", "_BLOCK"))}
    near = [
        (name, get_close_matches(name, ours, 1, _ALIKE))
        for name in sorted(names)
        if name not in known and not name.startswith(tuple(ours))
    ]
    return [
        Finding(name, State.WRONG, "no such setting", f"did you mean {meant[0]}?")
        for name, meant in near
        if meant
    ]


def wrong_settings(error: ValidationError) -> list[Finding]:
    """Returns each wrong setting, with the error."""
    return [
        Finding(name, State.WRONG, what, f"set or unset {name}: docs/reference/settings.md")
        for name, what in mistakes(error)
    ]
