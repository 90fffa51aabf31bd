"""`order-saga program`: shows the programs that ask the language model, and puts another one in use."""

from __future__ import annotations

from rich.text import Text

from deployments import terminal
from deployments.running import user
from deployments.terminal import FittedTable
from shop.confirmation import program_versions
from shop.confirmation.program_versions import PLAIN, UnknownVersion
from shop.orders.page.formatting import for_terminal
from shop.runtime.times import shown
from shop.settings import settings


def program(version: str | None = None, /, *, by: str = "") -> int:
    """Show the programs that ask the language model for confirmations, or put another one in use.

    The flow optimize-confirmation makes them. All workers use the one in use, within seconds.

    Exit codes: 0; 1, there is no such version; 2, an argument or the settings are invalid, or the database
    does not answer.

    Args:
        version: The version to put in use, for example the one before; plain is the program that was not
            optimised. Default: only show them.
        by: Required with a version: who decides it. Stored beside the user of this machine.
    """
    url = settings().database_url
    if version is not None:
        if not by.strip():
            return terminal.refused("Missing: --by. Nothing was changed.")
        try:
            program_versions.use(url, version, by=f"{by.strip()} ({user('with order-saga')})")
        except UnknownVersion:
            return terminal.refused(
                f"There is no version {for_terminal(version)}. Nothing was changed.", code=1
            )
    terminal.console(width=150).print(_table(url))
    return 0


def _table(url: str) -> FittedTable:
    columns = ("version", "", "made", "by", "how", "last chosen", "chosen by")
    table = terminal.table(None, *columns, wrapped=("by", "how", "chosen by"))
    chosen = program_versions.version_in_use(url)
    for each in program_versions.stored_programs(url):
        mark = Text("in use", "green") if each.version == chosen else ""
        since = shown(each.since) if each.since else ""
        table.add_row(
            each.version,
            mark,
            shown(each.made_at),
            Text(each.made_by),
            Text(each.remark),
            since,
            Text(each.chosen_by or ""),
        )
    table.add_row(PLAIN, Text("in use", "green") if chosen == PLAIN else "", "", "", "not optimised", "", "")
    return table
