"""Measures the saga on Restate: starts the server and the service, sends orders through the ingress."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.peers.effects import Order
from benchmarks.peers.timing import Options, measure, parse, show

HYPERCORN = """
bind = "127.0.0.1:{port}"
h2_max_concurrent_streams = 2147483647
keep_alive_max_requests = 2147483647
keep_alive_timeout = 2147483647
workers = {workers}
"""
"""What Restate's documentation gives for production, with fewer workers: a machine has fewer cores."""
_SECONDS = 90


@contextmanager
def running(*, workers: int) -> Iterator[str]:
    """Starts the server, and the service in some processes. Yields the address for requests."""
    ingress, admin, node, service = _free_ports(4)
    address = "127.0.0.1:{}".format
    server = {
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_BIND_ADDRESS": address(node),
        "RESTATE_ADVERTISED_ADDRESS": f"http://{address(node)}",
        "RESTATE_INGRESS__BIND_ADDRESS": address(ingress),
        "RESTATE_ADMIN__BIND_ADDRESS": address(admin),
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LOG_FILTER": "warn",
    }
    with TemporaryDirectory(prefix="restate-", dir=os.environ.get("VAR_DIR")) as folder:
        config = Path(folder) / "hypercorn.toml"
        config.write_text(HYPERCORN.format(port=service, workers=workers))
        app = "benchmarks.peers.restate_saga:app"
        with (
            _process(
                [os.environ["RESTATE_SERVER"], "--base-dir", f"{folder}/data", "--no-logo"], folder, server
            ),
            _process([sys.executable, "-m", "hypercorn", "--config", str(config), app], folder, {}),
            httpx.Client() as client,
        ):
            _until(lambda: client.get(f"http://{address(admin)}/health").is_success)
            _until(lambda: _connects(service))
            registration = {"uri": f"http://{address(service)}"}
            _until(
                lambda: (
                    client.post(
                        f"http://{address(admin)}/deployments", json=registration, timeout=30
                    ).is_success
                )
            )
            _until(lambda: client.get(f"http://{address(ingress)}/restate/health").is_success)
            yield f"http://{address(ingress)}"


async def main(options: Options) -> dict[str, Any]:
    with running(workers=options.processes) as ingress:
        async with httpx.AsyncClient(base_url=ingress, timeout=120) as client:

            async def run(order: Order) -> str:
                # As documented: a request that is repeated with its idempotency key runs once.
                answer = await client.post(
                    "/Orders/process", json=order, headers={"idempotency-key": order["id"]}
                )
                return str(answer.raise_for_status().json())

            return await measure(run, replace(options, processes=1))


@contextmanager
def _process(command: list[str], folder: str, environment: dict[str, str]) -> Iterator[None]:
    log = Path(folder) / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield
    except BaseException:
        sys.stderr.write(log.read_text()[-2000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(condition: Any) -> None:
    end = time.monotonic() + _SECONDS
    while True:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"Restate did not answer within {_SECONDS} s")
        time.sleep(0.1)


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    show(asyncio.run(main(parse())))
