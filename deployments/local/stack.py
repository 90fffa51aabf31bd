"""Starts all parts of the local system in the right order, and always stops them in the reverse order."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deployments.environment import set_environment, write_env_file
from deployments.errors import Interrupted
from deployments.local.files import key_in
from deployments.local.postgres import EmbeddedPostgres, wait_for_server
from deployments.local.prefect_server import Deployments, PrefectServer, require_answer, tidy_up
from deployments.local.processes import stop_leftover
from deployments.local.programs import METRICS_PORT, LocalModel, Sandbox, Served, Web, Worker
from deployments.local.supervision import Pauses, Revival, RunLock, SignalGuard
from deployments.setup.server import ensure_queues, ensure_work_pool
from shop.runtime.files import make_private, tighten

HOME = Path(__file__).resolve().parent.parent.parent
"""The project's folder."""

_Part = EmbeddedPostgres | Served | PrefectServer | Worker
Progress = Callable[[str, bool], None]
"""Called with the name of each part when it begins to start (False) and when it is ready (True), from
several threads."""

POSTGRES = "PostgreSQL"
TABLES = "database tables"
SANDBOX = "payment sandbox"
PREFECT = "Prefect server"
DEPLOYMENTS = "deployments"
LOCAL_MODEL = "local language model"
WORKER = "worker"
WEB = "web app"
STOPPING = "stopping"
"""The name of the phase in which everything stops."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to start, and what exists already."""

    var_dir: Path = HOME / "var"
    database_url: str | None = None
    """A database to use instead of an embedded PostgreSQL."""
    prefect_api_url: str | None = None
    """A Prefect server to use instead of our own."""
    gateway_url: str | None = None
    """A payment gateway to use instead of the sandbox."""
    sandbox: bool = True
    prefect: bool = True
    deployments: bool = True
    """Register prefect.yaml's deployments (needs `prefect`)."""
    worker: bool = True
    """Start a worker (needs `prefect`)."""
    web: bool = False
    """Start the web app."""
    web_host: str | None = None
    web_port: int | None = None
    orders_api_key: str | None = None
    """The web app's key for orders. None: our own key, in `var_dir`."""
    local_model: bool = False
    """Start the local language model."""
    metrics_port: int | None = METRICS_PORT
    """The metrics port of the worker of a stack with a web app, or a nearby one if it is taken."""
    metrics_token: str | None = None
    """The token for Prometheus. None: our own token, in `var_dir`."""
    home: Path = HOME
    """The project's folder, with prefect.yaml and the flows."""

    @property
    def phases(self) -> list[str]:
        """Returns the parts in the order in which they start."""
        wanted = {
            POSTGRES: self.own_postgres,
            TABLES: True,
            SANDBOX: self.own_sandbox,
            LOCAL_MODEL: self.local_model,
            PREFECT: self.prefect,
            DEPLOYMENTS: self.prefect and self.deployments,
            WORKER: self.prefect and self.worker,
            WEB: self.web,
        }
        return [phase for phase, yes in wanted.items() if yes]

    @property
    def own_prefect(self) -> bool:
        return self.prefect and not self.prefect_api_url

    @property
    def own_postgres(self) -> bool:
        return not self.database_url or self.own_prefect

    @property
    def own_sandbox(self) -> bool:
        return self.sandbox and not self.gateway_url


