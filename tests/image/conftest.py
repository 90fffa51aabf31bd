"""The whole product from the image: database and gateway beside it, every other part a container."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deployments.environment import environment
from deployments.local.processes import free_port
from tests.image.containers import Role, job
from tests.image.postgres import postgres
from tests.integration.world import World


@dataclass
class Fleet:
    """The parts that run."""

    environment: dict[str, str]
    orders_key: str
    web_port: int
    world: World
    stack: ExitStack
    roles: dict[str, Role] = field(default_factory=dict)

    def start(self, name: str, *command: str, **more: str) -> Role:
        """Starts a role. It is removed at the end."""
        role = Role(name, *command, environment={**self.environment, **more})
        self.stack.callback(role.remove)
        self.roles[name] = role
        return role

    def worker(self, name: str, **more: str) -> Role:
        """Starts a worker, with a port of its own for its health."""
        port = str(free_port())
        more |= {"PREFECT_WORKER_WEBSERVER_PORT": port, "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1"}
        worker = self.start(name, "order-saga", "worker", "--with-healthcheck", "--name", name, **more)
        worker.url = f"http://127.0.0.1:{port}"
        return worker

    def job(self, *command: str, mounts: tuple[str, ...] = ()) -> str:
        return job(*command, environment=self.environment, mounts=mounts)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's system user can reach."""
    made = Path(tempfile.mkdtemp(prefix="order-saga-image-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def fleet(folder: Path) -> Iterator[Fleet]:
    """Prefect's API, its background services, the sandbox and the web app run; everything is set up."""
    api, web, gateway = free_port(), free_port(), free_port()
    password, key = f"admin:{secrets.token_hex(16)}", secrets.token_hex(16)
    with ExitStack() as stack:
        server = stack.enter_context(postgres(folder / "postgres"))
        database = f"{server}/shop"
        given = {
            "DATABASE_URL": database,
            "PREFECT_API_URL": f"http://127.0.0.1:{api}/api",
            "PREFECT_API_AUTH_STRING": password,
            "PAYMENT_GATEWAY_URL": f"http://127.0.0.1:{gateway}",
            "ORDERS_API_KEY": key,
            "WEB_PORT": str(web),
            "WEB_HOST": "127.0.0.1",
            "LEASE_SECONDS": "300",
            "DO_NOT_TRACK": "1",
        }
        world = World(database, given["PAYMENT_GATEWAY_URL"], folder)
        fleet = Fleet(given, key, web, world, stack)
        prefect = {
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(api),
            "PREFECT_SERVER_API_AUTH_STRING": password,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"{server}/prefect".replace("://", "+asyncpg://"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        fleet.start("prefect-api", "prefect", "server", "start", "--no-services", **prefect).until_ready(120)
        fleet.start("prefect-services", "prefect", "server", "services", "start", **prefect)
        fleet.start("sandbox", "order-saga", "sandbox", "--port", str(gateway)).until_ready()
        print(fleet.job("order-saga", "setup"))
        fleet.start("web", "order-saga", "web").until_ready()
        stack.enter_context(environment({"DATABASE_URL": database, "VAR_DIR": str(folder)}))
        yield fleet
