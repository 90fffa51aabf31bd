"""`order-saga sandbox`: serves the sandbox payment gateway, and prints its address."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from shop.payments.sandbox.app import create_app
from shop.payments.sandbox.behaviour import Behaviour
from shop.payments.sandbox.ledger import Ledger
from shop.runtime.http_server import listen, serve


def sandbox(
    *,
    host: str = "127.0.0.1",
    port: int = 8420,
    db: Path | None = None,
    port_file: Path | None = None,
    forget_keys: bool = False,
) -> None:
    """Serve the sandbox payment gateway, for development and tests.

    Args:
        host: Address to listen on. Whoever reaches it moves the sandbox's money: it asks for no key.
        port: 0 selects a free port.
        db: The ledger's file; without it the ledger is in memory.
        port_file: File for the port, written when the gateway listens.
        forget_keys: Ignore idempotency keys.
    """
    try:
        behaviour = Behaviour.from_env()
        if forget_keys:
            behaviour = behaviour.model_copy(update={"forget_keys": True})
        listener, ledger = listen(port, host), Ledger(db, behaviour)
    except (OSError, OverflowError, ValueError, sqlite3.Error) as error:
        raise SystemExit(f"the sandbox cannot start: {error}") from error

    with closing(ledger), listener:
        serve(
            create_app(ledger),
            listener,
            port_file,
            lifespan="off",
            # longer than clients' own, so that the server never closes a connection during a request
            timeout_keep_alive=60,
            timeout_graceful_shutdown=1,  # delayed answers must not delay the shutdown
        )
