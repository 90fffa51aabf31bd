"""A local Prefect server, on the embedded PostgreSQL, and what `make run` registers with it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from deployments.automations import remove_triggers, triggers
from deployments.errors import StackError
from deployments.local.files import key_in, read_if_there, tail, write_whole
from deployments.local.processes import free_port, wait_until
from deployments.local.programs import Preloaded, Program, answers, usual_port
from deployments.local.serve_prefect import HOSTS, LOOPBACK
from deployments.prefect_file import FILE, described, values
from deployments.setup.registered import remove_former
from deployments.setup.server import client, every
from shop.runtime.files import make_private
from shop.settings import settings

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


class PrefectServer(Program):
    """Prefect's server as a child process, with PREFECT_HOME in `folder` and data in `database_url` (a
    postgresql:// address).

    It requires the password in `password_file`, which the first start creates, and accepts calls from its own
    origin only. Most of its start is importing itself (about 5 s of one core); the first start also creates
    its tables (3 s).
    """

    grace = 6

    def __init__(self, *, home: Path, folder: Path, database_url: str, logs: Path, pids: Path) -> None:
        self.folder = folder
        self._database_url = "postgresql+asyncpg://" + database_url.split("://", 1)[1]
        self._port_file = folder / "port"
        self.port = free_port(usual_port(self._port_file, _USUAL_PORT))
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
        command = ["deployments.local.serve_prefect"]
        where = {"home": home, "logs": logs, "pids": pids}
        super().__init__("the Prefect server", "prefect-server", command, environment=environment, **where)

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
        self._wait_for_answer(f"{self.api_url}/health", seconds, cancelled)
        write_whole(self._port_file, f"{self.port}\n")

    def delete_leases(self) -> None:
        """Deletes the leases of concurrency slots. Only while nothing runs that may hold one."""
        for lease in (self.folder / "concurrency_leases").glob("*"):
            lease.unlink(missing_ok=True)


def require_answer(api_url: str, seconds: float = 10) -> None:
    """Raises StackError if nothing answers at a Prefect API address that was configured."""
    try:
        with httpx.Client(timeout=2) as http:
            # Any answer will do, also a required login: Prefect's own client can log in.
            wait_until(lambda: answers(http, f"{api_url}/health", 499), seconds, "")
    except StackError as error:
        raise StackError(
            f"no Prefect server answers at {api_url}, the PREFECT_API_URL "
            "(of the environment, .env or the active Prefect profile). "
            "Start it, correct the address (it ends in /api), or unset it to start one here. "
            "If a profile sets it, `PREFECT_API_URL= make run` does that"
        ) from error


def tidy_up() -> None:
    """Cleans up what an earlier stop left on our own server, before the worker starts: deletes runs that were
    scheduled for the downtime, reschedules runs that people started, marks the others as crashed, and frees
    all slots.

    Run it only while no worker runs: nothing can be running then, because the worker and its processes were
    stopped with the server.
    """
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import FlowRun, State, StateType
    from prefect.states import AwaitingRetry, Cancelled, Crashed

    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[settings().workers.pool]))
    with client() as server:

        def runs(*types: StateType) -> list[FlowRun]:
            states = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))))
            return list(every(server.read_flow_runs, flow_run_filter=states, work_pool_filter=pool))

        for run in runs(StateType.SCHEDULED):
            due = run.expected_start_time
            if run.auto_scheduled and due is not None and due < datetime.now(UTC):
                server.delete_flow_run(run.id)
        for run in runs(StateType.PENDING, StateType.RUNNING, StateType.CANCELLING):
            why = "Its worker was stopped"
            if run.state_type == StateType.CANCELLING:
                state: State[Any] = Cancelled(message=f"{why}.")
            elif run.auto_scheduled:
                state = Crashed(message=f"{why}. The next scheduled run continues.")
            else:  # a person started it: the retry continues from the journal
                state = AwaitingRetry(message=f"{why}: it continues now.")
            server.set_flow_run_state(run.id, state, force=True)
        for limit in every(server.read_global_concurrency_limits):
            if limit.active_slots:
                server.update_global_concurrency_limit(
                    limit.name, GlobalConcurrencyLimitUpdate(active_slots=0)
                )


class Deployments:
    """The deployments of prefect.yaml on one server. Registering takes seconds, so it is skipped if nothing
    has changed.

    `home` is the project's folder, `state` the file that stores what was registered where.
    """

    def __init__(
        self, *, home: Path, state: Path, logs: Path, pids: Path, environment: Mapping[str, str | None]
    ) -> None:
        self._home, self._state = home, state
        self._values = values(home)
        arguments = ["deploy", "--all", "--prefect-file", str(FILE)]
        env = {"PREFECT_CLI_WRAP_LINES": "false", **environment, **self._values}
        self._command = Preloaded(
            "prefect deploy", "deploy", arguments, home=home, logs=logs, pids=pids, environment=env
        )

    def prepare(self, api_url: str) -> None:
        """Starts loading what registering needs, if it is probably needed."""
        if self._known(api_url) is None:
            self._command.prepare()

    def register(self, api_url: str, seconds: float = 180, cancelled: threading.Event | None = None) -> bool:
        """Registers the deployments unless they are up to date. Returns whether it did.

        Raises StackError with the output of `prefect deploy`.
        """
        known = self._known(api_url)
        if known is not None and known <= _registered():
            self.stop()
            return False
        with client() as server:
            remove_triggers(server, described()["deployments"])
        self._command.begin(api_url)
        wait_until(
            lambda: self._command.returncode is not None,
            seconds,
            "prefect deploy to end",
            cancelled=cancelled,
        )
        if self._command.returncode != 0:
            raise StackError(
                "the deployments in prefect.yaml could not be registered. "
                f"Output of `prefect deploy --all`:\n{tail(self._command.log, 30)}"
            )
        self.stop()
        remove_former(apply=True)
        write_whole(
            self._state,
            json.dumps({"api_url": api_url, "digest": self._digest(), "registered": sorted(_registered())}),
        )
        return True

    def stop(self, hurry: threading.Event | None = None) -> None:
        self._command.stop(hurry, grace=2)

    def _known(self, api_url: str) -> set[str] | None:
        """Returns the ids that were registered, if on this server and from these files."""
        with suppress(ValueError, KeyError, TypeError):
            noted: dict[str, Any] = json.loads(read_if_there(self._state))
            if noted["api_url"] == api_url and noted["digest"] == self._digest():
                return set(noted["registered"])
        return None

    def _digest(self) -> str:
        from importlib.metadata import version

        # The deployments contain the values.
        digest = hashlib.sha256(f"{version('prefect')}\0{json.dumps(self._values)}".encode())
        for path in self._sources():
            digest.update(f"\0{path.relative_to(self._home)}\0".encode() + path.read_bytes())
        return digest.hexdigest()

    def _sources(self) -> Iterator[Path]:
        yield from (self._home / "deployments").glob("prefect.yaml")
        for folder in ("flows", "tasks", "shop/orders"):
            yield from sorted((self._home / folder).rglob("*.py"))


def _registered() -> set[str]:
    """Returns the ids of all deployments on the server, and of the automations that are their triggers."""
    with client() as server:
        found = {str(each.id) for each in every(server.read_deployments)}
        return found | {str(each.id) for each in triggers(server, described()["deployments"])}
