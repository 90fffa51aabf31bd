"""`order-saga web`: serves the web app."""

from __future__ import annotations

from pathlib import Path

from deployments.watched import watched
from shop.monitoring.log_lines import configure
from shop.runtime.http_server import listen, serve
from shop.settings import settings


def web(*, host: str | None = None, port: int | None = None, port_file: Path | None = None) -> None:
    """Serve the web app, orders and Stripe's webhooks over HTTP, until it is stopped.

    Args:
        host: Address to listen on (default: WEB_HOST).
        port: 0 selects a free port (default: WEB_PORT).
        port_file: File for the port, written when the app listens.
    """
    from deployments.web.app import app

    host = settings().web.host if host is None else host
    port = settings().web.port if port is None else port
    configure()
    try:
        listener = listen(port, host)
    except (OSError, OverflowError) as error:
        raise SystemExit(f"the web app cannot listen on {host}:{port}: {error}") from error
    with listener, watched("web app"):
        serve(app, listener, port_file, timeout_keep_alive=30, timeout_graceful_shutdown=5)
