"""The Prefect server of `make run` deletes old runs, with what belongs to them, and old events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest

from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.prefect_server import PrefectServer
from tests.conftest import HOME, own_port
from tests.waiting import until

_EVERY_SECONDS = {
    f"PREFECT_SERVER_SERVICES_{name}_SECONDS": "1"
    for name in ("DB_VACUUM_LOOP", "DB_VACUUM_ORPHAN_CLEANUP_LOOP")
}


@pytest.fixture
def server(postgres: EmbeddedPostgres, world_dir: Path) -> Iterator[PrefectServer]:
    """A server that looks for old rows every second, and not every hour."""
    folder = world_dir / "retention-prefect"
    own_port(folder)
    postgres.create_database("retention_prefect")
    url = postgres.url("retention_prefect")
    with environment(_EVERY_SECONDS):
        server = PrefectServer(
            home=HOME, folder=folder, database_url=url, logs=folder / "logs", pids=folder / "run"
        )
        server.start()
    try:
        yield server
    finally:
        server.stop()


async def test_old_runs_and_events_go_and_others_stay(
    server: PrefectServer, postgres: EmbeddedPostgres
) -> None:
    with (
        httpx.Client(base_url=server.api_url, auth=server.auth, timeout=20) as api,
        psycopg.connect(postgres.url("retention_prefect"), autocommit=True) as database,
    ):
        flow = api.post("/flows/", json={"name": "kept"}).raise_for_status().json()["id"]

        def run(state: str, *, days: int) -> str:
            """A run that ended so many days ago, with a log line."""
            made = api.post("/flow_runs/", json={"flow_id": flow, "state": {"type": state}})
            run_id = str(made.raise_for_status().json()["id"])
            line = {"name": "x", "level": 20, "message": "a line", "flow_run_id": run_id}
            api.post("/logs/", json=[{**line, "timestamp": "2020-01-01T00:00:00Z"}]).raise_for_status()
            database.execute(
                "UPDATE flow_run SET end_time = CASE WHEN end_time IS NOT NULL "
                "THEN now() - make_interval(days => %s) END, start_time = now() - make_interval(days => %s) "
                "WHERE id = %s",
                [days, days, run_id],
            )
            return run_id

        def event(name: str, *, hours: int) -> str:
            event_id = str(uuid4())
            database.execute(
                "INSERT INTO events (id, occurred, event, resource_id, resource, related_resource_ids, "
                "related, payload, received, recorded) "
                "SELECT %s, at, %s, 'shop.x', '{}', '[]', '[]', '{}', at, at "
                "FROM (SELECT now() - make_interval(hours => %s) AS at) AS moment",
                [event_id, name, hours],
            )
            return event_id

        old, young, running = run("COMPLETED", days=8), run("COMPLETED", days=6), run("RUNNING", days=30)
        heartbeat = "prefect.flow-run.heartbeat"
        gone = {event("order.payment.charged", hours=49), event(heartbeat, hours=2)}
        stay = {event("order.payment.charged", hours=47), event(heartbeat, hours=0)}

        async def cleaned() -> bool:
            left = {str(row[0]) for row in database.execute("SELECT id FROM events")}
            return api.get(f"/flow_runs/{old}").status_code == 404 and not left & gone

        await until(cleaned, 30, "what is old to be deleted")
        lines = {str(row[0]) for row in database.execute("SELECT flow_run_id FROM log")}
        assert lines & {old, young, running} == {young, running}
        assert api.get(f"/flow_runs/{young}").status_code == 200
        assert api.get(f"/flow_runs/{running}").status_code == 200, "a run that has not ended is never old"
        assert stay <= {str(row[0]) for row in database.execute("SELECT id FROM events")}
