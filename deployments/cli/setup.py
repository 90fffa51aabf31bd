"""`order-saga setup`, `migrate`, `restored` and `secrets`: prepare what the saga needs on own servers."""

from __future__ import annotations

import asyncio
import secrets as random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import httpx
from rich.text import Text

from deployments import terminal
from deployments.check.parts import Known, check_part, database
from deployments.cli.seconds import Wait
from deployments.running import use_running_world
from deployments.setup.database import DatabaseUnusable, ensure_database, only_one_sets_up
from deployments.setup.server import Change, Item
from deployments.terminal import FittedTable
from saga.clock import database_time_sync
from shop.payments.errors import PaymentError
from shop.payments.gateways import gateway
from shop.reconciliation.restored import Restored, take_up
from shop.runtime.files import PRIVATE_FILE, write_atomic
from shop.runtime.installation import installation_id
from shop.runtime.sync import run_sync
from shop.runtime.times import shop_zone, shown
from shop.settings import settings
from shop.values.money import show

_STYLES = {
    Change.UNCHANGED: "dim",
    Change.CREATED: "green",
    Change.UPDATED: "yellow",
    Change.REMOVED: "yellow",
}
_LOGIN_REFUSED = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}


def setup(*, check: bool = False, wait: Wait | None = None) -> int:
    """Prepare everything that the saga needs on servers of your own: the database of DATABASE_URL and its
    tables; on the Prefect server the work pool, its queues, the deployments with their schedules, limits and
    triggers, the automations. Prints what it did.

    The Prefect server is that of PREFECT_API_URL or of the active profile. Running it again only restores
    what was removed or changed. Several may run at once.

    Exit codes: 0, everything is there; 1, the database is misconfigured, or, with --check, something is
    missing or differs; 2, a setting is invalid, or a server does not answer.

    Args:
        check: Only report; change nothing.
        wait: Seconds to wait for each server that is still starting: 60 unless given; 0 with --check.
    """
    use_running_world()
    from prefect.settings import PREFECT_API_URL

    if (api_url := PREFECT_API_URL.value()) is None:
        return terminal.refused(
            "PREFECT_API_URL is not set: set it to the API of a Prefect server. "
            "(`make run` does all of this for its own server.)"
        )
    from deployments.setup.registered import DeployError
    from deployments.setup.server import NoAnswer

    console = terminal.console(width=130)
    seconds = wait if wait is not None else 0 if check else 60
    try:
        with console.status(f"Comparing {api_url} ...") as status:
            items = _ensure(api_url, apply=not check, seconds=seconds, say=status.update)
    except httpx.HTTPStatusError as error:
        if error.response.status_code in _LOGIN_REFUSED:
            return terminal.refused(
                f"The Prefect server {api_url} refuses the login: "
                "check PREFECT_API_AUTH_STRING, or PREFECT_API_KEY (Prefect Cloud)"
            )
        return terminal.refused(f"The Prefect server {api_url} cannot be used ({error})")
    except (httpx.HTTPError, RuntimeError) as error:
        return terminal.refused(
            f"The Prefect server {api_url} cannot be used ({error or type(error).__name__})"
        )
    except (DatabaseUnusable, DeployError, NoAnswer) as error:
        return terminal.refused(str(error))
    console.print(_table(api_url, items))
    return int(any(item.wrong for item in items))


def migrate(*, wait: Wait = 60) -> int:
    """Create the database of DATABASE_URL if it is missing, and migrate its tables. Does nothing if they are
    up to date. Several may run at once: one works, the others wait for it.

    Exit codes: 0; 1, the database cannot be used; 2, a setting is wrong.

    Args:
        wait: Seconds to wait for a database server that is still starting.
    """
    url = settings().database_url
    try:
        with terminal.console(stderr=True).status("Migrating the database ...") as status:
            items = ensure_database(url, apply=True, seconds=wait, say=status.update)
    except DatabaseUnusable as error:
        return terminal.refused(str(error), 1)
    for item in items:
        terminal.write(f"{item.kind}: {item.name}, {item.change}{f' ({item.note})' if item.note else ''}")
    return 0


def _ensure(api_url: str, *, apply: bool, seconds: float, say: Callable[[str], None]) -> list[Item]:
    from deployments.setup.registered import ensure_all
    from deployments.setup.server import wait_for_server

    url = settings().database_url
    items = ensure_database(url, apply=apply, seconds=seconds, say=say)
    if not any(item.wrong for item in items):
        known = Known(settings(), lambda _: True, api_url)
        if (found := asyncio.run(check_part("database", database, known))).wrong:
            items.append(Item("database", found.what, Change.MISCONFIGURED, found.remedy))
    wait_for_server(api_url, seconds, say)
    with only_one_sets_up(url) if apply else nullcontext():
        return items + ensure_all(apply=apply)


