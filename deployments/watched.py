"""Monitoring of long-running processes: reports liveness, answers at `/metrics`, and sends traces. In
`VAR_DIR`, closes permissions that an earlier version left open, and deletes files of erased customers.

None of it prevents the process from working: a port that is taken is only logged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy import text

from saga.database import is_database_error, transaction
from shop.monitoring.sampler import sampling
from shop.retention.files import deleting_files_of_erased_customers
from shop.runtime.extras import needs_extra
from shop.runtime.files import tighten
from shop.settings import settings

log = logging.getLogger("shop.watched")


@contextmanager
def watched(
    kind: str, *, own_port: bool = False, deletes_files: bool = True, database_url: str | None = None
) -> Iterator[None]:
    """Monitors the process while the body runs. `own_port`: the process has no HTTP server, and listens on
    `METRICS_PORT` if that is set. `deletes_files`: deletes the files of erased customers; the web app does so
    in its lifespan. `database_url`: its database, if that is not the shop's."""
    tighten(settings().var_dir)
    with ExitStack() as stack:
        stack.enter_context(sampling(kind, database_url=database_url))
        if deletes_files and database_url is None:
            stack.enter_context(deleting_files_of_erased_customers())
        if own_port:
            _serve_metrics(kind, stack)
        _send_traces(stack, database_url)
        yield


def _serve_metrics(kind: str, stack: ExitStack) -> None:
    host, port = settings().metrics.host, settings().metrics.port
    if port is None:
        return
    from shop.monitoring.exposition.endpoint import Exposition, MetricsServer, metrics_token

    try:
        server = stack.enter_context(MetricsServer(Exposition(kind, token=metrics_token()), host, port))
    except (OSError, OverflowError) as error:
        log.warning(
            "metrics are not available: listening on METRICS_PORT %s:%d failed (%s)", host, port, error
        )
    else:
        log.info("metrics are at http://%s:%d/metrics", host, server.port)


def _send_traces(stack: ExitStack, database_url: str | None) -> None:
    if settings().traces.endpoint is None:
        return
    with needs_extra("otel", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        from shop.monitoring.traces import sending

    stack.enter_context(sending(database_url))


async def why_unusable(seconds: float) -> str | None:
    """Returns why nothing can be written to the database; None: it can. Waits for it no longer than this."""
    try:
        async with transaction(seconds=seconds) as tx:
            is_read_only = (await tx.execute(text("SHOW transaction_read_only"))).scalar_one() == "on"
    except Exception as error:
        if not is_database_error(error):
            raise
        return "the database does not answer"
    return "the database is read-only" if is_read_only else None
