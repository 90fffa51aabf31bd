"""Every command uses the server of the active Prefect profile, with the profile's login."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deployments.local.prefect_server import PREFECT_BASICS, PrefectServer
from tests.conftest import HOME
from tests.integration.world import World, an_order

SECONDS = 120


class Witness(ThreadingHTTPServer):
    """A server that notes the login of each request, and refuses it."""

    daemon_threads = True

    def __init__(self) -> None:
        self.logins: list[str] = []
        witness = self

        class Handler(BaseHTTPRequestHandler):
            def _refuse(self) -> None:
                login = self.headers.get("Authorization")
                if login or not self.path.endswith("/admin/version"):  # `check` tries that without one, too
                    witness.logins.append(login or "none")
                self.send_response(401)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = do_PATCH = do_DELETE = _refuse  # noqa: N815  (the library's names)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def witness() -> Iterator[Witness]:
    with Witness() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def logged_in(tmp_path: Path, world: World) -> Callable[..., dict[str, str]]:
    """Returns an environment in which only the active profile names a server."""

    def log_in(**values: str) -> dict[str, str]:
        home = tmp_path / "home"
        home.mkdir()
        lines = [
            'active = "mine"',
            "[profiles.mine]",
            *(f'{name} = "{value}"' for name, value in values.items()),
        ]
        (home / "profiles.toml").write_text("\n".join(lines))
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return {**ours, "PREFECT_HOME": str(home), "DO_NOT_TRACK": str(PREFECT_BASICS["DO_NOT_TRACK"])}

    return log_in


def order_saga(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli", *arguments],
        cwd=HOME,
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@contextmanager
def worker(env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "worker"],
            cwd=HOME,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def order_file(tmp_path: Path, order_id: str) -> str:
    file = tmp_path / "orders.json"
    file.write_text(json.dumps([an_order(order_id)]))
    return str(file)


def test_with_a_password(
    world: World,
    prefect_api: PrefectServer,
    logged_in: Callable[..., dict[str, str]],
    tmp_path: Path,
    unique: str,
) -> None:
    env = logged_in(PREFECT_API_URL=prefect_api.api_url, PREFECT_API_AUTH_STRING=prefect_api.auth_string)
    done = order_saga("setup", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    log = tmp_path / "worker.log"
    with worker(env, log):
        done = order_saga("submit", order_file(tmp_path, f"PROFILE-{unique}"), "--own-run", env=env)
        assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
        done = order_saga("check", env=env)
        assert prefect_api.api_url in "".join(done.stdout.split()), done.stdout
    assert world.charges(f"PROFILE-{unique}") == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [(["setup", "--wait", "0"], 2), (["check"], 1), (["submit", "FILE", "--own-run"], None)],
)
def test_with_a_key(
    witness: Witness,
    world: World,
    logged_in: Callable[..., dict[str, str]],
    tmp_path: Path,
    unique: str,
    command: list[str],
    code: int | None,
) -> None:
    env = logged_in(PREFECT_API_URL=f"http://127.0.0.1:{witness.server_port}/api", PREFECT_API_KEY="pnu_key")
    file = order_file(tmp_path, f"KEY-{unique}")
    arguments = [file if each == "FILE" else each for each in command]
    if code is None:  # no worker processes the order
        arguments += ["--timeout", "1"]
    done = order_saga(*arguments, env=env)
    assert set(witness.logins) == {"Bearer pnu_key"}, done.stdout + done.stderr
    assert code in {None, done.returncode}, done.stdout + done.stderr
    assert "pnu_key" not in done.stdout + done.stderr


def test_a_worker_with_a_key(
    witness: Witness, world: World, logged_in: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    env = logged_in(PREFECT_API_URL=f"http://127.0.0.1:{witness.server_port}/api", PREFECT_API_KEY="pnu_key")
    with worker(env, tmp_path / "worker.log") as process:
        until = time.monotonic() + SECONDS
        while not witness.logins and process.poll() is None and time.monotonic() < until:
            threading.Event().wait(0.05)
    assert set(witness.logins) == {"Bearer pnu_key"}, (tmp_path / "worker.log").read_text()
