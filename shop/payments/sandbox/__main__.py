"""`python -m shop.payments.sandbox`: serves the sandbox gateway on this machine only, and prints its address."""

from __future__ import annotations

import argparse
import sqlite3
from contextlib import closing
from pathlib import Path

from shop.payments.sandbox.app import create_app
from shop.payments.sandbox.behaviour import Behaviour
from shop.payments.sandbox.ledger import Ledger
from shop.serving import listen, serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shop.payments.sandbox", description="A payment gateway for development and tests.")
    parser.add_argument("--port", type=int, default=8420, help="0 for any free one (default: %(default)s)")
    parser.add_argument("--db", type=Path, help="the ledger's file (default: in memory)")
    parser.add_argument("--port-file", type=Path, help="write the port there once it listens")
    parser.add_argument("--forget-keys", action="store_true", help="ignore idempotency keys")
    arguments = parser.parse_args()

    try:
        behaviour = Behaviour.from_env()
        if arguments.forget_keys:
            behaviour = behaviour.model_copy(update={"forget_keys": True})
        listener, ledger = listen(arguments.port), Ledger(arguments.db, behaviour)
    except (OSError, OverflowError, ValueError, sqlite3.Error) as error:
        raise SystemExit(f"the sandbox cannot start: {error}") from error

    with closing(ledger), listener:
        serve(
            create_app(ledger),
            listener,
            arguments.port_file,
            lifespan="off",
            timeout_keep_alive=60,  # longer than any client's own, so that the server never hangs up on a request
            timeout_graceful_shutdown=1,  # answers that are held back must not hold up the end
        )


if __name__ == "__main__":
    main()
