"""A PostgreSQL that listens on a port, with a password, as containers need it."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from deployments.local.postgres_binaries import account_for, find_binaries
from deployments.local.processes import free_port

USER = "shop"


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Runs one with its data in the folder, which its system user can reach. Yields the address of its
    server, without a database; the user may create databases, and is no superuser."""
    data, password, port = folder / "data", secrets.token_hex(16), free_port()
    account, binaries = account_for(data), find_binaries()
    folder.mkdir(mode=0o755)
    (folder / "password").write_text(password)
    data.mkdir(mode=0o700)
    if account:
        for path in (data, folder / "password"):
            path.chmod(0o700)
            subprocess.run(["chown", f"{account.uid}:{account.gid}", str(path)], check=True)

    def run(program: str, *arguments: str) -> None:
        with (folder / "log").open("ab") as log:
            subprocess.run(
                [binaries.program(program), "-D", str(data), *arguments],
                check=True,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )

    run(
        "initdb",
        "-U",
        "postgres",
        "--auth=scram-sha-256",
        f"--pwfile={folder / 'password'}",
        "--encoding=UTF8",
        "--locale=C",
    )
    values = (
        f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c max_connections=200"
    )
    run("pg_ctl", "-w", "-t", "60", "-o", values, "start")
    try:
        address = f"127.0.0.1:{port}"
        with psycopg.connect(
            f"postgresql://postgres:{password}@{address}/postgres", autocommit=True
        ) as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(
                    sql.Identifier(USER), sql.Literal(password)
                )
            )
            connection.execute(sql.SQL("CREATE DATABASE prefect OWNER {}").format(sql.Identifier(USER)))
            # Prefect's tables need the extension, which only superusers may create in some versions.
            with psycopg.connect(
                f"postgresql://postgres:{password}@{address}/prefect", autocommit=True
            ) as prefect:
                prefect.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        yield f"postgresql://{USER}:{password}@{address}"
    finally:
        run("pg_ctl", "-m", "immediate", "-w", "stop")
