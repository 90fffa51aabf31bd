"""The example saga: another payload, other tables, the same engine;
killed in the middle, the next start finishes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from sqlalchemy import create_engine, text

from deployments.local.prefect_server import PrefectServer
from saga.configuration import psycopg_url
from tests.conftest import HOME


def _book(database_url: str, prefect_api: PrefectServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    server = {name: value for name, value in prefect_api.client_environment.items() if value is not None}
    environment = {**os.environ, **server, "DATABASE_URL": database_url, "LEASE_SECONDS": "1"}
    command = [sys.executable, "-m", "examples.minimal_saga", *arguments]
    return subprocess.run(
        command, cwd=HOME, env=environment, capture_output=True, text=True, timeout=180, check=False
    )


def test_a_killed_run_is_finished_by_the_next_one(database_url: str, prefect_api: PrefectServer) -> None:
    killed = _book(database_url, prefect_api, "--crash")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for _ in range(2):  # the second finds that it has ended
        finished = _book(database_url, prefect_api)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.split()[-1] == "compensated"
    engine = create_engine(psycopg_url(database_url))
    with engine.connect() as connection:
        (trip,) = connection.execute(text("SELECT outcome, takeovers, failing_step FROM trip")).all()
        steps = connection.execute(
            text("SELECT step, status, attempts, undo_status FROM trip_step ORDER BY undo_number, number")
        ).all()
        leases = connection.execute(text("SELECT count(*) FROM trip_lease WHERE until > now()")).scalar()
    engine.dispose()
    assert tuple(trip) == ("compensated", 1, "rent_car")
    undone = [(row.step, row.undo_status) for row in steps if row.undo_status]
    assert undone == [("book_hotel", "done"), ("book_flight", "done")], "in reverse"
    assert {row.step: row.attempts for row in steps} == {"book_flight": 1, "book_hotel": 2, "rent_car": 1}, (
        "the flight is booked once"
    )
    assert leases == 0
