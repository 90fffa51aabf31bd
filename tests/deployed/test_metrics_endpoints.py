"""Real processes over HTTP; and whatever the dashboard,
the alert rules and the documentation name is there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deployments.local.prefect_server import PrefectServer
from deployments.local.processes import Child, free_port, wait_until
from deployments.local.programs import Web, Worker
from shop.alerts.settings import AlertSettings
from shop.inventory.errors import InventoryTimeout, InventoryUnavailable
from shop.monitoring.config import WorkerMonitoring
from shop.payments.errors import PaymentGatewayUnavailable
from shop.shipping.errors import CarrierTimeout, CarrierUnavailable
from tests.conftest import HOME
from tests.integration.test_prometheus import TOKEN, Scraped, scrape
from tests.integration.world import World

FOLDER = HOME / "deployments" / "monitoring"
_NAME = re.compile(r"\b(?:order_saga|process)_[a-z_]+\b(?!\s*=)")
Started = Callable[[World, PrefectServer, Path], AbstractContextManager[str]]


@contextmanager
def worker(world: World, prefect_api: PrefectServer, folder: Path) -> Iterator[str]:
    environment = {
        **prefect_api.client_environment,
        "DATABASE_URL": world.database_url,
        "VAR_DIR": str(folder),
        "METRICS_TOKEN": TOKEN,
    }
    parts: dict[str, Any] = {
        "home": HOME,
        "logs": folder / "logs",
        "pids": folder / "run",
        "environment": environment,
    }
    working = Worker(**parts, metrics_port=free_port())
    try:
        working.start(prefect_api.api_url)
        assert working.metrics_url is not None
        yield working.metrics_url
    finally:
        working.stop()


@contextmanager
def web_app(world: World, prefect_api: PrefectServer, folder: Path) -> Iterator[str]:
    environment = {"DATABASE_URL": world.database_url, "VAR_DIR": str(folder), "METRICS_TOKEN": TOKEN}
    web = Web(home=HOME, folder=folder, logs=folder, pids=folder, environment=environment, port=free_port())
    try:
        web.start()
        yield f"{web.url}/metrics"
    finally:
        web.stop()


@contextmanager
def inventory_service(world: World, prefect_api: PrefectServer, folder: Path) -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "deployments.cli",
        "inventory-service",
        "--port",
        str(port),
        "--database-url",
        world.database_url,
    ]
    environment = {"VAR_DIR": str(folder), "INVENTORY_SERVICE_TOKEN": TOKEN}
    child = Child(
        "the inventory service",
        command,
        log=folder / "log",
        pid_file=folder / "pid",
        env=environment,
        cwd=HOME,
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        child.start()
        wait_until(answers, 60, "the inventory service", child=child)
        yield f"{url}/metrics"
    finally:
        child.stop()


def families(found: Scraped) -> dict[str, tuple[str, str]]:
    """The name of each family, as it is documented, with its type and help."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, family.documentation)
        for family in text_string_to_metric_families(found.text)
    }


def samples(found: Scraped) -> set[str]:
    """Every name that a query can use, also of series that have not begun."""
    endings = {"histogram": ("_bucket", "_sum", "_count")}
    return {
        name + ending for name, (kind, _) in families(found).items() for ending in endings.get(kind, ("",))
    }


