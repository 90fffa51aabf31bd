"""What Prometheus reads: over HTTP, from real processes, parsed by the library of its makers."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from flows.process_pending_orders import process_pending_orders
from shop.intake import submit
from shop.monitoring.exposition.endpoint import Exposition, MetricsServer
from tests.integration.world import World, an_order

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(url: str, **headers: str) -> Series:
    answer = httpx.get(url, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


async def test_orders_as_prometheus_sees_them(saga: World, unique: str) -> None:
    orders = [an_order(f"GOOD-{unique}-{n}") for n in range(3)]
    orders += [an_order(f"DECLINED-{unique}", card="0000"), an_order(f"SHORT-{unique}", product="PROD-999")]
    import asyncio

    await asyncio.to_thread(submit, orders)
    await process_pending_orders(drain_seconds=0)
    with MetricsServer(Exposition("a test"), "127.0.0.1", 0) as server:
        found = await asyncio.to_thread(scrape, f"http://127.0.0.1:{server.port}/metrics")
    for k, v in sorted(found.items()):
        if not k[0].endswith("_bucket") and v:
            print(k, v)
    assert 0
