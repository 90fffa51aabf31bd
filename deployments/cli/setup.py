"""`order-saga setup` and `order-saga migrate`: prepare what the saga needs on servers of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import httpx
from rich.table import Table
from rich.text import Text

from deployments import terminal
from deployments.check.parts import Known, check_part, database
from deployments.running import use_running_world
from deployments.setup.database import DatabaseUnusable, ensure_database, only_one_sets_up
from deployments.setup.server import Change, Item
from shop.settings import settings

_STYLES = {
    Change.UNCHANGED: "dim",
    Change.CREATED: "green",
    Change.UPDATED: "yellow",
    Change.REMOVED: "yellow",
}
_LOGIN_REFUSED = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}


def setup(*, check: bool = False, wait: float = 60) -> int:
    """Prepare everything that the saga needs on servers of your own: the database of DATABASE_URL and its
    tables; on the Prefect server the work pool, its queues, the deployments with their schedules, limits and
    triggers, the automations. Prints what it did.

    The Prefect server is that of PREFECT_API_URL or of the active profile. Running it again only restores
    what was removed or changed. Several may run at once.

    Exit codes: 0, everything is there; 1, the database is misconfigured, or, with --check, something is
    missing or differs; 2, a setting is invalid, or a server does not answer.

    Args:
        check: Only report; change nothing.
        wait: Seconds to wait for each server that is still starting.
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
    try:
        with console.status(f"Comparing {api_url} ...") as status:
            items = _ensure(api_url, apply=not check, seconds=wait, say=status.update)
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


def migrate(*, wait: float = 60) -> int:
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


def _table(api_url: str, items: Sequence[Item]) -> Table:
    made = terminal.table(f"Setup of {api_url}", "kind", "name", "", "note")
    for item in items:
        made.add_row(item.kind, item.name, Text(item.change, _STYLES.get(item.change, "bold red")), item.note)
    return made
