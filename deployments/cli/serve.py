"""The commands that serve HTTP until they are stopped: `web`, `sandbox`, `inventory-service`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from socket import socket

from shop.monitoring.log_lines import configure
from shop.runtime.http_server import listen, serve
from shop.settings import settings


def _listening(what: str, host: str, port: int) -> socket:
    try:
        return listen(port, host)
    except (OSError, OverflowError) as error:
        raise SystemExit(f"{what} cannot listen on {host}:{port}: {error}") from error


def web(*, host: str | None = None, port: int | None = None, port_file: Path | None = None) -> None:
    """Serve the web app, orders and Stripe's webhooks over HTTP, until it is stopped.

    Args:
        host: Address to listen on (default: WEB_HOST).
        port: 0 selects a free port (default: WEB_PORT).
        port_file: File for the port, written when the app listens.
    """
    from deployments.watched import watched
    from deployments.web.app import app

    host = settings().web.host if host is None else host
    port = settings().web.port if port is None else port
    configure()
    with _listening("the web app", host, port) as listener, watched("web app", deletes_files=False):
        serve(app, listener, port_file, timeout_keep_alive=30, timeout_graceful_shutdown=5)


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
    from shop.payments.sandbox.app import create_app
    from shop.payments.sandbox.behaviour import Behaviour
    from shop.payments.sandbox.ledger import Ledger

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


def inventory_service(
    *,
    port: int = 8440,
    port_file: Path | None = None,
    host: str = "127.0.0.1",
    database_url: str | None = None,
    prepare: bool = False,
) -> None:
    """Serve the SQL inventory over HTTP, until it is stopped.

    Args:
        port: 0 selects a free port.
        port_file: Write the port there once it listens.
        host: Address to listen on; any but a loopback address requires INVENTORY_SERVICE_TOKEN.
        database_url: The service's PostgreSQL (default: DATABASE_URL).
        prepare: Migrate the tables, and add missing sample products.
    """
    from deployments.inventory_service import create_app
    from deployments.watched import watched
    from shop.inventory.catalogue import load_sample_catalogue
    from shop.inventory.service.database import DatabaseInventory
    from shop.monitoring.exposition.endpoint import Exposition, metrics_token
    from shop.runtime.migrate import upgrade

    configure()
    url = database_url or settings().database_url
    secret = settings().inventory.service_token
    if secret is None and not _is_this_machine(host):
        raise SystemExit(
            "without a token anybody who can connect could change the stock: "
            "set INVENTORY_SERVICE_TOKEN, or listen on 127.0.0.1 only"
        )
    with _listening("the inventory service", host, port) as listener:
        if prepare:
            upgrade(url)
            load_sample_catalogue(url)
        token = secret.get_secret_value() if secret else None
        metrics = Exposition(
            "inventory service", database_url=url, inventory_only=True, token=metrics_token() or token
        )
        app = create_app(DatabaseInventory(url), token, metrics=metrics)
        with watched("inventory service", database_url=url):
            # Connections are kept for longer than in clients' pools, so that the service never closes one
            # during a request.
            serve(app, listener, port_file, timeout_keep_alive=60, timeout_graceful_shutdown=5)


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
