"""`order-saga setup` on a fresh Prefect server: it puts everything there once, and restores what is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from deployments.capacity import QUEUES
from deployments.cli import order_saga
from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.prefect_server import PrefectServer
from tests.conftest import HOME, own_port
from tests.installed import install
from tests.integration.world import World, an_order

_PASSES = {"last_polled", "status", "active_slots"}
"""What a server changes by itself."""
ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_KINDS = ("work_pools", "work_queues", "v2/concurrency_limits", "deployments", "automations")


class Api:
    """The server's own account of what it has."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def all(self) -> dict[str, list[dict[str, Any]]]:
        found = {}
        for kind in _KINDS:
            rows = self._client.post(f"/{kind}/filter", json={}).raise_for_status().json()
            found[kind] = [
                {name: value for name, value in row.items() if name not in _PASSES} for row in rows
            ]
        return found

    def one(self, kind: str, name: str) -> dict[str, Any]:
        (row,) = [row for row in self.all()[kind] if row["name"] == name]
        return row

    def get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self._client.get(path).raise_for_status().json()
        return found

    def delete(self, path: str) -> None:
        self._client.delete(path).raise_for_status()

    def post(self, path: str, **values: Any) -> dict[str, Any]:
        made: dict[str, Any] = self._client.post(path, json=values).raise_for_status().json()
        return made

    def post_many(self, path: str, rows: list[dict[str, Any]]) -> None:
        self._client.post(path, json=rows).raise_for_status()

    def patch(self, path: str, **values: Any) -> None:
        self._client.patch(path, json=values).raise_for_status()


@pytest.fixture
def fresh(postgres: EmbeddedPostgres, world_dir: Path) -> Iterator[Api]:
    """A Prefect server that has nothing, and that this process's Prefect client talks to."""
    folder = world_dir / "fresh-prefect"
    own_port(folder)
    name = f"fresh_prefect_{uuid4().hex[:8]}"
    postgres.create_database(name)
    url = postgres.url(name)
    server = PrefectServer(
        home=HOME, folder=folder, database_url=url, logs=folder / "logs", pids=folder / "run"
    )
    try:
        server.start()
        with (
            environment(server.client_environment),
            httpx.Client(base_url=server.api_url, auth=server.auth, timeout=20) as client,
        ):
            yield Api(client)
    finally:
        server.stop()
        postgres.drop_database(name)


def names(row: dict[str, Any]) -> Any:
    """What of it is not made anew with it."""
    dated = {
        "id",
        "created",
        "updated",
        "deployment_id",
        "flow_id",
        "work_queue_id",
        "work_pool_id",
        "version_id",
        "anchor_date",
    }
    if isinstance(row, dict):
        return {name: names(value) for name, value in row.items() if name not in dated}
    return [names(each) for each in row] if isinstance(row, list) else row