@pytest.mark.parametrize(
    ("start", "kind"), [(worker, "worker"), (web_app, "web app"), (inventory_service, "inventory service")]
)
def test_each_process_answers_and_all_that_is_named_is_there(
    world: World, prefect_api: PrefectServer, tmp_path: Path, start: Started, kind: str
) -> None:
    with start(world, prefect_api, tmp_path) as url:
        assert httpx.get(url, timeout=10).status_code == 401
        found = scrape(url, TOKEN)
    assert found("process_info", kind=kind) == 1
    assert found("database_up") == 1
    metric_families = families(found)
    documented = {
        name: (family, what)
        for name, family, what in re.findall(
            r"^\| `(order_saga_\w+)` \| (\w+) \| [^|]* \| (.*) \|$",
            (HOME / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    ours = {name: of for name, of in metric_families.items() if name.startswith("order_saga_")}
    if kind == "inventory service":
        assert ours.items() <= documented.items()
        assert any(name.startswith("order_saga_inventory_") for name in ours)
        assert "order_saga_orders_total" not in ours
        return
    assert ours == documented
    assert named(dashboard_queries()) <= samples(found)
    assert named(rule_queries()) <= samples(found)


def named(queries: list[str]) -> set[str]:
    found = {name for query in queries for name in _NAME.findall(query)}
    assert found
    return found


def rule_queries() -> list[str]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return found


def dashboard_queries() -> list[str]:
    variables = [each["definition"] for each in dashboard()["templating"]["list"] if each["type"] == "query"]
    return [
        target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])
    ] + variables


def test_the_dashboard_can_be_imported() -> None:
    board = dashboard()
    assert board["id"] is None
    assert board["schemaVersion"] >= 36
    assert board["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]


def test_rules_are_well_formed() -> None:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for group in groups:
        for rule in group["rules"]:
            assert {"alert", "expr", "labels", "annotations"} <= rule.keys()
            assert rule["labels"]["severity"] in {"warning", "critical"}
            assert rule["annotations"]["summary"]
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert config["rule_files"] == ["alerts.yml"]


def test_thresholds_are_those_of_our_own_alerts() -> None:
    rules = {
        rule["alert"]: rule["expr"]
        for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    }
    ours, rate = AlertSettings(), WorkerMonitoring().error_rate_threshold
    for alert, threshold in {
        "OrderSagaErrorRate": rate,
        "OrderSagaStepErrorRate": rate,
        "OrderSagaOrderWaitsTooLong": ours.waiting_minutes * 60,
        "OrderSagaRecoveryBehind": ours.recovery_seconds,
    }.items():
        assert float(rules[alert].rpartition(">")[2]) == threshold, alert


def test_every_code_that_orders_are_postponed_for_has_its_rule() -> None:
    asked = " ".join(rule_queries())
    for error in (
        PaymentGatewayUnavailable,
        InventoryUnavailable,
        InventoryTimeout,
        CarrierUnavailable,
        CarrierTimeout,
    ):
        assert re.search(rf"postponed_orders{{[^}}]*\b{error.code}\b", asked), error.code


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)
def test_promtool_accepts_rules_queries_and_configuration(tmp_path: Path) -> None:
    def accepted(*arguments: str) -> None:
        done = subprocess.run(
            ["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    accepted("check", "rules", str(FOLDER / "alerts.yml"))
    accepted("check", "config", "--syntax-only", str(FOLDER / "prometheus.yml"))
    # the dashboard's queries, as rules, with what Grafana puts in
    given = {"$__rate_interval": "1m", "$__range": "6h", "$job": ".*"}
    rules = []
    for number, query in enumerate(
        query for query in dashboard_queries() if not query.startswith("label_values")
    ):
        for name, value in given.items():
            query = query.replace(name, value)  # noqa: PLW2901
        rules.append({"record": f"query:{number}", "expr": query})
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    accepted("check", "rules", str(tmp_path / "queries.yml"))


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)
def test_alerts_fire_and_end(tmp_path: Path) -> None:
    """Prometheus' own evaluation of the rules, over made-up series that two processes report equally."""

    def both(series: str, values: str) -> list[dict[str, str]]:
        name, _, labels = series.partition("{")
        more = f", {labels}" if labels else "}"
        return [
            {"series": f'{name}{{instance="{instance}"{more}', "values": values}
            for instance in ("a:1", "b:1")
        ]

    def at(minute: int, alert: str, **labels: str) -> dict[str, Any]:
        expected = [{"exp_labels": labels}] if labels else []
        return {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": expected}

    series = [
        *both(
            'order_saga_steps_total{step="process_payment", result="failed", code="payment_timeout"}',
            "0x10 0+10x20 200x40",
        ),
        *both('order_saga_steps_total{step="process_payment", result="done", code=""}', "0+90x70"),
        *both("order_saga_manual_review_orders", "0x5 1x5 0x60"),
        *both("order_saga_oldest_open_order_age_seconds", "0x10 1000x10 0x50"),
        *both("order_saga_left_behind_age_seconds", "0x10 300x10 0x50"),
        *both('order_saga_postponed_orders{code="payment_gateway_unavailable"}', "0x10 7x10 0x50"),
        # a single order that is postponed repeatedly, and later once
        *both(
            'order_saga_postponed_orders{code="inventory_unavailable"}', "0x10 1 0 1 0 1 0 1 0 1 0x30 1 0x30"
        ),
        *both(
            'order_saga_steps_total{step="check_inventory", '
            'result="postponed", code="inventory_unavailable"}',
            "0x10 0+500x20 10000x40",
        ),
        *both('order_saga_postponed_orders{code="carrier_timeout"}', "0x30 2x10 0x30"),
        *both('order_saga_postponed_orders{code="carrier_unavailable"}', "0x30 1x10 0x30"),
        *both('order_saga_processes{kind="worker", state="alive"}', "1x30 0x10 1x30"),
        *both('order_saga_process_info{kind="worker"}', "1x70"),
    ]
    tests = [
        at(9, "OrderSagaErrorRate"),
        at(30, "OrderSagaErrorRate", severity="critical"),
        at(65, "OrderSagaErrorRate"),
        at(30, "OrderSagaStepErrorRate", severity="warning", step="process_payment"),
        at(4, "OrderSagaNeedsAttention"),
        at(8, "OrderSagaNeedsAttention", severity="critical"),
        at(15, "OrderSagaNeedsAttention"),
        at(15, "OrderSagaOrderWaitsTooLong", severity="warning"),
        at(30, "OrderSagaOrderWaitsTooLong"),
        at(15, "OrderSagaRecoveryBehind", severity="critical"),
        at(30, "OrderSagaRecoveryBehind"),
        at(15, "OrderSagaPaymentGatewayUnavailable", severity="critical"),
        at(30, "OrderSagaPaymentGatewayUnavailable"),
        at(12, "OrderSagaInventoryServiceUnavailable"),
        at(17, "OrderSagaInventoryServiceUnavailable", severity="critical"),
        *(at(minute, "OrderSagaInventoryServiceUnavailable") for minute in (30, 52, 53, 54, 55)),
        at(15, "OrderSagaCarrierUnavailable"),
        at(35, "OrderSagaCarrierUnavailable", severity="critical"),
        at(50, "OrderSagaCarrierUnavailable"),
        at(20, "OrderSagaNoWorker"),
        at(38, "OrderSagaNoWorker", severity="critical"),
        at(50, "OrderSagaNoWorker"),
        at(50, "OrderSagaNothingToScrape"),
    ]
    # what an alert says is not compared: only which fire
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    suite = {"rule_files": ["rules.yml"], "evaluation_interval": "1m"}
    suite["tests"] = [{"interval": "1m", "input_series": series, "alert_rule_test": tests}]  # type: ignore[assignment]
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(suite))
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_metrics_that_cannot_be_listened_for_stop_no_worker(database_url: str) -> None:
    """Two workers on one machine, with the same settings."""
    code = (
        "import sys, deployments.worker as worker\n"
        "with worker.working():\n"
        "    with worker.working(): print('working')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HOME,
        env={**os.environ, "METRICS_PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "working\n"), done.stderr
    assert "metrics are not available" in done.stderr
