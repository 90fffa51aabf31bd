"""Runs all checks, and shows the findings as a table."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

from dotenv import dotenv_values
from pydantic import ValidationError
from rich.text import Text

from deployments import terminal
from deployments.check.parts import Finding, Known, State, check_all, unknown_settings, wrong_settings
from deployments.environment import given
from deployments.errors import StackError
from deployments.running import configured_prefect_api_url, use_running_world
from deployments.terminal import FittedTable
from shop.monitoring.config import MonitoringConfigError, monitoring
from shop.runtime.home import HOME
from shop.settings import ENV_FILES, Settings

_STYLES = {State.REAL: "green", State.EMBEDDED: "cyan", State.OFF: "dim", State.WRONG: "bold red"}
_PART = "monitoring"
_REMEDY = "see MONITORING_CONFIG, and deployments/monitoring/monitoring.yaml for every key"


def check(is_given: Callable[[str], bool] | None = None) -> list[Finding]:
    """Checks every configured part. `is_given`: whether a person has set this setting (default: it is in
    the environment or in `.env`). If settings are invalid, returns all of these errors and contacts
    nothing."""
    try:
        mistyped, wrong = _mistakes()
        if wrong:
            return mistyped + wrong
        mistakes = mistyped + _wrong_monitoring()
        configured = configured_prefect_api_url()  # before the address of a running `make run` is applied
        use_running_world()
        prefect_api_url = _running("PREFECT_API_URL") or configured
        if is_given is None:
            theirs = prefect_api_url == configured
            is_given = lambda name: theirs if name == "PREFECT_API_URL" else _is_given(name)  # noqa: E731
        known = Known(Settings(), is_given, prefect_api_url, _running("WEB_URL"))
    except StackError as error:
        return [Finding("settings", State.WRONG, str(error))]
    found = [*mistakes, *asyncio.run(check_all(known))]
    return found if any(each.part.startswith(_PART) for each in mistakes) else [*found, _monitoring_finding()]


def check_settings() -> list[Finding]:
    """Returns the errors in the settings themselves."""
    mistyped, wrong = _mistakes()
    return mistyped + wrong


def _mistakes() -> tuple[list[Finding], list[Finding]]:
    """Returns (probable typing errors in names, settings that prevent a start)."""
    mistyped = unknown_settings({*os.environ, *dotenv_values(ENV_FILES[-1], encoding="utf-8-sig")})
    try:
        Settings()
    except ValidationError as error:
        return mistyped, wrong_settings(error)
    return mistyped, []


def _is_given(name: str) -> bool:
    return given(name, ENV_FILES[-1]) is not None


def _running(name: str) -> str | None:
    """Returns an address from the environment, `.env` or `var/run.env`."""
    return given(name, ENV_FILES[-1]) or given(name, ENV_FILES[0])


def _wrong_monitoring() -> list[Finding]:
    """Returns one finding per error in the file."""
    try:
        monitoring()
    except MonitoringConfigError as error:
        return [
            Finding(_PART, State.WRONG, f"{error.path.name}: {problem}", _REMEDY)
            for problem in error.problems
        ]
    return []


def _monitoring_finding() -> Finding:
    """Returns where log lines go. Raises MonitoringConfigError."""
    config, settings = monitoring(), Settings()
    off = [name for name, part in config if not getattr(part, "enabled", True)]
    where = {
        "console": "log lines on the console",
        "file": "log lines in {}",
        "composite": "log lines on the console and in {}",
    }
    file = config.log_file(settings.var_dir)
    shown = str(file.relative_to(HOME)) if file.is_relative_to(HOME) else str(file)
    what = where[config.logging.default_logger].format(shown) + (f"; off: {', '.join(off)}" if off else "")
    return Finding(_PART, State.REAL if settings.monitoring.config else State.EMBEDDED, what)


def table(findings: Sequence[Finding]) -> FittedTable:
    """Shows one line per part."""
    columns = ["part", "", "what"]
    if any(finding.remedy for finding in findings):
        columns.append("what to do")
    made = terminal.table("What the shop is connected to", *columns, wrapped=("what", "what to do"))
    for finding in findings:
        mark = "✗ " if finding.wrong else ""
        made.add_row(
            finding.part,
            Text(f"{mark}{finding.state}", _STYLES[finding.state]),
            *(Text(finding.what), Text(finding.remedy))[: len(columns) - 2],
        )
    return made
