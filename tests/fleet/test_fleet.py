"""compose.yaml as processes: a thousand orders in both lanes, while each of its parts is killed in turn and a
worker is cut off from the network. Checked against the gateway's ledger, the stock and the books."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from rich.table import Table

from deployments.environment import environment
from deployments.trigger import start_own_run
from saga.database import sync_engine
from shop.inventory.catalogue import load_sample_catalogue
from shop.orders import report
from shop.orders.intake_content import take_in
from shop.payments.gateways import close_gateway
from shop.runtime.sync import run_sync
from shop.settings import settings
from tests.faults.witness import all_ended, assert_right, due, mixed, open_orders_report, stock_up
from tests.fleet.fleet import Fleet
from tests.fleet.load import Load, Probe, Sent
from tests.integration.world import World

pytestmark = pytest.mark.slow

OWN_RUNS = 20
"""One of so many orders is a run of its own (`process-order`); the others go through the batch lane."""
PARTS = [
    "prefect-1",
    "prefect-2",
    "prefect-services",
    "proxy",
    "redis",
    "worker-1",
    "web",
    "sandbox",
    "postgres",
]
"""What is killed, each by SIGKILL of all its processes."""
CUT_SECONDS = 20
"""How long a worker is cut off: longer than its lease."""
_PACE_SECONDS = 0.2
"""Between two orders; so a thousand take 200 s."""
_LEFT_SECONDS = 300
_IN_FLIGHT = timedelta(seconds=2)
"""Seconds. An order that was sent this long before a fault is still in progress."""
_UNSENT = "SELECT 1 FROM outbox WHERE sent_at IS NULL LIMIT 1"


@dataclass
class Fault:
    name: str
    at: datetime
    began: float
    """On the monotonic clock, as the next."""
    ended: float
    """When the part was healthy again, or the network whole."""


@contextmanager
def using(fleet: Fleet) -> Iterator[World]:
    """This process's settings are those of the fleet."""
    address = {name: container.address for name, container in fleet.containers.items()}
    url = fleet.secret("database-url").replace("@postgres:", f"@{address['postgres']}:")
    values = {
        "DATABASE_URL": url,
        "PREFECT_API_URL": f"http://{address['proxy']}:4200/api",
        "PREFECT_API_AUTH_STRING": fleet.secret("prefect-auth"),
        "PAYMENT_GATEWAY_URL": f"http://{address['sandbox']}:8420",
        "VAR_DIR": str(fleet.folder / "var"),
    }
    with environment(values):
        try:
            yield World(url, values["PAYMENT_GATEWAY_URL"], fleet.folder / "var")
        finally:
            run_sync(close_gateway)
            sync_engine(settings().database_url).dispose()


def over_http(fleet: Fleet) -> Callable[[dict[str, Any]], None]:
    client = httpx.Client(
        base_url=f"http://{fleet.containers['web'].address}:8430",
        headers={"Authorization": f"Bearer {fleet.secret('orders-api-key')}"},
        timeout=10,
    )

    def take(order: dict[str, Any]) -> None:
        client.post("/orders", json=order).raise_for_status()

    return take


def as_own_run(order: dict[str, Any]) -> None:
    start_own_run(take_in(order))