def _table(api_url: str, items: Sequence[Item]) -> FittedTable:
    made = terminal.table(f"Setup of {api_url}", "kind", "name", "", "note", wrapped=("note",))
    for item in items:
        made.add_row(item.kind, item.name, Text(item.change, _STYLES.get(item.change, "bold red")), item.note)
    return made


def restored(time: str, /) -> int:
    """Prepare the database after it was restored to an earlier time. Run it before workers start.

    Asks the payment gateway what moved since then. Orders that it has payments of and the database has not
    are looked up there before they are charged, so sending the shop's orders again charges nobody twice.
    Lists those that the database does not know. Safe to repeat.

    Exit codes: 0, it is prepared; 1, the gateway does not answer: run it again; 2, an argument or the
    settings are invalid, or the database does not answer.

    Args:
        time: The time to which the database was restored, in ISO 8601, such as 2031-02-03T09:30+00:00. An
            earlier one means more to compare; instead of a later one, the newest order's time counts.
    """
    settings()
    try:
        since = datetime.fromisoformat(time.strip())
    except ValueError:
        return terminal.refused(f"{time!r} is not a time in ISO 8601, such as 2031-02-03T09:30+00:00.")
    since = since if since.tzinfo else since.replace(tzinfo=shop_zone())
    if since > database_time_sync():
        return terminal.refused(f"{shown(since)} is in the future.")

    async def ask() -> Restored:
        await installation_id()  # the database has the id that marks our payments
        return await take_up(gateway(), since)

    try:
        found = run_sync(ask)
    except PaymentError as error:
        return terminal.refused(f"The payment gateway does not answer ({error}). Run it again.", code=1)
    _show_restored(found)
    return 0


def _show_restored(found: Restored) -> None:
    if found.unknown:
        title = "Orders that the gateway has payments of, and this database does not know"
        table = terminal.table(title, "order", ">charged and not refunded")
        for order_id, kept in sorted(found.unknown.items()):
            amounts = ", ".join(show(amount, currency) for currency, amount in sorted(kept.items()))
            table.add_row(Text(order_id), amounts)
        terminal.console(width=120).print(table)
    terminal.write(
        f"{found.payments:,} payments moved since {shown(found.since)}: of {len(found.unknown):,} orders "
        f"that are unknown, and of {len(found.open):,} open orders whose journal lacks them. All are looked "
        "up before they are charged. Now send the shop's orders since then again, and start the workers."
    )


_BYTES = 32
_EVERYBODY_READS = 0o444


def new_secrets(
    folder: Path,
    *,
    postgres: str = "postgres:5432",
    redis: str = "redis:6379",
    readable: bool = False,
) -> int:
    """Generate the passwords and keys of a new installation, each as a file of the folder.

    Existing files stay as they are, so that your own can be among them, and a second call changes nothing.

    Exit codes: 0; 1, a file cannot be written.

    Args:
        folder: Created if it is missing.
        postgres: Host and port of PostgreSQL, for the addresses of the databases.
        redis: Host and port of Redis, for the addresses of the Prefect servers' messages.
        readable: Let all users of this machine read the files: for a volume that only containers mount, whose
            processes run as different users.
    """
    try:
        folder.mkdir(mode=0o755 if readable else 0o700, parents=True, exist_ok=True)
        made = _write_missing(folder, postgres, redis, _EVERYBODY_READS if readable else PRIVATE_FILE)
    except OSError as error:
        raise SystemExit(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    terminal.write(f"{folder}: {', '.join(made) if made else 'all secrets exist'}")
    return 0


def _write_missing(folder: Path, postgres: str, redis: str, mode: int) -> list[str]:
    """Returns the names of the files that were missing."""
    known: dict[str, str] = {}
    made = []
    for name, make in _files(postgres, redis, known).items():
        file = folder / name
        if not file.exists():
            write_atomic(file, f"{make()}\n".encode())
            file.chmod(mode)
            made.append(name)
        known[name] = file.read_text(encoding="utf-8").strip()
    return made


def _files(postgres: str, redis: str, known: Mapping[str, str]) -> dict[str, Callable[[], str]]:
    """Returns what makes each file's content. Those of addresses read `known`, the files before them."""

    def key() -> str:
        return random.token_urlsafe(_BYTES)

    def database(scheme: str, name: str) -> str:
        return f"{scheme}://postgres:{quote(known['postgres-password'], safe='')}@{postgres}/{name}"

    def messages(number: int) -> str:
        return f"redis://:{quote(known['redis-password'], safe='')}@{redis}/{number}"

    return {
        "postgres-password": key,
        "database-url": lambda: database("postgresql", "shop"),
        "prefect-database-url": lambda: database("postgresql+asyncpg", "prefect"),
        "redis-password": key,
        "redis-url": lambda: messages(0),
        "docket-url": lambda: messages(1),
        "prefect-auth": lambda: f"admin:{key()}",
        "orders-api-key": key,
        "metrics-token": key,
    }