def test_it_puts_everything_there_once_and_restores_it(
    fresh: Api, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    def setup(*options: str) -> tuple[int, str]:
        code = order_saga(["setup", *options])
        return code, " ".join("".join(capsys.readouterr()).split())

    nothing = fresh.all()
    code, report = setup("--check")
    assert code == 1
    assert "missing" in report
    assert fresh.all() == nothing

    code, report = setup()
    assert code == 0, report
    assert "created" in report
    made = fresh.all()
    assert [row["name"] for row in made["work_pools"]] == ["orders"]
    queues = {row["name"]: row["priority"] for row in made["work_queues"]}
    assert sorted(QUEUES, key=queues.__getitem__) == list(QUEUES)
    by_name = {row["name"]: row for row in made["deployments"]}
    assert by_name["purge"]["global_concurrency_limit"]["limit"] == 1
    assert [schedule["slug"] for schedule in by_name["housekeeping"]["schedules"]] == ["housekeeping"]
    assert len(made["automations"]) >= 3

    code, report = setup()
    assert code == 0, report
    assert not any(word in report for word in ("created", "updated", "missing", "differs")), report
    assert fresh.all() == made
    assert setup("--check")[0] == 0

    fresh.delete("/work_pools/orders/queues/own-runs")
    lost = fresh.one("automations", "Runs that fell silent have crashed")
    fresh.delete(f"/automations/{lost['id']}")
    fresh.delete(f"/automations/{fresh.one('automations', 'Alerts are sent')['id']}")
    recovery = by_name["housekeeping"]
    fresh.delete(f"/deployments/{recovery['id']}/schedules/{recovery['schedules'][0]['id']}")
    fresh.patch(f"/deployments/{by_name['purge']['id']}", description="another one")
    spoilt = fresh.all()
    code, report = setup("--check")
    assert code == 1
    assert fresh.all() == spoilt

    code, report = setup()
    assert code == 0, report
    restored = fresh.all()
    for kind in _KINDS:
        assert sorted(map(repr, map(names, restored[kind]))) == sorted(map(repr, map(names, made[kind]))), (
            kind
        )
    assert setup("--check")[0] == 0

    former = fresh.post("/flows/", name="recover-orders")
    fresh.post("/deployments/", name="recover-orders", flow_id=former["id"])
    every_two_minutes = {"schedule": {"interval": 120}, "active": True, "slug": "refresh"}
    dashboard = fresh.one("deployments", "show-dashboard")
    fresh.patch(f"/deployments/{dashboard['id']}", schedules=[every_two_minutes])
    ours = fresh.one("automations", "Alerts are sent")
    fresh.post("/automations/", **{name: ours[name] for name in ("name", "trigger", "actions")})
    code, report = setup("--check")
    assert code == 1
    assert report.count("not wanted") == 2
    code, report = setup()
    assert code == 0, report
    assert report.count("removed") == 2
    assert names(fresh.one("automations", "Alerts are sent")) == names(ours)
    assert "recover-orders" not in {row["name"] for row in fresh.all()["deployments"]}
    assert fresh.one("deployments", "show-dashboard")["schedules"] == []
    assert setup("--check")[0] == 0

    own = {"schedule": {"interval": 7200}, "active": True}
    fresh.post_many(f"/deployments/{fresh.one('deployments', 'purge')['id']}/schedules", [own])
    assert setup("--check")[0] == 0, "a schedule that a person has added"
    with environment({"SHOP_TIMEZONE": "Europe/Vienna"}):
        assert setup("--check")[0] == 1
        assert setup()[0] == 0
        assert setup("--check")[0] == 0
    purge = fresh.one("deployments", "purge")["schedules"]
    added = [each["slug"] for each in purge if each["schedule"].get("interval") == 7200]
    assert len(added) == 1, "it stays"
    for name in ("purge", "daily-report", "reconcile-payments"):
        (schedule,) = [
            each for each in fresh.one("deployments", name)["schedules"] if each["slug"] not in added
        ]
        assert schedule["schedule"]["timezone"] == "Europe/Vienna"

    world.sql("UPDATE alembic_version SET version_num = '0001'")
    code, report = setup("--check")
    assert code == 1
    assert "at 0001" in report


def test_it_needs_a_server_that_answers(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with environment({"PREFECT_API_URL": "http://127.0.0.1:1/api"}):
        assert order_saga(["setup", "--wait", "0"]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_several_at_once_set_up_once(fresh: Api, world: World) -> None:
    command = [sys.executable, "-m", "deployments.cli", "setup"]
    started = [
        subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    report = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], report
    assert order_saga(["setup", "--check"]) == 0
    for kind, rows in fresh.all().items():
        names_there = [row["name"] for row in rows]
        assert len(names_there) == len(set(names_there)), kind


def test_an_installed_package_sets_up_and_its_worker_runs_an_order(
    fresh: Api, world: World, tmp_path: Path, unique: str
) -> None:
    package = install(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(package), "ORDER_SAGA_REVISION": "of an image"}
    environment |= {"WORKER_POOL": "a pool", "WORKER_STANDBY": "1"}
    command = [sys.executable, "-m", "deployments.cli"]
    done = subprocess.run(
        [*command, "setup"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = fresh.all()
    assert [row["name"] for row in made["work_pools"]] == ["a pool"]
    assert {row["version"] for row in made["deployments"]} == {"of an image"}
    assert not any(row["pull_steps"] for row in made["deployments"])

    log = tmp_path / "worker.log"
    with log.open("w") as output:
        worker = subprocess.Popen(
            [*command, "worker"], cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        order = an_order(f"INSTALLED-{unique}")
        deployment = fresh.one("deployments", "process-order")
        run = fresh.post(f"/deployments/{deployment['id']}/create_flow_run", parameters={"order": order})
        until = time.monotonic() + 120
        while (state := fresh.get(f"/flow_runs/{run['id']}")["state"])["type"] not in ENDS:
            assert time.monotonic() < until, log.read_text()
            assert worker.poll() is None, log.read_text()
        assert state["name"] == "Completed", (state, log.read_text())
    finally:
        worker.terminate()
        worker.wait(30)