def test_no_part_that_dies_loses_an_order_or_repeats_an_effect(
    world_dir: Path, report_line: Callable[[str], None], request: pytest.FixtureRequest, unique: str
) -> None:
    (folder := world_dir / "fleet").mkdir()  # PostgreSQL, as another user, reaches this
    number = int(request.config.getoption("--fleet-orders"))
    progress = request.config.pluginmanager.get_plugin("terminalreporter")

    def say(line: str) -> None:
        progress.write_line(line)

    with Fleet(folder, "demo", say, later=frozenset({"samples"})) as fleet, using(fleet) as world:
        load_sample_catalogue(world.database_url)
        stock_up(world)
        orders = mixed(unique, number, flaky=False)
        faults, sent, probes = withstand(fleet, orders, say)
        try:
            fleet.wait_until(lambda: all_ended(world, orders), "the last orders", _LEFT_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{open_orders_report(world)}") from None
        assert_right(world, orders)
        fleet.wait_until(lambda: not world.sql(_UNSENT), "the last messages", _LEFT_SECONDS)
        assert_notified_once(world, orders)
        ends = {row.id: row.finished_at for row in world.sql("SELECT id, finished_at FROM customer_order")}
        report_line("\n" + table_of(faults, sent, ends, probes))
        outcomes = Counter(str(end.outcome) for end in report.read(list(orders)).values())
        report_line(", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common()))
        fleet.start("samples")
        samples = fleet.containers["samples"]
        assert samples.ended(_LEFT_SECONDS) == 0, samples.log(100)
        stops = {name: fleet.containers[name].stop() for name in ("worker-1", "worker-2", "web", "prefect-1")}
        report_line("stopped after SIGTERM: " + ", ".join(f"{name} {s:.1f} s" for name, s in stops.items()))
        assert max(stops.values()) < 30


def withstand(
    fleet: Fleet, orders: dict[str, Any], say: Callable[[str], None]
) -> tuple[list[Fault], dict[str, dict[str, Sent]], dict[str, Probe]]:
    """Sends all orders; meanwhile, each time another share of them has been sent, the next fault happens."""
    own = dict(itertools.islice(orders.items(), 0, None, OWN_RUNS))
    batch = {order_id: order for order_id, order in orders.items() if order_id not in own}
    loads = {
        "batch lane": Load(over_http(fleet), iter(batch.values()), _PACE_SECONDS * len(orders) / len(batch)),
        "own runs": Load(as_own_run, iter(own.values()), _PACE_SECONDS * len(orders) / len(own)),
    }
    proxy, web = fleet.containers["proxy"].address, fleet.containers["web"].address
    probes = {
        "Prefect": Probe(f"http://{proxy}:4200/api/ready"),
        "web app": Probe(f"http://{web}:8430/health"),
    }
    what: list[tuple[str, Callable[[], None]]] = [(name, partial(killed, fleet, name)) for name in PARTS]
    what.append(("worker-2, cut off", partial(cut_off, fleet, "worker-2")))
    faults = [Fault("(none)", datetime.now(UTC), time.monotonic(), time.monotonic())]
    with ExitStack() as stack:
        for each in (*loads.values(), *probes.values()):
            stack.enter_context(each.running())

        def sent() -> int:
            return sum(len(load.sent) for load in loads.values())

        for place, (name, happen) in enumerate(what, start=1):
            share = len(orders) * place // (len(what) + 1)
            fleet.wait_until(partial(_is_at_least, sent, share), f"{share} orders to be sent", _LEFT_SECONDS)
            at, began = datetime.now(UTC), time.monotonic()
            happen()
            faults.append(Fault(name, at, began, time.monotonic()))
            say(f"{name}: healthy again after {faults[-1].ended - began:.1f} s")
        fleet.wait_until(partial(_is_at_least, sent, len(orders)), "all orders to be sent", _LEFT_SECONDS)
    return faults, {name: load.sent for name, load in loads.items()}, probes


def _is_at_least(count: Callable[[], int], least: int) -> bool:
    return count() >= least


def killed(fleet: Fleet, name: str) -> None:
    """Kills the part. Returns when it is healthy again."""
    container = fleet.containers[name]
    starts = container.starts
    container.kill()
    fleet.wait_until(lambda: container.starts > starts, f"{name} to be started again")
    if container.service.get("healthcheck"):
        fleet.wait_until(container.healthy, f"{name} to be healthy again")


def cut_off(fleet: Fleet, name: str) -> None:
    fleet.network.cut(name)
    try:
        time.sleep(CUT_SECONDS)  # the duration of the fault itself
    finally:
        fleet.network.heal(name)
    fleet.wait_until(fleet.containers[name].healthy, f"{name} to be healthy again")


def assert_notified_once(world: World, orders: dict[str, Any]) -> None:
    """Each customer has had each mail that is due, once."""
    ends = report.read(list(orders))
    wanted = Counter((order_id, kind) for order_id, end in ends.items() for kind in due(end))
    sent = world.sql("SELECT order_id, kind FROM outbox WHERE sent_at IS NOT NULL")
    assert Counter((row.order_id, row.kind) for row in sent) == wanted


def table_of(
    faults: list[Fault], sent: dict[str, dict[str, Sent]], ends: dict[str, datetime], probes: dict[str, Probe]
) -> str:
    """Returns how long each fault was felt: by callers of the addresses, and by the orders that were sent
    from shortly before it until shortly before the next."""
    table = Table(title="How long each fault was felt, in seconds", title_justify="left")
    table.add_column("killed", no_wrap=True)
    for column in (
        "healthy again",
        *(f"{name} unavailable" for name in probes),
        *(f"slowest, {name}" for name in sent),
    ):
        table.add_column(column, justify="right")
    for fault, following in itertools.zip_longest(faults, faults[1:]):
        after = following.began if following else time.monotonic()
        row = [f"{fault.ended - fault.began:.1f}"]
        row += [f"{probe.longest(fault.began - 1, after):.1f}" for probe in probes.values()]
        for orders in sent.values():
            times = [
                (ends[order_id] - each.at).total_seconds()
                for order_id, each in orders.items()
                if fault.at <= each.at + _IN_FLIGHT
                and (following is None or each.at + _IN_FLIGHT < following.at)
            ]
            row.append(f"{max(times, default=0):.1f}")
        table.add_row(fault.name, *row)
    console = Console(width=120, record=True, file=StringIO())
    console.print(table)
    return console.export_text()
