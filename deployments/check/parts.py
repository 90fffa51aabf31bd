"""Checks every external part through the client that orders use. Changes nothing there."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx
import psycopg
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from deployments.check.servers import Pooler, open_beyond_loopback, recognise_pooler
from deployments.database_errors import reason
from saga.database import new_engine
from saga.errors import StepError
from saga.wakeup import plain_url
from shop.runtime.extras import MissingExtra, needs_extra
from shop.runtime.files import make_private
from shop.runtime.migrate import newest_revision, revision
from shop.runtime.setting_groups import settings_in
from shop.settings import Settings, mistakes

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

_ALIKE = 0.87
SECONDS = 20
"""Time limit per part, in seconds."""
_PAGE = 200
"""How many deployments are read at once: the most that the Prefect server returns."""
NOT_RUNNING = "not running now: `make run` starts it"


class State(StrEnum):
    """How a part is connected."""

    REAL = "real"
    """Selected by settings, and it answered."""
    EMBEDDED = "embedded"
    """Not configured: the development version of this project."""
    OFF = "off"
    """Not configured, and not needed."""
    WRONG = "misconfigured"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of checking one part."""

    part: str
    state: State
    what: str
    """What it is, or what is wrong. Never a secret."""
    remedy: str = ""
    """What to do if something is wrong."""

    @property
    def wrong(self) -> bool:
        return self.state is State.WRONG


@dataclass(frozen=True, slots=True)
class Known:
    """`given`: whether a person has set this setting; otherwise the part is our own. `prefect_api_url`,
    `web_url`: None if unknown."""

    settings: Settings
    given: Callable[[str], bool]
    prefect_api_url: str | None
    web_url: str | None = None


