"""`order-saga-health` finds out by the command line of the container what to ask, and says how it is."""

from __future__ import annotations

import subprocess
import sys
from http import HTTPStatus
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from deployments.health import Probe, probe
from shop.runtime.http_server import ServedInThread, listen

HOME = Path(__file__).resolve().parents[2]
WORKER = Probe("127.0.0.1", 8080, "/health", "/ready")


@pytest.mark.parametrize(
    ("command", "environment", "expected"),
    [
        ("tini -- order-saga worker --with-healthcheck", {}, WORKER),
        ("/opt/bin/python /opt/bin/order-saga worker --name a --with-healthcheck", {}, WORKER),
        (
            "order-saga worker --with-healthcheck",
            {"PREFECT_WORKER_WEBSERVER_PORT": "9000", "PREFECT_WORKER_WEBSERVER_HOST": "10.0.0.1"},
            Probe("10.0.0.1", 9000, "/health", "/ready"),
        ),
        ("tini -- order-saga worker", {}, None),
        ("tini -- order-saga web", {"WEB_HOST": "0.0.0.0"}, Probe("127.0.0.1", 8430, "/health", "/ready")),
        (
            "tini -- order-saga web --port=9001",
            {"WEB_PORT": "9000"},
            Probe("127.0.0.1", 9001, "/health", "/ready"),
        ),
        ("tini -- order-saga sandbox --port 9002", {}, Probe("127.0.0.1", 9002, "/health", "/health")),
        (
            "tini -- prefect server start --no-services --host 0.0.0.0",
            {},
            Probe("127.0.0.1", 4200, "/api/health", "/api/ready"),
        ),
        (
            "tini -- prefect server start",
            {"PREFECT_SERVER_API_PORT": "9003", "PREFECT_SERVER_API_BASE_PATH": "/v2"},
            Probe("127.0.0.1", 9003, "/v2/health", "/v2/ready"),
        ),
        ("tini -- prefect server services start", {}, None),
        ("tini -- order-saga migrate", {}, None),
        ("tini -- order-saga", {}, None),
        ("sh -c sleep", {}, None),
    ],
)
def test_where_a_role_answers(command: str, environment: dict[str, str], expected: Probe | None) -> None:
    assert probe(command.split(), environment) == expected


def test_a_role_in_a_shell_is_found() -> None:
    assert probe(["sh", "-c", "exec order-saga web --port 9001"], {}) == Probe(
        "127.0.0.1", 9001, "/health", "/ready"
    )


def test_what_is_no_role_is_not_healthy() -> None:
    assert run("sh", "-c", "sleep 9")[0] == 1
    assert run("order-saga", "migrate")[0] == 0, "a job is healthy while it runs"


def run(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "deployments.health", *arguments],
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_exit_code_and_the_answer() -> None:
    def live(_: object) -> JSONResponse:
        return JSONResponse({})

    def ready(_: object) -> JSONResponse:
        return JSONResponse({"reasons": ["a reason"]}, HTTPStatus.SERVICE_UNAVAILABLE)

    listener = listen(0)
    web = ("order-saga", "web", "--port", str(listener.getsockname()[1]))
    with ServedInThread(Starlette(routes=[Route("/health", live), Route("/ready", ready)]), listener):
        assert run("--live", *web) == (0, "200 {}\n")
        code, output = run(*web)
        assert code == 1
        assert "a reason" in output
    assert run(*web)[0] == 1, "nobody answers"
    assert run("order-saga", "migrate")[0] == 0, "it runs, and that is all there is to know"


def test_it_loads_nothing_heavy() -> None:
    """It runs every few seconds, beside the role."""
    code = "import sys, deployments.health; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"prefect", "sqlalchemy", "httpx", "cyclopts", "fastapi"} & set(done.stdout.split())
