"""Another user of the machine, and a web page in somebody's browser,
get nothing from the Prefect server of `make run`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from deployments.environment import write_env_file
from deployments.local.prefect_server import PrefectServer
from deployments.local.serve_prefect import LOOPBACK
from shop.runtime.http_server import HEADER_SECONDS
from tests.waiting import TIMEOUT_FACTOR

HEALTH = {"/health", "/ready"}
"""What whoever watches the server may ask."""
LOOK = """
import json, os, pwd, sys
account = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(account.pw_gid)
os.setuid(account.pw_uid)
seen = {}
for path in json.load(sys.stdin):
    try:
        with open(path, "rb") as file:
            seen[path] = bool(file.read(1))
    except OSError:
        seen[path] = False
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def routes(prefect_api: PrefectServer) -> list[tuple[str, str]]:
    """All that the server's API offers, with an id where one belongs."""
    known = httpx.get(f"{prefect_api.url}/openapi.json", timeout=30).raise_for_status().json()["paths"]
    some = "00000000-0000-0000-0000-000000000000"
    found = [
        (method.upper(), re.sub(r"{[^}]*}", some, path))
        for path, methods in known.items()
        for method in methods
    ]
    assert len(found) > 100
    return found


@pytest.fixture
def anonymous(prefect_api: PrefectServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=prefect_api.api_url, timeout=30) as client:
        yield client


def number_of(what: str, server: PrefectServer) -> int:
    return int(
        httpx.post(f"{server.api_url}/{what}/count", auth=server.auth, json={}, timeout=30)
        .raise_for_status()
        .json()
    )


def test_nothing_is_answered_without_the_password(
    anonymous: httpx.Client, routes: list[tuple[str, str]]
) -> None:
    answers = {
        (method, path): anonymous.request(method, path, json={}).status_code
        for method, path in routes
        if path not in HEALTH
    }
    assert {route: code for route, code in answers.items() if code != httpx.codes.UNAUTHORIZED} == {}


@pytest.mark.parametrize("password", ["", "admin", "wrong", "admin:pass"])
def test_a_wrong_password_is_none(anonymous: httpx.Client, password: str) -> None:
    assert (
        anonymous.post("/flow_runs/filter", auth=("admin", password), json={}).status_code
        == httpx.codes.UNAUTHORIZED
    )


def test_nothing_is_made_or_started(anonymous: httpx.Client, prefect_api: PrefectServer) -> None:
    before = [number_of(what, prefect_api) for what in ("deployments", "flow_runs")]
    shell = {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "id"}}]}
    for path, body in (
        ("/flows/", {"name": "theirs"}),
        ("/deployments/", {"name": "theirs", "flow_id": "00000000-0000-0000-0000-000000000000", **shell}),
        (
            "/flow_runs/",
            {"flow_id": "00000000-0000-0000-0000-000000000000", "parameters": {"resolved_by": "the CEO"}},
        ),
    ):
        assert anonymous.post(path, json=body).status_code == httpx.codes.UNAUTHORIZED
    assert [number_of(what, prefect_api) for what in ("deployments", "flow_runs")] == before


@pytest.mark.parametrize(
    "hello", [None, {"type": "auth", "token": None}, {"type": "auth", "token": "admin:wrong"}]
)
async def test_events_are_not_sent(prefect_api: PrefectServer, hello: dict[str, Any] | None) -> None:
    url = prefect_api.api_url.replace("http", "ws") + "/events/out"
    wants = {"type": "filter", "filter": {"occurred": {"since": "2020-01-01T00:00:00Z"}}}
    with pytest.raises(ConnectionClosed):  # noqa: PT012
        async with asyncio.timeout(30), connect(url, subprotocols=["prefect"]) as socket:  # type: ignore[list-item]
            await socket.send(json.dumps(hello or wants))
            assert json.loads(await socket.recv()).get("type") != "auth_success"
            await socket.send(json.dumps(wants))
            pytest.fail(f"it was told {await socket.recv()!r}")


