"""PgBouncer in front of a PostgreSQL of these tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import pytest

from deployments.local.postgres_binaries import account_for
from deployments.local.processes import Child, wait_until

PORT = 6432
Mode = Literal["transaction", "session", "statement"]


def binary() -> str:
    """Where the program is. Skips the test if it is not installed; where CI is set that is a failure."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        missing = "there is no PgBouncer here: make pgbouncer"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@contextmanager
def pgbouncer(server_url: str, mode: Mode, *, pool_size: int = 20) -> Iterator[str]:
    """Runs it in front of the server; yields the address of the same database behind it."""
    program, parts = binary(), urlsplit(server_url)
    server = parse_qs(parts.query)
    folder = Path(tempfile.mkdtemp(prefix="pgb-"))
    account = account_for(Path(server["host"][0]))
    lines = [
        "[databases]",
        f"* = host={server['host'][0]} port={server['port'][0]} user=postgres",
        "[pgbouncer]",
        "listen_addr =",
        f"listen_port = {PORT}",
        f"unix_socket_dir = {folder}",
        "auth_type = any",
        f"pool_mode = {mode}",
        f"default_pool_size = {pool_size}",
        "max_client_conn = 500",
        "ignore_startup_parameters = extra_float_digits,options",
        f"pidfile = {folder / 'pgbouncer.pid'}",
    ]
    config = folder / "pgbouncer.ini"
    config.write_text("\n".join(lines) + "\n")
    if account is not None:  # it does not run as root either
        for path in (folder, config):
            os.chown(path, account.uid, account.gid)
    command = [program, *(["-u", account.name] if account else []), str(config)]
    child = Child("PgBouncer", command, log=folder / "log", pid_file=folder / "child.pid")
    url = f"postgresql://postgres@/{parts.path.lstrip('/')}?host={quote(str(folder), safe='')}&port={PORT}"
    try:
        child.start()
        wait_until(lambda: _answers(url), 20, "PgBouncer to be ready", child=child)
        yield url
    finally:
        child.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5, prepare_threshold=None).close()
    except psycopg.Error:
        return False
    return True
