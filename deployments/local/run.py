"""`make run` and `make demo`: starts everything, submits the sample orders, shows their outcomes."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from deployments import terminal
from deployments.check.report import check, check_settings
from deployments.check.report import table as check_table
from deployments.environment import given
from deployments.errors import Interrupted, StackError
from deployments.local.display import Display
from deployments.local.programs import METRICS_PORT
from deployments.local.stack import HOME, Options, Stack
from deployments.running import configured_prefect_api_url
from deployments.samples.demonstration import as_expected, demonstration, send_samples
from shop.confirmation.settings import LOCAL

_POLL_SECONDS = 2.0


def run(*, demo: bool) -> int:
    """Returns the exit code. `demo`: stops after the samples, with 0 only if all is as expected."""
    console = terminal.console(width=130)
    try:
        return _run(console, demo=demo)
    except StackError as error:
        console.print(Text("Could not start: ", "bold red").append(str(error), "default"))
        return 1
    except (KeyboardInterrupt, Interrupted):
        return 130 if demo else 0  # `make run` is expected to run until Ctrl-C


def _options() -> Options:
    env_file = HOME / ".env"
    return Options(
        var_dir=Path(given("VAR_DIR", env_file) or HOME / "var"),
        database_url=given("DATABASE_URL", env_file),
        prefect_api_url=configured_prefect_api_url(),
        gateway_url=given("PAYMENT_GATEWAY_URL", env_file),
        sandbox=not _uses_stripe(),
        web=True,
        web_host=given("WEB_HOST", env_file),
        web_port=_port(given("WEB_PORT", env_file)),
        orders_api_key=given("ORDERS_API_KEY", env_file),
        local_model=(given("DSPY_MODEL", env_file) or "").startswith(LOCAL)
        and not given("DSPY_API_BASE", env_file),
        metrics_port=_port(given("METRICS_PORT", env_file)) or METRICS_PORT,
        metrics_token=given("METRICS_TOKEN", env_file),
    )


def _given_in(options: Options) -> set[str]:
    """Returns which of the settings that the stack sets a person has set."""
    addresses = {
        "DATABASE_URL": options.database_url,
        "PREFECT_API_URL": options.prefect_api_url,
        "PAYMENT_GATEWAY_URL": options.gateway_url,
    }
    return {name for name, address in addresses.items() if address}


def _port(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and int(text) < 65_536 else None


def _uses_stripe() -> bool:
    return given("PAYMENT_GATEWAY", HOME / ".env") == "stripe"


def _run(console: Console, *, demo: bool) -> int:
    if mistakes := check_settings():
        console.print(check_table(mistakes))
        return 1
    options = _options()
    with Display(console, options.phases) as display, Stack(options, display.phase) as stack:
        findings = check(_given_in(options).__contains__)
        if any(finding.wrong for finding in findings):
            display.close()
            console.print(check_table(findings))
            return 1
        ended = send_samples(display)
        display.close()
        console.print(check_table(findings))
        shown, books = demonstration(ended, ask_stripe=demo)
        console.print(*shown)
        if demo:
            return 0 if as_expected(ended, books) else 1
        show_next_steps(console, stack)
        _run_until_stopped(console, stack)
    return 0


def _short(file: Path) -> Path:
    """Returns the path relative to the project's folder."""
    return file.relative_to(HOME) if file.is_relative_to(HOME) else file


def show_next_steps(console: Console, stack: Stack) -> None:
    """Shows what to do next. Never wraps a line, so that commands can be copied."""
    console.print(_next_steps(stack, shows_secrets=console.is_terminal), soft_wrap=True)


def _next_steps(stack: Stack, *, shows_secrets: bool) -> Text:
    """Returns what to do next. `shows_secrets`: the output is a terminal with a person, not a log."""
    command = _short(Path(sys.executable).with_name("order-saga"))
    text = Text("\nLook at the runs:  ").append(f"{stack.ui_url}\n", "bold")
    if stack.prefect_server:  # our own server's version has it
        text.append(
            f"                   or {stack.ui_url}/v2, Prefect's new UI, which shows the orders' diagrams\n"
        )
        where = f"kept in {_short(stack.prefect_server.password_file)}"
        if shows_secrets:
            text.append("Log in:            the UI asks for ").append(
                stack.prefect_server.auth_string, "bold"
            ).append(f"  ({where})\n")
        else:
            text.append(f"Log in:            user and password for the UI are {where}\n")
    text.append("Send an order:     from another shell, in this folder\n")
    if stack.env_file != HOME / "var" / "run.env":  # every command in this folder reads that file
        text.append(f"    set -a; . {stack.env_file}; set +a\n", "cyan")
    text.append(f"    {command} submit orders.json\n", "cyan")
    text.append("    or from Python: from deployments.trigger import submit_orders, run_order\n")
    if stack.web:
        file = _short(stack.key_file)
        text.append(
            "    or over HTTP; "
            f"the key is {'ORDERS_API_KEY' if stack.options.orders_api_key else f'in {file}'}:\n"
        )
        key = "$ORDERS_API_KEY" if stack.options.orders_api_key else f"$(cat {file})"
        headers = f'-H "Authorization: Bearer {key}" -H "Content-Type: application/json"'
        text.append(f"    curl {headers} -d @order.json {stack.web.url}/orders\n", "cyan")
    if stack.worker and stack.worker.metrics_url:
        token = _short(stack.metrics_token_file)
        given_or_own = "$METRICS_TOKEN" if stack.options.metrics_token else f"$(cat {token})"
        text.append("Metrics:           for Prometheus, see docs/reference/metrics.md\n")
        text.append(
            f'    curl -H "Authorization: Bearer {given_or_own}" {stack.worker.metrics_url}\n', "cyan"
        )
    return text.append("Stop:              Ctrl-C (the data is kept)\n")


def _run_until_stopped(console: Console, stack: Stack) -> NoReturn:
    """Runs until a signal. Restarts parts that die, independently of each other."""
    while True:
        time.sleep(_POLL_SECONDS)
        for revival in stack.revive():
            with suppress(OSError):  # the terminal may be closed
                console.print(str(revival), markup=False, highlight=False)
