"""Orders over HTTP: taken once, refused with problem details, asked about; real HTTP, real PostgreSQL."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from sqlalchemy import text

from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from flows.order_saga import ORDER_SAGA
from flows.process_pending_orders import process_pending_orders
from saga.database import sync_engine
from shop.orders.outcomes import Outcome
from shop.settings import settings
from tests.integration.test_hostile_ids import HOSTILE, NEVER_TAKEN
from tests.integration.web import KEY, served
from tests.integration.world import World, an_order

JSON = {"Content-Type": "application/json"}
NO_SERVER = "http://127.0.0.1:1/api"
"""A Prefect server that is not there: orders are taken all the same."""


@pytest.fixture
def web(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("ORDERS_API_KEY", f"another-key-of-this-shop,{KEY}")
    monkeypatch.setenv("WEB_MAX_BYTES", "20000")
    with environment({"PREFECT_API_URL": NO_SERVER}), served() as client:
        yield client


@pytest.fixture(scope="module")
def closed(postgres: EmbeddedPostgres, template_database: str) -> Iterator[httpx.Client]:
    """For requests that store nothing; after each, nothing is stored."""
    postgres.create_database("closed", template=template_database)
    values = {
        "DATABASE_URL": postgres.url("closed"),
        "ORDERS_API_KEY": KEY,
        "WEB_MAX_BYTES": "20000",
        "PREFECT_API_URL": NO_SERVER,
    }
    with environment(values), served() as client:
        yield client
    postgres.drop_database("closed")


@pytest.fixture(autouse=True)
def nothing_stored(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "closed" in request.fixturenames:
        with sync_engine(settings().database_url).connect() as connection:
            assert connection.execute(text("SELECT id FROM customer_order")).all() == []


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem details of an answer, which must be such."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    details: dict[str, Any] = answer.json()
    assert details["status"] == status
    assert details["title"]
    assert details["type"]
    return details


class TestTakingOrders:
    def test_an_order_is_stored_and_can_be_asked_about(
        self, web: httpx.Client, world: World, unique: str
    ) -> None:
        answer = web.post("/orders", json=an_order(unique))

        assert answer.status_code == 202
        assert answer.json() == {
            "order_id": unique,
            "status": "accepted",
            "ignored": [],
            "status_url": f"/orders/{unique}",
        }
        assert answer.headers["location"] == f"/orders/{unique}"
        assert world.order(unique).content["total_amount"] == "999.99"
        status = web.get(answer.headers["location"]).raise_for_status().json()
        assert (status["order_id"], status["status"], status["outcome"], status["steps"]) == (
            unique,
            "received",
            None,
            [],
        )

    def test_the_same_again_is_answered_with_the_same(
        self, web: httpx.Client, world: World, unique: str
    ) -> None:
        first, again = (
            web.post("/orders", json=an_order(unique, price=price)) for price in ("999.90", "999.9")
        )
        assert (again.status_code, again.content, again.headers["location"]) == (
            202,
            first.content,
            first.headers["location"],
        )
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert world.sql("SELECT count(*) FROM customer_order") == [(1,)]

    async def test_an_ended_order_is_reported_as_ended(
        self, saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """ "accepted" is not a new try: a rejected order stays rejected."""
        monkeypatch.setenv("ORDERS_API_KEY", KEY)
        settings.cache_clear()
        orders = {
            Outcome.COMPLETED: an_order(unique),
            Outcome.REJECTED: an_order(f"{unique}-bad", total_amount="1.00"),
            Outcome.OUT_OF_STOCK: an_order(f"{unique}-short", product="OUT-OF-STOCK"),
            Outcome.COMPENSATED: an_order(f"{unique}-declined", card="0000"),
            Outcome.NEEDS_ATTENTION: an_order(f"{unique}-stuck", card="0259", country="AQ"),
        }
        with served() as client:
            assert {client.post("/orders", json=order).status_code for order in orders.values()} == {202}
            await process_pending_orders(consumer_seconds=0)
            answers = {outcome: client.post("/orders", json=order) for outcome, order in orders.items()}
        moved = [saga.money(order["id"]) for order in orders.values()]
        for outcome, answer in answers.items():
            receipt = answer.json()
            assert (answer.status_code, receipt["status"], receipt["outcome"]) == (200, "known", outcome)
            assert receipt["order_id"] == orders[outcome]["id"]
            assert bool(receipt["reasons"]) == (outcome is not Outcome.COMPLETED)
            assert answer.headers["location"] == receipt["status_url"] == f"/orders/{receipt['order_id']}"
            assert answer.headers["idempotent-replayed"] == "true"
        assert answers[Outcome.REJECTED].json()["reasons"][0].startswith("total_amount: got 1.00")
        await process_pending_orders(consumer_seconds=0)
        assert [saga.money(order["id"]) for order in orders.values()] == moved, "nothing was tried again"
        assert {order["id"]: saga.order(order["id"]).outcome for order in orders.values()} == {
            order["id"]: outcome for outcome, order in orders.items()
        }

    def test_other_content_under_the_same_id_is_a_conflict(
        self, web: httpx.Client, world: World, unique: str
    ) -> None:
        web.post("/orders", json=an_order(unique)).raise_for_status()
        details = problem(web.post("/orders", json=an_order(unique, price="1.00")), 409)
        assert details["type"].endswith("conflict")
        assert details["errors"][0]["pointer"] == "#/id"
        assert world.order(unique).content["total_amount"] == "999.99"

    def test_fifty_at_once_are_one_order(self, web: httpx.Client, world: World, unique: str) -> None:
        together = threading.Barrier(50)

        def send(_: int) -> httpx.Response:
            together.wait(30)
            return httpx.post(
                f"{web.base_url}/orders",
                json=an_order(unique),
                headers={"Authorization": f"Bearer {KEY}"},
                timeout=60,
            )

        with ThreadPoolExecutor(50) as threads:
            answers = list(threads.map(send, range(50)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.content for answer in answers}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        assert world.sql("SELECT id FROM customer_order") == [(unique,)]

    def test_a_bad_order_with_an_id_is_taken_for_the_saga_to_reject(
        self, web: httpx.Client, world: World, unique: str
    ) -> None:
        assert web.post("/orders", json={"id": unique, "total_amount": -1}).status_code == 202
        assert world.order(unique).outcome is None

    def test_card_data_is_never_stored_nor_repeated(
        self, web: httpx.Client, world: World, unique: str
    ) -> None:
        card = "4242424242424242"
        assert web.post("/orders", json=an_order(unique, notes=f"card {card} cvc 987")).status_code == 202
        refused = an_order(
            f"{unique}-2",
            payment_info={"method": "credit_card", "number": card, "cvc": "987"},
            checkout={"id": card},
        )
        assert card not in web.post("/orders", json=refused).raise_for_status().text
        for order_id in (unique, f"{unique}-2"):
            stored = json.dumps(world.order(order_id).content)
            assert card not in stored
            assert "987" not in stored

    def test_an_id_that_would_pass_for_a_card_number_is_an_id(self, web: httpx.Client, world: World) -> None:
        """A marketplace numbers its orders: one in ten has such a check digit."""
        ids = ["4242424242424242", "6076399753379", "244-7364554-8529981", "20260121194522"]
        for order_id in ids:
            assert web.post("/orders", json=an_order(order_id)).status_code == 202
            assert web.get(f"/orders/{order_id}").raise_for_status().json()["order_id"] == order_id
        assert {row[0] for row in world.sql("SELECT id FROM customer_order")} == set(ids)

    def test_a_byte_order_mark_is_no_part_of_the_json(
        self, web: httpx.Client, world: World, unique: str
    ) -> None:
        body = b"\xef\xbb\xbf" + json.dumps(an_order(unique)).encode()
        assert web.post("/orders", content=body, headers=JSON).status_code == 202
        assert web.post("/orders", json=an_order(unique)).headers["idempotent-replayed"] == "true"
        assert world.order(unique).content["total_amount"] == "999.99"

    async def test_a_consumer_is_woken_and_the_end_is_shown(
        self, saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ORDERS_API_KEY", KEY)
        settings.cache_clear()
        with served() as client:
            for order in (an_order(unique), an_order(f"{unique}-no", country="AQ")):
                assert client.post("/orders", json=order).status_code == 202
            await process_pending_orders(consumer_seconds=0)
            shipped, undone = (
                client.get(f"/orders/{unique}{end}").raise_for_status().json() for end in ("", "-no")
            )
        assert (shipped["status"], shipped["outcome"]) == ("completed", Outcome.COMPLETED)
        assert (shipped["amount_charged"], shipped["amount_refunded"], shipped["currency"]) == (
            "999.99",
            "0.00",
            "USD",
        )
        assert (
            shipped["tracking_number"]
            == saga.sql("SELECT tracking_number FROM shipment WHERE order_id = :id", id=unique)[0][0]
        )
        assert shipped["payment_id"] == saga.ledger(unique)[0]["id"]
        assert [step["step"] for step in shipped["steps"]] == [step.name for step in ORDER_SAGA]
        assert (undone["outcome"], undone["failing_step"], undone["amount_refunded"]) == (
            Outcome.COMPENSATED,
            "fulfill_order",
            "999.99",
        )
        assert [step["step"] for step in undone["steps"] if step["undone"] == "done"] == [
            "check_inventory",
            "process_payment",
        ]
        for private in ("customer_email", "@", "Anytown", an_order("")["shipping_info"]["name"]):
            assert private not in json.dumps([shipped, undone])


class TestHostileIds:
    def test_each_is_found_where_its_location_says(
        self, web: httpx.Client, world: World, unique: str
    ) -> None:
        for made in (f"{hostile}{end}" for hostile in HOSTILE for end in ("", unique)):
            answer = web.post("/orders", json=an_order(made))
            assert answer.status_code == 202, made
            assert answer.headers["location"].isascii()
            assert web.get(answer.headers["location"]).raise_for_status().json()["order_id"] == made
            assert web.get("/orders", params={"id": made}).raise_for_status().json()["order_id"] == made
        assert web.post("/orders", json=an_order("..")).headers["location"] == "/orders?id=.."
        assert web.get("/orders?id=..").raise_for_status().json()["order_id"] == ".."
        assert world.sql("SELECT count(*) FROM customer_order") == [(2 * len(HOSTILE) + 1,)]

    def test_what_is_no_id_is_refused_with_its_place(self, closed: httpx.Client) -> None:
        for order_id in NEVER_TAKEN:
            details = problem(
                closed.post("/orders", content=json.dumps(an_order(order_id)), headers=JSON), 422
            )
            assert details["type"].endswith("unusable-order"), ascii(order_id)
            assert [each["pointer"] for each in details["errors"]] == ["#/id"], ascii(order_id)
            problem(closed.get(f"/orders/{quote(order_id, safe='', errors='replace')}"), 404)

    def test_an_unknown_order_is_not_found(self, closed: httpx.Client) -> None:
        for path in (
            "/orders/%00",
            "/orders/%ff%fe",
            "/orders/",
            "/orders/" + "x" * 300,
            "/orders//",
            "/orders/a%2Fb%0A",
            "/orders?id=%00",
        ):
            assert problem(closed.get(path), 404)["type"].endswith("no-such-order"), path


class TestBadInput:
    def test_it_is_named(self, closed: httpx.Client) -> None:
        for body, status, kind in (
            (b"", 400, "not-json"),
            (b"{", 400, "not-json"),
            (b"\xff\xfe{\x00}\x00", 400, "not-json"),
            (b'{"id": "a", "total_amount": NaN}', 400, "not-json"),
            (b'{"id": "a", "id": "b"}', 400, "not-json"),
            (b'{"id": "a", "x": ' + b"9" * 5000 + b"}", 400, "not-json"),
            (b'{"id": "a", "x": 0.' + b"9" * 5000 + b"}", 400, "not-json"),
            (b"[" * 9000 + b"]" * 9000, 400, "not-json"),
            (b"[]", 422, "unusable-order"),
            (b"null", 422, "unusable-order"),
            (b'"text"', 422, "unusable-order"),
            (b"[" * 20 + b"]" * 20, 422, "unusable-order"),
            (b"{}", 422, "unusable-order"),
            (b'{"id": {"a": 1}}', 422, "unusable-order"),
            (b'{"id": 4711}', 422, "unusable-order"),
            (b'{"id": 4711.0}', 422, "unusable-order"),
        ):
            details = problem(closed.post("/orders", content=body, headers=JSON), status)
            assert details["type"].endswith(kind), body[:40]
            assert details["detail"], body[:40]

    def test_each_place_that_is_nested_too_deeply_is_named(self, closed: httpx.Client) -> None:
        deep: Any = "x"
        for _ in range(9):
            deep = {"a/b": deep}
        details = problem(
            closed.post("/orders", json={"id": "x", "one": deep, "two": [[]], "three": deep}), 422
        )
        assert sorted(each["pointer"] for each in details["errors"]) == [
            "#/one" + "/a~1b" * 7,
            "#/three" + "/a~1b" * 7,
        ]

    def test_a_body_not_declared_as_json_is_not_read(self, closed: httpx.Client) -> None:
        for headers in ({}, {"Content-Type": "text/plain"}, JSON | {"Content-Encoding": "gzip"}):
            problem(closed.post("/orders", content=b'{"id": "x"}', headers=headers), 415)

    def test_a_body_declared_too_large_is_not_read(self, closed: httpx.Client) -> None:
        assert (
            "WEB_MAX_BYTES"
            in problem(closed.post("/orders", content=b" " * 20_001, headers=JSON), 413)["detail"]
        )

    def test_an_undeclared_large_body_is_cut_off(self, web: httpx.Client, world: World, unique: str) -> None:
        """Chunk by chunk; an honest one arrives."""

        def chunks(size: int) -> Iterator[bytes]:
            text = json.dumps(an_order(unique)).encode()
            yield text
            for _ in range((size - len(text)) // 1000):
                yield b" " * 1000

        problem(web.post("/orders", content=chunks(100_000), headers=JSON), 413)
        assert world.sql("SELECT count(*) FROM customer_order") == [(0,)]
        assert web.post("/orders", content=chunks(15_000), headers=JSON).status_code == 202

    def test_a_content_length_that_lies_is_cut_off_too(self, closed: httpx.Client) -> None:
        """Or the server itself refuses it; no request waits for it."""
        where = urlsplit(str(closed.base_url))
        with socket.create_connection((where.hostname, where.port), timeout=10) as wire:
            head = (
                f"POST /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
                "Content-Type: application/json\r\n"
            )
            wire.sendall(f"{head}Content-Length: 99999999999999999999\r\n\r\n".encode())
            assert b" 413 " in wire.recv(4000).split(b"\r\n")[0]

    def test_every_error_is_a_problem(self, closed: httpx.Client) -> None:
        for method, path, status, allowed in (
            ("DELETE", "/orders/x", 405, {"GET"}),
            ("PUT", "/orders", 405, {"GET", "POST"}),
            ("GET", "/webhooks/stripe", 405, {"POST"}),
            ("GET", "/nothing", 404, set[str]()),
            ("GET", "/orders?limit=0", 422, set[str]()),
        ):
            answer = closed.request(method, path)
            problem(answer, status)
            assert set(answer.headers.get("allow", "").split(", ")) - {""} == allowed, path

    def test_an_unexpected_error_reveals_nothing(
        self, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def breaks(order_id: str) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr("deployments.web.orders.read_status", breaks)
        details = problem(web.get("/orders/x"), 500)
        assert "secret" not in json.dumps(details)
        assert "Traceback" not in json.dumps(details)

    def test_tables_that_are_behind_are_a_problem_that_passes(self, web: httpx.Client, world: World) -> None:
        world.sql("ALTER TABLE customer_order RENAME TO gone")
        for answer in (web.get("/orders/x"), web.post("/orders", json=an_order("x"))):
            details = problem(answer, 503)
            assert "customer_order" not in json.dumps(details)
            assert "Traceback" not in json.dumps(details)
        world.sql("ALTER TABLE gone RENAME TO customer_order")


class TestKeys:
    def test_without_a_key_access_is_refused(self, closed: httpx.Client) -> None:
        bare = httpx.Client(base_url=closed.base_url)
        for given in (
            None,
            "",
            "Bearer",
            "Bearer wrong",
            "Bearer wrong é",
            f"Basic {KEY}",
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
        ):
            headers = {"Authorization": given.encode()} if given is not None else {}
            for method, path in (("POST", "/orders"), ("GET", "/orders/x"), ("GET", "/orders?id=x")):
                answer = bare.request(method, path, headers=headers, content=b"{" * 100)
                problem(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer", given

    def test_any_of_several_will_do(self, web: httpx.Client) -> None:
        assert (
            web.post(
                "/orders", json=an_order("x"), headers={"Authorization": "bearer another-key-of-this-shop"}
            ).status_code
            == 202
        )

    def test_while_none_is_set_it_explains_how(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("ORDERS_API_KEY", raising=False)
        settings.cache_clear()
        with served() as client:
            assert "ORDERS_API_KEY" in problem(client.post("/orders", json=an_order("x")), 503)["detail"]
            assert "ORDERS_API_KEY" in problem(client.get("/orders/x"), 503)["detail"]
        assert world.sql("SELECT count(*) FROM customer_order") == [(0,)]


class TestUnavailableServers:
    def test_without_a_prefect_server_orders_are_taken_at_once(
        self, web: httpx.Client, world: World, unique: str
    ) -> None:
        assert os.environ["PREFECT_API_URL"] == NO_SERVER
        for number in range(5):
            answer = web.post("/orders", json=an_order(f"{unique}-{number}"), timeout=5)
            assert answer.status_code == 202
        assert world.sql("SELECT count(*) FROM customer_order") == [(5,)]

    def test_without_a_database_it_is_a_problem_that_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
        monkeypatch.setenv("ORDERS_API_KEY", KEY)
        monkeypatch.setattr("deployments.web.orders.DATABASE_SECONDS", 0.2)
        settings.cache_clear()
        with served() as client:
            for answer in (client.post("/orders", json=an_order("x")), client.get("/orders/x")):
                assert "send the same request again" in problem(answer, 503)["detail"]
                assert int(answer.headers["retry-after"]) > 0
            problem(client.get("/ready"), 503)
            assert client.get("/health").json() == {"status": "ok"}, "a restart would not help"
        settings.cache_clear()

    def test_it_is_ready_while_the_database_answers(self, web: httpx.Client) -> None:
        assert web.get("/ready", headers={"Authorization": ""}).json() == {
            "status": "ok",
            "orders": True,
            "stripe_webhooks": False,
            "shops": [],
        }


class TestRetrying:
    async def declined(self, web: httpx.Client, order_id: str) -> None:
        web.post("/orders", json=an_order(order_id, card="0002")).raise_for_status()
        await process_pending_orders(consumer_seconds=0)

    async def test_an_order_is_paid_with_another_card(
        self, web: httpx.Client, saga: World, unique: str
    ) -> None:
        order_id = f"AGAIN/{unique} ?#%"
        await self.declined(web, order_id)
        known = web.post("/orders", json=an_order(order_id, card="0002")).json()
        assert (known["outcome"], bool(known["how_to_retry"])) == ("compensated", True)
        url = f"/orders/{quote(order_id, safe='')}"
        given = {"token": "tok_another", "requested_by": "ann", "reason": "a new card"}
        answers = [web.post(f"{url}/retry", json=given) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert [answer.json()["status"] for answer in answers] == ["accepted", "under_way"]
        assert answers[0].json() == {"order_id": order_id, "status": "accepted", "try_number": 2}
        assert answers[0].headers["location"] == url
        await process_pending_orders(consumer_seconds=0)
        status = web.get(url).json()
        assert (status["outcome"], status["try_number"], status["how_to_retry"]) == ("completed", 2, None)
        (earlier,) = status["earlier_tries"]
        assert (earlier["number"], earlier["outcome"], earlier["requested_by"]) == (1, "compensated", "ann")
        assert "tok_another" not in json.dumps(status)
        charged, refunded = saga.money(order_id)
        assert (str(charged), refunded) == ("999.99", 0)

    @pytest.mark.parametrize("order_id", ["..", "retry", "A/retry"])
    async def test_whatever_the_id_is(self, web: httpx.Client, saga: World, order_id: str) -> None:
        await self.declined(web, order_id)
        path = f"/orders/{quote(order_id, safe='')}/retry"
        answer = web.post("/orders/retry", params={"id": order_id}) if order_id == ".." else web.post(path)
        assert (answer.status_code, answer.json()["order_id"]) == (202, order_id)
        await process_pending_orders(consumer_seconds=0)
        assert [each["try_number"] for each in saga.ledger(order_id)][-2:] == [1, 2]

    async def test_what_is_refused(self, web: httpx.Client, saga: World, unique: str) -> None:
        problem(web.post(f"/orders/NOBODY-{unique}/retry"), 404)
        problem(web.post("/orders/retry", params={"id": " "}), 404)
        done, failed = f"DONE-{unique}", f"FAILED-{unique}"
        web.post("/orders", json=an_order(done)).raise_for_status()
        await self.declined(web, failed)
        assert problem(web.post(f"/orders/{done}/retry"), 409)["type"].endswith("not_retryable")
        bad = {"token": "a", "card_last4": "4242424242424242", "method": "cash", "colour": "red"}
        details = problem(web.post(f"/orders/{failed}/retry", json=bad), 422)
        assert {each["pointer"] for each in details["errors"]} >= {"#/card_last4", "#/colour"}
        details = problem(web.post(f"/orders/{failed}/retry", json={"token": "4242424242424242"}), 422)
        assert "4242" not in json.dumps(details)
        problem(web.post(f"/orders/{failed}/retry", content="[]", headers=JSON), 422)
        problem(web.post(f"/orders/{failed}/retry", content="x"), 415)
        problem(web.post(f"/orders/{failed}/retry", headers={"Authorization": ""}), 401)
        assert web.get(f"/orders/{failed}").json()["try_number"] == 1
