"""The command `order-saga`: each command is a function of this package, imported only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App, CycloptsError, Group, Parameter, UnknownCommandError

from deployments.environment import read_secret_files

_UNUSABLE = 2
_HELP = """Order processing as a saga on Prefect.

Exit codes: 0, success; 1, a failure that the command's --help describes; 2, invalid arguments or settings,
or the database does not answer."""
_LOCAL = Group("On this machine", sort_key=1)
_ORDERS = Group("Orders", sort_key=2)
_SERVERS = Group("On your own servers", sort_key=3)
_LOCATIONS = {
    **{name: f"local:{name}" for name in ("run", "demo", "samples", "check")},
    **{name: f"serve:{name}" for name in ("web", "sandbox", "inventory_service")},
    **{name: f"change:{name}" for name in ("cancel", "retry", "address")},
    **{name: f"record:{name}" for name in ("paid", "receive")},
    "worker": "prefect:worker",
    "migrate": "setup:migrate",
    "restored": "setup:restored",
    "list": "look:list_orders",
    "show": "look:show_order",
    "label": "look:label",
    "secrets": "setup:new_secrets",
}
"""Module and function of the commands that are no modules of their own."""
_COMMANDS = (
    ("run", _LOCAL, "Run everything on this machine, with sample orders, until Ctrl-C."),
    ("demo", _LOCAL, "Run everything, and stop when the sample orders have ended."),
    ("check", _LOCAL, "Show what the shop is connected to, and what is misconfigured."),
    ("samples", _LOCAL, "Send the sample orders to a running system, and show their outcomes."),
    ("sandbox", _LOCAL, "Serve the sandbox payment gateway."),
    ("submit", _ORDERS, "Take orders from a file to their outcomes."),
    ("retry", _ORDERS, "Try an order again that was rejected, out of stock or compensated."),
    ("list", _ORDERS, "List and search orders."),
    ("show", _ORDERS, "Draw the history of one order."),
    ("cancel", _ORDERS, "Cancel or return an order, and show before what that undoes and costs."),
    ("address", _ORDERS, "Change the address of an order that is not being shipped yet."),
    ("label", _ORDERS, "Write the labels of orders as files, or for a label printer."),
    ("review", _ORDERS, "List and resolve the orders under manual review."),
    ("receive", _ORDERS, "Record goods that have arrived, and add them to the stock."),
    ("paid", _ORDERS, "Record money that came for orders by transfer or on delivery."),
    ("books", _ORDERS, "Compare our tables with the payment gateway, and stock with shipments."),
    ("program", _ORDERS, "Show or choose the program that asks the language model."),
    ("status", _ORDERS, "Show throughput, latency, errors and processes over any window."),
    ("migrate", _SERVERS, "Create and migrate the database of DATABASE_URL."),
    ("setup", _SERVERS, "Prepare the database and the Prefect server: everything that workers need."),
    ("restored", _SERVERS, "Prepare the database after it was restored to an earlier time."),
    ("secrets", _SERVERS, "Generate the passwords and keys of a new installation, as files."),
    ("prefect", _SERVERS, "Run Prefect's own command, with settings from files."),
    ("worker", _SERVERS, "Run flows: Prefect's process worker for the pool WORKER_POOL."),
    ("web", _SERVERS, "Serve the web app: orders and Stripe's webhooks over HTTP."),
    ("inventory-service", _SERVERS, "Serve the SQL inventory over HTTP."),
)


def make_app(chosen: Sequence[str] = ()) -> App:
    """Makes the command's app. Imports only the chosen commands, which show their full help."""
    app = App(
        name="order-saga",
        help=_HELP,
        version=_version,
        error_formatter=_explained,
        default_parameter=Parameter(negative=(), show_default=False),
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    app.register_install_completion_command(help="Install completion for bash, zsh or fish.")
    for name, group, text in _COMMANDS:
        function = name.replace("-", "_")
        app.command(
            f"deployments.cli.{_LOCATIONS.get(function, f'{function}:{function}')}",
            name=name,
            group=group,
            help=None if name in chosen else text,
        )
    return app


def order_saga(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns its exit code. `arguments`: without the program's name; None: the process's."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        read_secret_files()
        code = make_app(arguments[:1])(arguments, exit_on_error=False, print_error=True)
    except CycloptsError:
        return _UNUSABLE
    except Exception as error:
        from deployments.cli.trouble import explanation

        if (why := explanation(error)) is None:
            raise
        from deployments import terminal

        return terminal.refused(why, _UNUSABLE)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Runs this process's command and exits."""
    sys.exit(order_saga())


def _version() -> str:
    try:
        return version("order-saga")
    except PackageNotFoundError:
        return "a checkout that is not installed"


def _explained(error: CycloptsError) -> object:
    """Explains wrong arguments in a line. Cyclopts' own message about a command imports every command."""
    from rich.text import Text

    from shop.text.sanitize import tame

    if (
        not isinstance(error, UnknownCommandError)
        or error.app is None
        or error.app.name != ("order-saga",)
        or not error.unused_tokens
    ):
        return Text(tame(str(error)))
    import difflib

    unknown = error.unused_tokens[0]
    near = difflib.get_close_matches(unknown, [name for name, _, _ in _COMMANDS])
    return Text(
        tame(
            f"There is no command {unknown}.{f' Did you mean {near[0]}?' if near else ''} "
            "See order-saga --help."
        )
    )
