"""The database of DATABASE_URL is made and migrated once, also by several, and on servers that just start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from deployments.cli import order_saga
from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.prefect_server import PrefectServer
from deployments.setup.database import DatabaseUnusable, ensure_database, only_one_sets_up
from deployments.setup.server import Change, NoAnswer, wait_for_server
from shop.monitoring import traces
from shop.runtime.migrate import newest_revision
from tests.conftest import HOME, own_port

WAIT = 60.0


@pytest.fixture
def missing(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The name of a database that is not there. It has characters that have to be quoted."""
    name = f"Shop-{uuid4().hex[:8]}"
    yield name
    postgres.drop_database(name)


def changes(url: str, *, apply: bool = True) -> dict[str, Change]:
    return {item.kind: item.change for item in ensure_database(url, apply=apply, seconds=0)}


def there(postgres: EmbeddedPostgres, name: str) -> bool:
    with psycopg.connect(postgres.url("postgres")) as connection:
        row = connection.execute("SELECT count(*) FROM pg_database WHERE datname = %s", [name]).fetchone()
    return row == (1,)


def test_a_missing_database_is_created_once(postgres: EmbeddedPostgres, missing: str) -> None:
    url = postgres.url(missing)
    assert changes(url, apply=False) == {"database": Change.MISSING, "tables": Change.MISSING}
    assert not there(postgres, missing)
    assert changes(url) == {"database": Change.CREATED, "tables": Change.CREATED}
    assert (
        changes(url)
        == changes(url, apply=False)
        == {
            "database": Change.UNCHANGED,
            "tables": Change.UNCHANGED,
        }
    )


def test_a_worker_that_sends_traces_does_not_block_setting_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=3000")
    with psycopg.connect(database_url, autocommit=True) as sender:
        sender.execute("SELECT pg_advisory_lock(%s)", [traces._LOCK])
        with only_one_sets_up(database_url):
            pass


def test_tables_of_another_version_are_reported(postgres: EmbeddedPostgres, missing: str) -> None:
    postgres.create_database(missing)
    url = postgres.url(missing)
    assert changes(url)["tables"] == Change.CREATED
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    assert changes(url, apply=False) == {"database": Change.UNCHANGED, "tables": Change.DIFFERS}
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseUnusable, match="9999"):
        changes(url)


def test_a_missing_right_to_create_it_is_reported(
    postgres: EmbeddedPostgres, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    role = f"limited_{uuid4().hex[:8]}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{role}" LOGIN'.encode())
    url = postgres.url(missing).replace("postgres@", f"{role}@")
    try:
        with environment({"DATABASE_URL": url}):
            assert order_saga(["migrate", "--wait", "0"]) == 1
            assert "CREATEDB" in capsys.readouterr().err
            postgres.create_database(missing)
            assert order_saga(["migrate", "--wait", "0"]) == 1, "another user owns it"
            assert missing in capsys.readouterr().err
    finally:
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP ROLE "{role}"'.encode())


def test_several_at_once_do_it_once(postgres: EmbeddedPostgres, missing: str) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "migrate"],
            cwd=HOME,
            env={**os.environ, "DATABASE_URL": postgres.url(missing)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 4, outputs
    assert (
        sum("database" in line and "created" in line for text in outputs for line in text.splitlines()) == 1
    )
    with psycopg.connect(postgres.url(missing)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
            (newest_revision(),)
        ]
        assert connection.execute("SELECT count(*) FROM installation").fetchone() == (1,)


def test_a_database_server_that_still_starts_is_waited_for(world_dir: Path) -> None:
    server, starts = EmbeddedPostgres(world_dir / "late-postgres"), []

    def start(why: str) -> None:
        if not starts:
            server.start()
        starts.append(why)

    try:
        items = ensure_database(server.url("late"), apply=True, seconds=WAIT, say=start)
    finally:
        server.stop("immediate")
    assert [item.change for item in items] == [Change.CREATED] * 2
    assert starts


def test_a_prefect_server_that_still_starts_is_waited_for(
    postgres: EmbeddedPostgres, world_dir: Path
) -> None:
    folder = world_dir / "late-prefect"
    own_port(folder)
    postgres.create_database("late_prefect")
    server = PrefectServer(
        home=HOME,
        folder=folder,
        database_url=postgres.url("late_prefect"),
        logs=folder / "logs",
        pids=folder / "run",
    )
    starts: list[str] = []

    def start(why: str) -> None:
        if not starts:
            server.start()
        starts.append(why)

    try:
        with environment(server.client_environment):
            with pytest.raises(NoAnswer, match=server.api_url):
                wait_for_server(server.api_url, 0, lambda _: None)
            wait_for_server(server.api_url, WAIT, start)
    finally:
        server.stop()
    assert starts
