"""`order-saga setup`: registers what the saga needs on a Prefect server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import httpx
from rich import box
from rich.table import Table
from rich.text import Text

from deployments import terminal
from deployments.check.finding import Finding
from deployments.check.parts import Known, check_part, database
from deployments.running import use_running_world
from deployments.setup.item import Change, Item
from shop.settings import settings

_STYLES = {
    Change.UNCHANGED: "dim",
    Change.CREATED: "green",
    Change.UPDATED: "yellow",
    Change.REMOVED: "yellow",
}


def setup(*, check: bool = False) -> int:
    """Register on a Prefect server what the saga needs: the work pool, its queues, the
    deployments with their schedules and limits, the automations. Also checks the database's tables, which
    `order-saga migrate` creates.

    The server is that of PREFECT_API_URL. Running it again only restores what was removed or changed there.

    Exit codes: 0, everything is there; 1, the tables are outdated, or, with --check, something is missing or
    differs; 2, a setting is invalid, or the server does not answer.

    Args:
        check: Only report; change nothing.
    """
    use_running_world()
    from prefect.settings import PREFECT_API_URL

    known = Known(settings(), lambda _: True, PREFECT_API_URL.value())
    if known.prefect_api_url is None:
        return _unusable(
            "PREFECT_API_URL is not set: set it to the API of a Prefect server. "
            "(`make run` does all of this for its own server.)"
        )
    from deployments.setup.everything import ensure_all
    from deployments.setup.registered import DeployError

    console = terminal.console(width=130)
    try:
        with console.status(f"Comparing {known.prefect_api_url} ..."):
            tables = asyncio.run(check_part("database", database, known))
            items = ensure_all(apply=not check)
    except (httpx.HTTPError, RuntimeError) as error:
        return _unusable(
            f"The Prefect server {known.prefect_api_url} cannot be used ({error or type(error).__name__})"
        )
    except DeployError as error:
        return _unusable(str(error))
    console.print(_table(known.prefect_api_url, tables, items))
    return int(tables.wrong or any(item.wrong for item in items))


def _table(api_url: str, tables: Finding, items: Sequence[Item]) -> Table:
    made = Table(
        title=f"Setup of {api_url}",
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    for column in ("kind", "name", "", "note"):
        made.add_column(column, overflow="fold")
    state = Text("misconfigured", "bold red") if tables.wrong else Text("up to date", "dim")
    made.add_row(
        "database", "tables", state, f"{tables.what}: {tables.remedy}" if tables.wrong else tables.what
    )
    for item in items:
        made.add_row(item.kind, item.name, Text(item.change, _STYLES.get(item.change, "bold red")), item.note)
    return made


def _unusable(why: str) -> int:
    terminal.write(why, sys.stderr)
    return 2
