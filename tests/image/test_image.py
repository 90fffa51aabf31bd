"""The image keeps what docs/how-to/image.md promises: it is small, and every role works, and ends in time."""

from __future__ import annotations

import json
import subprocess
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.image.build import HOME
from tests.image.conftest import Fleet
from tests.image.containers import STOP_SECONDS, get, image, job
from tests.integration.world import an_order

MOST_BYTES = 350_000_000
PRODUCT, PRICE, STOCK = "PEN-BLUE", "12.50", 1_000


def order(order_id: str, **fields: Any) -> dict[str, Any]:
    return an_order(order_id, product=PRODUCT, price=PRICE, **fields)


def take_in(fleet: Fleet, orders: list[dict[str, Any]]) -> None:
    """A shop sends its orders to the web app."""
    headers = {"Authorization": f"Bearer {fleet.orders_key}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{fleet.web_port}", headers=headers, trust_env=False) as web:
        for each in orders:
            assert web.post("/orders", json=each, timeout=30).status_code == 202


def ended(fleet: Fleet, orders: list[dict[str, Any]]) -> bool:
    rows = fleet.world.sql("SELECT id FROM customer_order WHERE outcome IS NOT NULL")
    return {each["id"] for each in orders} <= {row.id for row in rows}


class TestImage:
    def test_its_size(self) -> None:
        size = image()["Size"]
        print(f"  {size / 1e6:.0f} MB")
        assert size < MOST_BYTES

    def test_how_it_describes_itself(self) -> None:
        found = image()
        revision = found["Labels"]["org.opencontainers.image.revision"]
        subprocess.run(["git", "-C", str(HOME), "cat-file", "-e", f"{revision}^{{commit}}"], check=True)
        assert found["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
        assert f"ORDER_SAGA_REVISION={revision}" in found["Config"]["Env"]
        assert found["User"] == "10001:10001"
        assert found["Config"]["Entrypoint"] == ["tini", "--"]
        assert found["Healthcheck"]["Test"] == ["CMD", "order-saga-health"]

    def test_without_a_command_it_prints_its_help(self) -> None:
        assert "order-saga COMMAND" in job(environment={})

    @pytest.mark.parametrize("module", ["pip", "ensurepip"])
    def test_nothing_can_be_installed_in_it(self, module: str) -> None:
        code = f"import importlib.util; print(importlib.util.find_spec({module!r}))"
        assert job("python", "-c", code, environment={}) == "None"

    def test_there_is_no_compiler_and_no_pip_in_it(self) -> None:
        names = "pip pip3 cc gcc c++ g++ clang ld as make strip"
        look = f"for each in {names}; do command -v $each || true; done"
        assert not job("sh", "-c", look, environment={})

    def test_it_writes_only_to_its_volume_and_to_tmp(self) -> None:
        look = "import os; print(*[each for each in os.listdir('/') if os.access('/' + each, os.W_OK)])"
        assert set(job("python", "-c", look, environment={}).split()) <= {"tmp", "dev"}
        assert job("id", "-u", environment={}) == "10001"
        job("sh", "-c", "touch /var/lib/order-saga/a /tmp/a", environment={})

    def test_what_the_roles_import_is_compiled(self) -> None:
        """Anything else costs each process seconds."""
        code = (
            "import sys, deployments.worker, deployments.web.app, flows.process_order;"
            "from importlib.util import cache_from_source; from pathlib import Path;"
            "found = [getattr(m, '__file__', None) or '' for m in list(sys.modules.values())];"
            "loaded = [each for each in found if each.endswith('.py')];"
            "print(len(loaded), [each for each in loaded if not Path(cache_from_source(each)).exists()])"
        )
        number, _, missing = job("python", "-c", code, environment={}).partition(" ")
        assert int(number) > 1_000
        assert missing == "[]"


def test_deployments_have_the_revision_as_their_version(fleet: Fleet) -> None:
    address, password = fleet.environment["PREFECT_API_URL"], fleet.environment["PREFECT_API_AUTH_STRING"]
    auth = (password.partition(":")[0], password.partition(":")[2])
    answer = httpx.post(f"{address}/deployments/filter", json={}, auth=auth, timeout=30, trust_env=False)
    versions = {each["version"] for each in answer.raise_for_status().json()}
    assert versions == {image()["Labels"]["org.opencontainers.image.revision"]}


def test_prefects_server_serves_its_ui(fleet: Fleet) -> None:
    """It copies the UI when it starts, and serves none if it may not."""
    address = fleet.environment["PREFECT_API_URL"].removesuffix("/api")
    answer = httpx.get(
        f"{address}/dashboard", headers={"Accept": "text/html"}, timeout=30, trust_env=False
    ).raise_for_status()
    assert "<html" in answer.text


def test_orders_are_processed_and_the_books_balance(fleet: Fleet, folder: Path) -> None:
    """Through the web app, and one by the command, whose file the container is given."""
    world, worker = fleet.world, fleet.worker("worker-1")
    worker.until_ready()
    assert get(f"{worker.url}/ready") == (200, {"status": "ok", "reasons": []})
    assert get(f"{worker.url}/health")[0] == 200
    fleet.job("order-saga", "receive", PRODUCT, str(STOCK), "--name", "Blue pen")
    good = [order(f"good-{i}") for i in range(10)]
    declined = [order(f"declined-{i}", card="0000") for i in range(2)]
    elsewhere = [order(f"unshippable-{i}", country="AQ") for i in range(2)]
    take_in(fleet, [*good, *declined, *elsewhere])
    own = order("own-run")
    (folder / "order.json").write_text(json.dumps(own))
    (folder / "order.json").chmod(0o644)
    printed = fleet.job(
        "order-saga", "submit", "/order.json", "--own-run", mounts=(f"{folder / 'order.json'}:/order.json",)
    )
    assert "completed" in printed.lower()
    everything = [*good, *declined, *elsewhere, own]
    worker.until(lambda: ended(fleet, everything), 120, "the orders to end")
    for each in [*good, own]:
        assert world.order(each["id"]).outcome == "completed"
        assert world.money(each["id"]) == (Decimal(PRICE), 0)
        assert world.shipments(each["id"]) == 1
    for each in declined:
        assert world.order(each["id"]).outcome == "compensated"
        assert world.money(each["id"]) == (0, 0)
    for each in elsewhere:
        assert world.order(each["id"]).outcome == "compensated"
        assert world.money(each["id"]) == (Decimal(PRICE), Decimal(PRICE))
    assert world.stock(PRODUCT) == (STOCK - len(good) - 1, 0)
    world.assert_books_balance()
    fleet.job("order-saga", "books")


def test_a_worker_ends_in_time_and_another_continues(fleet: Fleet) -> None:
    """In the middle of payments that last longer than it has. The leases would last for five minutes."""
    first, world = fleet.roles["worker-1"], fleet.world
    world.misbehave(latency_ms=40_000)
    orders = [order(f"slow-{i}") for i in range(10)]
    take_in(fleet, orders)
    held = "SELECT id FROM customer_order WHERE lease_id IS NOT NULL"
    first.until(lambda: len(world.sql(held)) == len(orders), 60, "the orders to be claimed")
    took, code = first.stop()
    print(f"  {first.name} ended after {took:.1f} s with {code}")
    assert took < STOP_SECONDS
    assert code != 137, "it was killed"
    assert not world.sql(held), "nothing waits for its lease"
    world.misbehave(latency_ms=0)
    second = fleet.worker("worker-2")
    second.until_ready()
    second.until(lambda: ended(fleet, orders), 120, "the orders to end")
    for each in orders:
        assert world.money(each["id"]) == (Decimal(PRICE), 0)
        assert world.shipments(each["id"]) == 1
    world.assert_books_balance()


def test_ready_depends_on_others_and_alive_does_not(fleet: Fleet) -> None:
    """Without the Prefect server: the worker is not ready, and should not be restarted."""
    worker, api = fleet.roles["worker-2"], fleet.roles["prefect-api"]
    took, code = api.stop()
    print(f"  {api.name} ended after {took:.1f} s with {code}")
    assert took < STOP_SECONDS
    assert code != 137
    worker.until(lambda: not worker.healthy(), 60, "the worker not to be ready")
    assert worker.healthy("--live")
    assert fleet.roles["web"].healthy(), "the web app stores orders without it"


@pytest.mark.parametrize("name", ["web", "worker-2", "prefect-services", "sandbox"])
def test_every_other_role_ends_in_time(fleet: Fleet, name: str) -> None:
    role = fleet.roles[name]
    began = time.monotonic()
    took, code = role.stop()
    print(f"  {name} ended after {took:.1f} s with {code}")
    assert time.monotonic() - began < STOP_SECONDS
    assert code != 137, role.logs()[-4_000:]
