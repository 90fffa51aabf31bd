"""`order-saga inventory-service`: serves the SQL inventory over HTTP."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from deployments.inventory_service import create_app
from deployments.watched import watched
from shop.inventory.catalogue import load_sample_catalogue
from shop.inventory.service.database import DatabaseInventory
from shop.monitoring.exposition.endpoint import Exposition, metrics_token
from shop.monitoring.log_lines import configure
from shop.runtime.http_server import listen, serve
from shop.runtime.migrate import upgrade
from shop.settings import settings


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
    configure()
    url = database_url or settings().database_url
    secret = settings().inventory.service_token
    if secret is None and not _is_this_machine(host):
        raise SystemExit(
            "without a token anybody who can connect could change the stock: "
            "set INVENTORY_SERVICE_TOKEN, or listen on 127.0.0.1 only"
        )
    try:
        listener = listen(port, host)
    except (OSError, OverflowError) as error:
        raise SystemExit(f"the inventory service cannot listen on {host}:{port}: {error}") from error
    with listener:
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