async def test_a_silent_client_is_disconnected_and_a_listening_one_is_not(prefect_api: PrefectServer) -> None:
    url = prefect_api.api_url.replace("http", "ws") + "/events/out"
    async with (
        asyncio.timeout(TIMEOUT_FACTOR * HEADER_SECONDS),
        connect(url, subprotocols=["prefect"]) as listener,
    ):  # type: ignore[list-item]
        await listener.send(json.dumps({"type": "auth", "token": prefect_api.auth_string}))
        assert json.loads(await listener.recv())["type"] == "auth_success"
        silent, writer = await asyncio.open_connection(LOOPBACK, prefect_api.port)
        with suppress(ConnectionResetError):
            assert await silent.read(1) == b""
        writer.close()
        await (await listener.ping())


class TestAPageInABrowser:
    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "evil.example:4200",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.7",
            "",
        ],
    )
    @pytest.mark.parametrize("path", ["/api/health", "/api/flow_runs/count", "/", "/ui-settings"])
    def test_that_has_another_name_for_this_machine_gets_nothing(
        self, prefect_api: PrefectServer, host: str, path: str
    ) -> None:
        answer = httpx.get(
            f"{prefect_api.url}{path}", auth=prefect_api.auth, headers={"Host": host}, timeout=30
        )
        assert answer.status_code == httpx.codes.BAD_REQUEST

    @pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
    def test_of_the_servers_own_may_call_it_by_either_name(
        self, prefect_api: PrefectServer, name: str
    ) -> None:
        origin = f"http://{name}:{prefect_api.port}"
        answer = httpx.get(
            f"{prefect_api.api_url}/health",
            headers={"Host": f"{name}:{prefect_api.port}", "Origin": origin},
            timeout=30,
        )
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (httpx.codes.OK, origin)

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "http://localhost:1", "null", "http://127.0.0.1.evil.example:4200"]
    )
    def test_from_elsewhere_may_not(self, prefect_api: PrefectServer, origin: str) -> None:
        asks = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        may = httpx.options(f"{prefect_api.api_url}/flow_runs/filter", headers=asks, timeout=30)
        response = httpx.post(
            f"{prefect_api.api_url}/flow_runs/filter",
            auth=prefect_api.auth,
            json={},
            headers={"Origin": origin},
            timeout=30,
        )
        assert "Access-Control-Allow-Origin" not in may.headers
        assert "Access-Control-Allow-Origin" not in response.headers

    @pytest.mark.parametrize("path", ["/docs", "/redoc", "/api/docs"])
    def test_that_loads_scripts_of_others_is_not_served(self, prefect_api: PrefectServer, path: str) -> None:
        assert "<script" not in httpx.get(f"{prefect_api.url}{path}", timeout=30).text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_password_is_in_no_file_or_process_that_another_user_can_read(prefect_api: PrefectServer) -> None:
    run_env = prefect_api.folder.parent / "run.env"
    write_env_file(run_env, {"PREFECT_API_AUTH_STRING": prefect_api.auth_string})
    mine = {
        "password": str(prefect_api.password_file),
        "run.env": str(run_env),
        "server": f"/proc/{prefect_api.pid}/environ",
    }
    asked = json.dumps([*mine.values(), "/proc/version"])
    done = subprocess.run(
        [sys.executable, "-c", LOOK], input=asked, capture_output=True, text=True, check=True, timeout=60
    )
    seen = json.loads(done.stdout)
    assert seen.pop("/proc/version"), "the other user can read what is for all"
    assert not any(seen.values())
    assert {stat.S_IMODE(file.stat().st_mode) for file in (prefect_api.password_file, run_env)} == {0o600}, (
        "whatever its folder is"
    )

    password = prefect_api.auth[1]
    assert not [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if password in " ".join(process.info["cmdline"] or ())
    ]
