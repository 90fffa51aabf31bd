"""Serves Prefect for its own origin and hosts only: `python -m deployments.local.serve_prefect`.

It differs from `prefect server start`, with the same settings (PREFECT_SERVER_*), in three ways. It limits
silent and slow clients. It refuses a request whose `Host` is not a name of this machine, so that other pages
cannot reach the server by DNS rebinding. It has no `/docs`, because that page loads a third party's script on
the origin where the UI stores the password.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from deployments.warm import load
from shop.runtime.http_server import listen, serve

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
"""The host names by which a browser on this machine may call the server."""


def main() -> None:
    load(["prefect.server.api.server"])
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    server = get_current_settings().server
    app = create_app(final=True)
    _remove_docs(app)
    serve(
        TrustedHostMiddleware(app, allowed_hosts=HOSTS, www_redirect=False),
        listen(server.api.port, server.api.host),
        ws="auto",
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=server.logging_level.lower(),
    )


def _remove_docs(app: FastAPI) -> None:
    pages = {app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url}
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) not in pages]
    for route in app.router.routes:
        if isinstance(inner := getattr(route, "app", None), FastAPI):
            _remove_docs(inner)


if __name__ == "__main__":
    main()
