"""Goods received over HTTP: once, or refused with problem details; real HTTP, real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from deployments.environment import environment
from tests.integration.test_web_orders import NO_SERVER, problem
from tests.integration.web import KEY, served
from tests.integration.world import World


@pytest.fixture
def web(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("ORDERS_API_KEY", KEY)
    with environment({"PREFECT_API_URL": NO_SERVER}), served() as client:
        yield client


def note(**fields: Any) -> dict[str, Any]:
    return {"reference": "DN-1", "product_id": "PROD-001", "pieces": 5, **fields}


def test_goods_are_received_once(web: httpx.Client, world: World) -> None:
    first, again = (web.post("/stock/deliveries", json=note(received_by="ann")) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == {
        "reference": "DN-1",
        "status": "received",
        "items": [{"product_id": "PROD-001", "pieces": 5, "on_hand": 105, "reserved": 0}],
    }
    assert (again.json()["status"], again.headers["idempotent-replayed"]) == ("known", "true")
    both = {"reference": "DN-2", "items": [{"product_id": "NEW", "pieces": 2, "name": "Pen"}]}
    assert web.post("/stock/deliveries", json=both).status_code == 201
    assert {p: world.stock(p) for p in ("PROD-001", "NEW")} == {"PROD-001": (105, 0), "NEW": (2, 0)}
    world.assert_books_balance()


def test_what_is_wrong_is_refused_with_its_places(web: httpx.Client, world: World) -> None:
    web.post("/stock/deliveries", json=note()).raise_for_status()
    details = problem(web.post("/stock/deliveries", json=note(pieces=6)), 409)
    assert details["type"].endswith(":delivery-conflict")
    details = problem(web.post("/stock/deliveries", json=note(reference="DN-2", product_id="NOBODY")), 409)
    assert details["type"].endswith(":unknown-product")
    items = [{"product_id": "PROD-001", "pieces": 0}, {"pieces": 1}]
    details = problem(web.post("/stock/deliveries", json={"items": items, "color": "red"}), 422)
    assert {each["pointer"] for each in details["errors"]} == {
        "#/items/0/pieces",
        "#/items/1/product_id",
        "#/color",
    }
    problem(web.post("/stock/deliveries", content=b"{", headers={"Content-Type": "application/json"}), 400)
    problem(web.post("/stock/deliveries", json=note(), headers={"Authorization": "Bearer nobody's-key"}), 401)
    problem(web.get("/stock/deliveries"), 405)
    assert world.stock("PROD-001") == (105, 0)