class Misconfigured(Exception):
    """A part cannot be used as it is configured."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


Answer = tuple[State, str]
"""How a part is connected, and what it is."""
Check = Callable[[Known], Awaitable[Answer]]
"""Checks one part. Raises `Misconfigured`."""


async def check_part(part: str, ask: Check, known: Known) -> Finding:
    """Checks a part. Never raises: an unexpected error is a finding, too."""
    try:
        async with asyncio.timeout(SECONDS):
            return Finding(part, *await ask(known))
    except Misconfigured as error:
        what, remedy = error.what, error.remedy
    except TimeoutError:
        what, remedy = (
            f"no answer within {SECONDS} s",
            "check the network between this machine and the part",
        )
    except MissingExtra as error:
        what, remedy = str(error), f"install the extra `{error.extra}`"
    except StepError as error:
        what, remedy = str(error), "correct the setting that the message names, or try again later"
    except Exception as error:  # noqa: BLE001
        what = f"{type(error).__name__} (its text is hidden because it may contain a secret)"
        remedy = "see docs/reference/settings.md"
    return Finding(part, State.WRONG, what, remedy)


async def _deployed(client: PrefectClient) -> set[str]:
    """Returns the names of all deployments, which the server lists page by page."""
    names: set[str] = set()
    offset = 0
    while page := await client.read_deployments(limit=_PAGE, offset=offset):
        names |= {deployment.name for deployment in page}
        offset += len(page)
    return names


def _state(*, is_real: bool) -> State:
    return State.REAL if is_real else State.EMBEDDED


_WITHOUT_POOLER = (
    "set DATABASE_URL to PostgreSQL itself (its own port, usually 5432), "
    "or set the pooler to session mode (PgBouncer: pool_mode = session)"
)


async def database(known: Known) -> Answer:
    given, address = known.given("DATABASE_URL"), known.settings.database_url
    url = make_url(address)
    where = f"{url.database} at {url.query.get('host', url.host or 'localhost')}"

    def read() -> tuple[Pooler | None, str, bool, str | None]:
        if (pooler := recognise_pooler(plain_url(), seconds=SECONDS // 2)) is Pooler.TRANSACTION:
            what = (
                f"{where} is behind a pooler in {pooler}: "
                "successive statements were answered by different server processes"
            )
            raise Misconfigured(
                f"{what}, so LISTEN, session settings and session locks do not last", _WITHOUT_POOLER
            )
        engine = new_engine(address, seconds=SECONDS // 2)
        try:
            with engine.connect() as connection:
                version = connection.execute(text("SHOW server_version")).scalar_one()
                read_only = connection.execute(text("SHOW transaction_read_only")).scalar_one() == "on"
                return pooler, str(version).split()[0], read_only, revision(connection)
        finally:
            engine.dispose()

    try:
        pooler, version, read_only, current = await asyncio.to_thread(read)
    except (SQLAlchemyError, psycopg.Error) as error:
        if not given:
            return State.EMBEDDED, f"PostgreSQL, {NOT_RUNNING}"
        remedy = "check DATABASE_URL and whether the server runs"
        raise Misconfigured(f"{where} cannot be used ({reason(error)})", remedy) from None
    what = f"PostgreSQL {version}, {where}" + (f", through a pooler in {pooler}" if pooler else "")
    if read_only:
        remedy = "set DATABASE_URL to the primary; of several hosts (?host=a,b) the writable one is used"
        raise Misconfigured(f"{what}: it is read-only, a standby or a demoted primary", remedy)
    if current != (newest := newest_revision()):
        tables = f"its tables are at {current or 'nothing'}, not {newest}"
        raise Misconfigured(f"{what}: {tables}", "run order-saga migrate")
    return _state(is_real=given), what


_CLOSE = (
    "set PREFECT_SERVER_API_AUTH_STRING at the server, and the same value as PREFECT_API_AUTH_STRING "
    "at each client, or let it listen on 127.0.0.1 only; see docs/security.md"
)
_SETUP = "run order-saga setup"


async def prefect_server(known: Known) -> Answer:
    given, api = known.given("PREFECT_API_URL"), known.prefect_api_url
    if api is None:
        return State.EMBEDDED, NOT_RUNNING
    if where := await open_beyond_loopback(api):
        what = (
            f"{where} requires no password: whoever can reach it "
            "can read all customers, refund orders, and run code on the workers"
        )
        raise Misconfigured(what, _CLOSE)
    from prefect.client.base import ServerType
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import WorkPoolStatus
    from prefect.exceptions import ObjectNotFound

    from deployments.automations import automations as wanted_automations
    from deployments.prefect_file import described

    name = known.settings.workers.pool
    try:
        async with get_client() as client:
            is_cloud = client.server_type == ServerType.CLOUD
            version = "Cloud" if is_cloud else await client.api_version()
            pool = await client.read_work_pool(name)
            there = await _deployed(client)
            automations = {automation.name for automation in await client.read_automations()}
    except ObjectNotFound:
        raise Misconfigured(f"{api} has no work pool {name}", _SETUP) from None
    except httpx.HTTPError as error:
        if not given:
            return State.EMBEDDED, NOT_RUNNING
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            remedy = "check PREFECT_API_AUTH_STRING, or PREFECT_API_KEY (Prefect Cloud)"
            raise Misconfigured(f"{api} refuses the login", remedy) from None
        what = f"{api} does not answer ({type(error).__name__})"
        raise Misconfigured(what, "check PREFECT_API_URL and PREFECT_API_KEY") from None
    wanted = described()["deployments"]
    if missing := [each["name"] for each in wanted if each["name"] not in there]:
        raise Misconfigured(f"{api} has no deployment {', '.join(missing)}", _SETUP)
    triggers = [trigger["name"] for each in wanted for trigger in each.get("triggers", ())]
    names = [*triggers, *(each.name for each in wanted_automations())]
    if left := [name for name in names if name not in automations]:
        raise Misconfigured(f"{api} has no automation {', '.join(map(repr, left))}", _SETUP)
    if given and pool.status != WorkPoolStatus.READY:
        raise Misconfigured(f"no worker takes runs of the pool {pool.name} at {api}", "run order-saga worker")
    return _state(is_real=given), f"Prefect {version}, {api}"


async def payments(known: Known) -> Answer:
    from shop.payments.gateways import close_gateway, gateway

    s = known.settings
    try:
        async for _ in gateway().pages(datetime.now(UTC)):
            break
    except StepError as error:
        if s.payments.gateway == "sandbox" and not known.given("PAYMENT_GATEWAY_URL"):
            return State.EMBEDDED, f"the sandbox, {NOT_RUNNING}"
        remedy = f"check PAYMENT_GATEWAY_URL ({s.payments.url}) and the gateway's key"
        raise Misconfigured(str(error), remedy) from None
    finally:
        await close_gateway()
    if s.payments.gateway == "sandbox":
        return State.EMBEDDED, f"the sandbox at {s.payments.url}: no real money"
    live = s.stripe.api_key is not None and "_live_" in s.stripe.api_key.get_secret_value()
    return State.REAL, f"Stripe, {'LIVE: real money' if live else 'a test key'}"


async def inventory(known: Known) -> Answer:
    url = known.settings.inventory.service_url
    if url is None:
        return State.EMBEDDED, "the shop's own tables"
    from shop.inventory.service.connections import service

    there = service(url)
    try:
        await there.get("order-that-is-not-there")
    except StepError as error:
        remedy = f"check INVENTORY_SERVICE_URL ({url}) and INVENTORY_SERVICE_TOKEN"
        raise Misconfigured(str(error), remedy) from None
    finally:
        await there.aclose()
    return State.REAL, f"the service at {url}"


async def language_model(known: Known) -> Answer:
    model = known.settings.language_model.model
    if not model:
        return State.OFF, "the template writes the confirmations (DSPY_MODEL)"
    from shop.confirmation.language_model import probe

    try:
        await probe(known.settings)
    except MissingExtra:
        raise
    except Exception as error:  # noqa: BLE001  (any provider's error)
        what = f"{model} does not answer ({type(error).__name__})"
        raise Misconfigured(what, "check DSPY_MODEL, DSPY_API_BASE, DSPY_API_KEY") from None
    return State.REAL, model


async def mail(known: Known) -> Answer:
    s = known.settings
    if s.smtp.url is None:
        return State.EMBEDDED, f"into the Maildir {s.mail_dir}"
    from shop.notifications.settings import smtp_server
    from shop.notifications.smtp import MailServerError, check_login

    server = smtp_server(s.smtp.url.get_secret_value())
    try:
        await check_login(server, seconds=s.smtp.timeout_seconds, name=s.shop.email.rpartition("@")[2])
    except MailServerError as error:
        raise Misconfigured(str(error), "see SMTP_URL") from None
    return State.REAL, f"SMTP, {server.host}:{server.port}"


async def alerts(known: Known) -> Answer:
    """Checks the services without sending: any message would alert people."""
    from shop.alerts.delivery import destinations
    from shop.alerts.sender import client_for

    services = destinations(known.settings)
    if not services:
        return State.OFF, "as Prefect events only: ALERT_URLS is not set"
    if refused := [
        name.removeprefix("url-")
        for name, url in services.items()
        if await asyncio.to_thread(client_for, url) is None
    ]:
        what = f"apprise does not accept entry {', '.join(refused)} of ALERT_URLS"
        raise Misconfigured(what, "correct ALERT_URLS")
    return State.REAL, f"sent to {', '.join(url.partition('://')[0] for url in services.values())}"


async def crm(known: Known) -> Answer:
    """Requests the address with a method that changes nothing; any answer will do. A message would stay in
    the CRM."""
    url, remedy = known.settings.crm.webhook_url, "check CRM_WEBHOOK_URL"
    if url is None:
        return State.EMBEDDED, "the table customer_interaction"
    try:
        timeout = known.settings.crm.timeout_seconds
        async with httpx.AsyncClient(timeout=timeout) as client, client.stream("OPTIONS", url) as answer:
            pass  # its status is enough
    except httpx.HTTPError as error:
        raise Misconfigured(f"does not answer ({type(error).__name__})", remedy) from None
    if answer.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE} or answer.is_redirect:
        raise Misconfigured(f"answers {answer.status_code}: no service at this address", remedy)
    return State.REAL, httpx.URL(url).host


async def shipping(known: Known) -> Answer:
    from shop.shipping.carriers import EMBEDDED, carrier, close_carriers
    from shop.shipping.embedded import check_labels

    s = known.settings
    if s.shipping.carrier == EMBEDDED:
        check_labels()
        return State.EMBEDDED, "labels with numbers that no carrier knows"
    try:
        await carrier(s.shipping.carrier).probe()
    finally:
        await close_carriers()
    real = s.easypost.api_key is not None and s.easypost.api_key.get_secret_value().startswith("EZAK")
    return State.REAL, f"EasyPost, {'labels that cost money' if real else 'a test key'}"


async def traces(known: Known) -> Answer:
    """Whether they can be sent; none is sent."""
    endpoint = known.settings.traces.endpoint
    if endpoint is None:
        return State.OFF, "none are made: OTEL_EXPORTER_OTLP_ENDPOINT is not set"
    with needs_extra("otel", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        import shop.monitoring.traces  # noqa: F401
    return State.REAL, f"sent to {endpoint}"


async def web_app(known: Known) -> Answer:
    """Checks the intake over HTTP and Stripe's webhooks."""
    if (url := known.web_url) is None:
        return State.EMBEDDED, NOT_RUNNING
    try:
        async with httpx.AsyncClient(timeout=SECONDS / 2) as client:
            answer = await client.get(f"{url}/ready")
    except httpx.HTTPError as error:
        what = f"{url} does not answer ({type(error).__name__})"
        raise Misconfigured(what, "run order-saga web") from None
    if not answer.is_success:
        raise Misconfigured(f"{url} answers {answer.status_code}", "read its log; it needs the database")
    able = answer.json()
    orders = "orders" if able.get("orders") else "no orders (ORDERS_API_KEY is not set)"
    hooks = (
        "Stripe's webhooks"
        if able.get("stripe_webhooks")
        else "no webhooks of Stripe's (STRIPE_WEBHOOK_SECRET is not set)"
    )
    shops = "".join(f", {name.capitalize()}'s webhooks" for name in able.get("shops", ()))
    return State.REAL, f"{url}: takes {orders}, {hooks}{shops}"


async def files(known: Known) -> Answer:
    """Checks the folder for labels, mails and logs."""
    folder = known.settings.var_dir
    try:
        make_private(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        what = f"{folder} cannot be written ({error.strerror})"
        raise Misconfigured(what, "check VAR_DIR and the folder's permissions") from None
    return State.REAL, str(folder)


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


async def check_all(known: Known) -> list[Finding]:
    """Checks all parts concurrently."""
    return await asyncio.gather(*(check_part(part, ask, known) for part, ask in PARTS.items()))


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