class Stack:
    """Starts the parts that are not given, and stops them at the end of the `with` block: also after a failed
    start, on Ctrl-C and on SIGTERM. Inside the block the addresses are in this process's environment, and in
    `var_dir/run.env` for other shells.

    Raises StackError, for people, if something cannot be started; AlreadyRunning if another process uses the
    same folder; Interrupted on SIGTERM.
    """

    def __init__(self, options: Options | None = None, progress: Progress | None = None) -> None:
        self.options = options or Options()
        self._progress = progress or (lambda _phase, _done: None)
        var = self.options.var_dir.absolute()
        self._var, self._pids, self._logs = var, var / "run", var / "logs"
        self._lock = RunLock(self._pids / "lock")
        self._signals = SignalGuard()
        self._cancelled = threading.Event()
        self._undo = ExitStack()
        self._started = False
        self._pauses: dict[str, Pauses] = {}
        self.hurry = threading.Event()
        """Makes a running stop end without grace."""
        self.env_file = var / "run.env"
        """The addresses for other shells, while everything is up."""
        self.database_url = self.options.database_url or ""
        self.gateway_url = self.options.gateway_url
        self.prefect_api_url = self.options.prefect_api_url if self.options.prefect else None
        self.postgres: EmbeddedPostgres | None = None
        self.sandbox: Sandbox | None = None
        self.local_model: LocalModel | None = None
        self.prefect_server: PrefectServer | None = None
        self.worker: Worker | None = None
        self.web: Web | None = None
        self.metrics_token_file = var / "metrics-token"
        """The token for Prometheus, unless one is given."""
        self.key_file = var / "orders-api-key"
        """The key for submitting orders, unless one is given."""
        self._deployments: Deployments | None = None

    # -- addresses

    @property
    def ui_url(self) -> str | None:
        """The address for browsers."""
        if self.prefect_server:
            return self.prefect_server.url
        if self.prefect_api_url is None:
            return None
        from prefect.settings import PREFECT_UI_URL

        return str(PREFECT_UI_URL.value())  # Prefect Cloud's is another host than its API's

    @property
    def environment(self) -> dict[str, str]:
        """The addresses that other shells need."""
        values = {
            "DATABASE_URL": self.database_url,
            "PREFECT_API_URL": self.prefect_api_url,
            "PAYMENT_GATEWAY_URL": self.gateway_url,
        }
        values["PREFECT_API_AUTH_STRING"] = self.prefect_server.auth_string if self.prefect_server else None
        values["DSPY_API_BASE"] = self.local_model.api_base if self.local_model else None
        values["WEB_URL"] = self.web.url if self.web else None
        values["METRICS_URL"] = self.worker.metrics_url if self.worker else None
        return {name: value for name, value in values.items() if value}

    # -- start and stop

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts everything. The caller must call `stop` afterwards, also if this raises; `with` does."""
        self._make_var()
        self._lock.take()
        self._started = True
        self._undo.callback(self._lock.release)
        self._signals.raise_interrupted()
        for name in ("web", "worker", "deploy", "prefect-server", "sandbox", "local-model"):
            stop_leftover(self._pids / f"{name}.pid")
        self._start_postgres()
        self._plan()
        self._undo.callback(set_environment, set_environment(self._own_environment()))
        self._at_once(
            self._start_prefect,
            partial(self._start, SANDBOX, self.sandbox),
            partial(self._start, LOCAL_MODEL, self.local_model),
            self._start_tables_then_load,
        )
        if self.prefect_api_url:
            self._prepare_prefect()
            self._at_once(self._start_worker, self._register, partial(self._start, WEB, self.web))
        else:
            self._start(WEB, self.web)
        self._lock.say(
            f"process {os.getpid()}" + (f", its Prefect UI is at {self.ui_url}" if self.ui_url else "")
        )
        self._undo.callback(self.env_file.unlink, missing_ok=True)
        write_env_file(self.env_file, self.environment)

    def _make_var(self) -> None:
        """Creates the data folder, and restricts it and its content to this user."""
        with suppress(OSError):  # if it is not writable, the lock raises the error
            group = EmbeddedPostgres(self._var / "postgres").group if self.options.own_postgres else None
            make_private(self._var, group, ours=self._var == self.options.home / "var")
            tighten(self._var)

    def stop(self) -> None:
        """Stops everything that was started, in reverse order. A signal meanwhile shortens the waits;
        nothing is left running."""
        self._cancel_start()
        try:
            if self._started:
                self._report(STOPPING, False)
                self._undo.close()
                self._report(STOPPING, True)
        finally:
            self._started = False
            self._signals.restore()

    def _report(self, phase: str, done: bool) -> None:
        with suppress(Exception):  # a closed terminal must not prevent the shutdown
            self._progress(phase, done)

    def _cancel_start(self) -> None:
        self._cancelled.set()
        self._signals.call(self.hurry.set)

    def revive(self) -> list[Revival]:
        """Restarts parts that have died; returns the attempts. A part that cannot be started or dies
        repeatedly is retried after growing pauses, while the others keep running. A part waits until the
        parts that it needs run. Never raises."""
        tried, parts = [], self._parts()
        for name, (part, needs) in parts.items():
            with suppress(Exception):  # its state is unknown: the next call may find it
                if not part.running() and all(parts[each][0].running() for each in needs if each in parts):
                    restart = partial(self._restart, name, part)
                    revival = self._pauses.setdefault(name, Pauses()).attempt(name, restart)
                    tried += [revival] if revival else []
        return tried

    def _parts(self) -> dict[str, tuple[_Part, tuple[str, ...]]]:
        """Returns the parts that are restarted when they have died, and which others each of them needs."""
        parts: dict[str, tuple[_Part | None, tuple[str, ...]]] = {
            POSTGRES: (self.postgres, ()),
            SANDBOX: (self.sandbox, ()),
            LOCAL_MODEL: (self.local_model, ()),
            PREFECT: (self.prefect_server, (POSTGRES,)),
            WORKER: (self.worker if self.prefect_api_url else None, (POSTGRES, PREFECT)),
            WEB: (self.web, (POSTGRES,)),
        }
        return {name: (part, needs) for name, (part, needs) in parts.items() if part}

    def _restart(self, name: str, part: _Part) -> None:
        """Starts the part again, and stops it if that fails half way."""
        if name == WORKER:
            part.stop()  # stops the runs that it left
            if self.prefect_server:
                tidy_up()
        try:
            if isinstance(part, Worker):
                part.start(self.prefect_api_url or "")
            else:
                part.start()
        except Exception:
            if name != POSTGRES:
                part.stop()
            raise

    # -- the parts

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self._progress(name, False)
        yield
        self._progress(name, True)

    def _start_postgres(self) -> None:
        if self.options.own_postgres:
            with self._phase(POSTGRES):
                self.postgres = EmbeddedPostgres(self._var / "postgres")
                self._undo.callback(self._stop_postgres, self.postgres)
                self.postgres.start()
                if self.options.own_prefect:
                    self.postgres.require_extension("pg_trgm")
                    self.postgres.create_database("prefect")
                if not self.database_url:
                    self.postgres.create_database("shop")
                    self.database_url = self.postgres.url("shop")

    def _stop_postgres(self, postgres: EmbeddedPostgres) -> None:
        postgres.stop("immediate" if self.hurry.is_set() else "fast", seconds=20)

    def _plan(self) -> None:
        """Fixes the addresses and the stop order, before parts start concurrently."""
        options = self.options
        where: dict[str, Any] = {"home": options.home, "logs": self._logs, "pids": self._pids}
        if options.own_sandbox:
            self.sandbox = Sandbox(folder=self._var / "sandbox", **where)
            self._undo.callback(self.sandbox.stop, self.hurry)
            self.gateway_url = self.sandbox.url
        if options.local_model:
            self.local_model = LocalModel(folder=self._var / "local-model", **where)
            self._undo.callback(self.local_model.stop, self.hurry)
        if options.own_prefect and self.postgres:
            self.prefect_server = PrefectServer(
                folder=self._var / "prefect", database_url=self.postgres.url("prefect"), **where
            )
            self._undo.callback(self.prefect_server.stop, self.hurry)
            self.prefect_api_url = self.prefect_server.api_url
        if options.prefect and options.deployments:
            state = self._var / "run" / "deployed.json"
            self._deployments = Deployments(state=state, environment=self._own_environment(), **where)
            self._undo.callback(self._deployments.stop, self.hurry)
        if options.web:
            key, host = options.orders_api_key or key_in(self.key_file), options.web_host or "127.0.0.1"
            environment = {**self._own_environment(), "METRICS_TOKEN": self._metrics_token}
            environment["ORDERS_API_KEY"] = key
            folder, port = self._var / "web", options.web_port
            self.web = Web(
                "--host", host, folder=folder, environment=environment, host=host, port=port, **where
            )
            self._undo.callback(self.web.stop, self.hurry)
        if options.prefect and options.worker:
            environment = {**self._own_environment(), "METRICS_TOKEN": self._metrics_token}
            wanted = options.metrics_port if options.web else None  # the default port is for `make run`
            self.worker = Worker(environment=environment, metrics_port=wanted, **where)
            self._undo.callback(self.worker.stop, self.hurry)

    @property
    def _metrics_token(self) -> str:
        return self.options.metrics_token or key_in(self.metrics_token_file)

    def _own_environment(self) -> dict[str, str | None]:
        """Returns the environment of this process and its children: the addresses and our folder, without
        settings that are meant for another server."""
        ours = self.prefect_server.client_environment if self.prefect_server else {}
        return {**ours, "VAR_DIR": str(self._var), **self.environment}

    def _start_prefect(self) -> None:
        if self.options.prefect:
            with self._phase(PREFECT):
                if self.prefect_server:
                    self.prefect_server.delete_leases()
                    self.prefect_server.start(cancelled=self._cancelled)
                elif self.prefect_api_url:
                    require_answer(self.prefect_api_url)

    def _start(self, name: str, part: Served | None) -> None:
        if part:
            with self._phase(name):
                part.start(cancelled=self._cancelled)

    def _warm(self) -> None:
        if self.worker:
            self.worker.prepare()
        if self._deployments and self.prefect_api_url:
            self._deployments.prepare(self.prefect_api_url)

    def _start_tables_then_load(self) -> None:
        with self._phase(TABLES):
            if self.options.database_url:
                wait_for_server(self.options.database_url)
            importlib.import_module("shop.runtime.migrate").upgrade(self.database_url)
        if self.options.prefect and not self._cancelled.is_set():
            self._warm()
            # The import takes a second or two; the server takes longer.
            importlib.import_module("prefect.client.orchestration")

    def _prepare_prefect(self) -> None:
        """Prepares the server before a worker asks for work."""
        if self.prefect_server:
            tidy_up()
        ensure_work_pool()
        ensure_queues()

    def _start_worker(self) -> None:
        if self.worker and self.prefect_api_url:
            with self._phase(WORKER):
                self.worker.start(self.prefect_api_url, cancelled=self._cancelled)

    def _register(self) -> None:
        if self._deployments and self.prefect_api_url:
            with self._phase(DEPLOYMENTS):
                self._deployments.register(self.prefect_api_url, cancelled=self._cancelled)
                from deployments.automations import ensure_automations

                ensure_automations()

    def _at_once(self, *parts: Callable[[], None]) -> None:
        """Runs the functions concurrently. If one fails, or on a signal, the others are cancelled; returns
        or raises when all have ended."""
        with ThreadPoolExecutor(len(parts)) as pool:
            futures = [pool.submit(part) for part in parts]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                _raise_first(future.exception() for future in futures if future.done())
            except BaseException:
                self._cancel_start()
                raise


def _raise_first(found: Iterable[BaseException | None]) -> None:
    """Raises the cause, rather than the errors of those that were cancelled because of it."""
    errors = [error for error in found if error]
    for error in sorted(errors, key=lambda error: isinstance(error, Interrupted)):
        raise error
