"""A local Prefect server, on the embedded PostgreSQL."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import httpx

from deployments.local.errors import StackError
from deployments.local.files import key_in, read_if_there, write_whole
from deployments.local.processes import Child, Hurry, free_port, wait_until
from deployments.local.serve_prefect import HOSTS, LOOPBACK
from shop.runtime.files import make_private

_USER = "admin"
_USUAL_PORT = 4200

PREFECT_BASICS: dict[str, str | None] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_PROFILE": None,  # the user's profiles are in the user's PREFECT_HOME
    "PREFECT_API_KEY": None,
    "PREFECT_API_AUTH_STRING": None,
    "PREFECT_SERVER_API_AUTH_STRING": None,
}
"""The environment of all processes of our own server, without settings that are meant for another server."""

TUNING = {
    # By default, runs are kept for ever.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": "604800",  # seconds
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P2D",
    # Heartbeats matter for minutes, and are most of an idle system's events. Seconds.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": '{"prefect.flow-run.heartbeat": 3600}',
    "PREFECT_SERVER_SERVICES_DB_VACUUM_BATCH_SIZE": "1000",
    # Seconds until a waiting run retries to get a slot of its deployment's limit.
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
    # With the default, one by one, the events of task runs would load the server as much as all other
    # processes do.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "2",
}
"""Settings of every Prefect server, also in deployments/docker/compose.yaml. It keeps finished runs, with
their logs and artifacts, for a week, events for two days, and deletes older ones every hour."""


class PrefectServer:
    """Prefect's server as a child process, with PREFECT_HOME in `folder` and data in `database_url` (a
    postgresql:// address).

    It requires the password in `password_file`, which the first start creates, and accepts calls from its own
    origin only. Most of its start is importing itself (about 5 s of one core); the first start also creates
    its tables (3 s).
    """

    def __init__(self, *, home: Path, folder: Path, database_url: str, logs: Path, pids: Path) -> None:
        self.folder = folder
        self._database_url = "postgresql+asyncpg://" + database_url.split("://", 1)[1]
        self._port_file = folder / "port"
        noted = read_if_there(self._port_file).strip()
        self.port = free_port(int(noted) if noted.isdigit() else _USUAL_PORT)
        self.password_file = folder / "password"
        """Contains `auth_string`; only its owner can read it."""
        self.auth_string = key_in(self.password_file, prefix=f"{_USER}:")
        """What the UI asks for, and Prefect's client has in PREFECT_API_AUTH_STRING."""
        environment: dict[str, str | None] = {
            **PREFECT_BASICS,
            "PREFECT_HOME": str(folder),
            "PREFECT_API_URL": None,
            "PREFECT_API_DATABASE_CONNECTION_URL": self._database_url,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": None,
            "PREFECT_SERVER_API_HOST": LOOPBACK,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_SERVER_API_AUTH_STRING": self.auth_string,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{host}:{self.port}" for host in HOSTS),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "true",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            **TUNING,
            # With the default, in memory, leases are lost with the server, and their slots would stay taken.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        command = [sys.executable, "-m", "deployments.local.serve_prefect"]
        self._child = Child(
            "the Prefect server",
            command,
            log=logs / "prefect-server.log",
            pid_file=pids / "prefect-server.pid",
            env=environment,
            cwd=home,
        )

    @property
    def auth(self) -> tuple[str, str]:
        """Returns user and password for HTTP basic authentication."""
        user, _, password = self.auth_string.partition(":")
        return user, password

    @property
    def url(self) -> str:
        """The UI's address."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"

    @property
    def client_environment(self) -> dict[str, str | None]:
        """Returns the environment with which a child uses this server and no other."""
        mine = {"PREFECT_API_URL": self.api_url, "PREFECT_API_AUTH_STRING": self.auth_string}
        return {**PREFECT_BASICS, "PREFECT_HOME": str(self.folder), **mine}

    def start(self, seconds: float = 180, cancelled: threading.Event | None = None) -> None:
        """Starts the server and waits until it answers. Raises StackError with the end of its log."""
        make_private(self.folder)
        self._child.start()
        with httpx.Client(timeout=2) as client:
            wait_until(
                lambda: _healthy(client, self.api_url),
                seconds,
                "the Prefect server to answer",
                child=self._child,
                cancelled=cancelled,
            )
        write_whole(self._port_file, f"{self.port}\n")

    @property
    def pid(self) -> int | None:
        return self._child.pid

    def delete_leases(self) -> None:
        """Deletes the leases of concurrency slots. Only while nothing runs that may hold one."""
        for lease in (self.folder / "concurrency_leases").glob("*"):
            lease.unlink(missing_ok=True)

    def running(self) -> bool:
        return self._child.running()

    def stop(self, hurry: Hurry | None = None) -> None:
        self._child.stop(grace=6, hurry=hurry)


def _healthy(client: httpx.Client, api_url: str) -> bool:
    try:
        return client.get(f"{api_url}/health").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def require_answer(api_url: str, seconds: float = 10) -> None:
    """Raises StackError if nothing answers at a Prefect API address that was configured."""
    try:
        with httpx.Client(timeout=2) as client:
            # Any answer will do, also a required login: Prefect's own client can log in.
            wait_until(lambda: _answers(client, api_url), seconds, "")
    except StackError as error:
        raise StackError(
            f"no Prefect server answers at {api_url}, the PREFECT_API_URL "
            "(of the environment, .env or the active Prefect profile). "
            "Start it, correct the address (it ends in /api), or unset it to start one here. "
            "If a profile sets it, `PREFECT_API_URL= make run` does that"
        ) from error


def _answers(client: httpx.Client, api_url: str) -> bool:
    try:
        return client.get(f"{api_url}/health").status_code < 500
    except httpx.HTTPError:
        return False
