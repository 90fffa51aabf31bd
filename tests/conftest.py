"""Real servers for tests, started when the first test asks for them and stopped at the end, however it comes.

`database_url` is a fresh, migrated database, and the one that settings name; `sandbox` a payment gateway as a
process; `localstripe` a Stripe server; `prefect_api` a Prefect server.
Tests that ask for none of them start nothing.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

import certifi
import psycopg
import pytest
from hypothesis import settings as examples

from deployments.environment import environment
from deployments.errors import AlreadyRunning, StackError
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.prefect_server import PrefectServer
from deployments.local.processes import free_port, stop_leftover
from deployments.local.programs import Sandbox
from deployments.local.supervision import RunLock
from deployments.setup.server import ensure_queues, ensure_work_pool
from saga import log_context
from tests.easypost_server import EasyPost
from tests.localstripe_server import LocalStripe
from tests.worker_forkserver.forkserver import Forkserver

HOME = Path(__file__).resolve().parent.parent
_PREFIX = "order-saga-tests-"
_JUST_MADE_SECONDS = 60
"""A folder that is younger may be one that another session is just about to lock."""
_TEMPLATE = "migrated"
_LAST_LINE = "-----END CERTIFICATE-----"
_REPORT_LINE = "report_line"
_numbers = itertools.count(1)


# The same examples each time, so that a change is judged by what it changes; another profile
# (pytest --hypothesis-profile=default) draws others.
examples.register_profile("the same", derandomize=True, deadline=None)
examples.load_profile("the same")


def pytest_addoption(parser: pytest.Parser) -> None:
    crash = parser.getgroup("crash tests")
    crash.addoption(
        "--every",
        action="store_true",
        help="every combination of points, lanes and gateways, instead of each point once",
    )
    crash.addoption("--orders", type=int, default=0, help="how many orders the random kills are tried on")
    crash.addoption(
        "--seed", type=int, default=20_261_122, help="of the random kills, and of the model's --histories"
    )
    parser.getgroup("model").addoption(
        "--histories", type=int, default=0, help="so many random ones, instead of always the same few"
    )


@pytest.fixture(autouse=True)
def log_context_is_left_as_it_was() -> Iterator[None]:
    """Fails a test that leaves an order or a step bound: the lines of every later test would name it."""
    before = log_context.fields()
    yield
    assert log_context.fields() == before, "run what binds an order or a step in copy_context()"


@pytest.fixture
def report_line(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes what a person wants to read of a test.
    It stands below the results, also when tests run side by side."""
    return partial(record_property, _REPORT_LINE)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    for report in reports:
        for name, line in getattr(report, "user_properties", []):
            if name == _REPORT_LINE:
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {line}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test with `short_form`, the parameter sets that it does not name are slow."""
    for item in items:
        if (short := item.get_closest_marker("short_form")) and not any(
            part in item.callspec.id  # type: ignore[attr-defined]
            for part in short.args
        ):
            item.add_marker(pytest.mark.slow)


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM ends the tests as Ctrl-C does: fixtures are torn down, and with them the servers."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    _trust_one_certificate(config)


def _trust_one_certificate(config: pytest.Config) -> None:
    """No server outside is asked. Reading all the world's certificates, for each client anew, takes an
    order's run a tenth of its time."""
    certificates = Path(certifi.where()).read_text()
    with tempfile.NamedTemporaryFile(
        "w", prefix="order-saga-certificate-", suffix=".pem", delete=False
    ) as one:
        one.write(certificates[: certificates.index(_LAST_LINE) + len(_LAST_LINE)] + "\n")
    config.add_cleanup(partial(Path(one.name).unlink, missing_ok=True))
    os.environ["SSL_CERT_FILE"] = one.name


@pytest.fixture(scope="session")
def world_dir() -> Iterator[Path]:
    """A folder for this session's servers.
    What an earlier session left that was killed outright is stopped and removed first."""
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError):  # another session has just swept it
            if time.time() - old.stat().st_mtime > _JUST_MADE_SECONDS:
                _sweep(old)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    folder.chmod(0o711)  # PostgreSQL runs as another user when this is root
    lock = RunLock(folder / "run" / "lock")
    lock.take()
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path) -> None:
    lock = RunLock(folder / "run" / "lock")
    try:
        lock.take()
    except (AlreadyRunning, StackError, OSError):
        return  # another session's that runs now
    try:
        for pid_file in folder.glob("**/run/**/*.pid"):
            stop_leftover(pid_file)
        for data in folder.glob("*postgres"):
            EmbeddedPostgres(data).stop("immediate")
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(world_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(world_dir / "postgres")
    try:
        server.start()
        yield server
    finally:
        server.stop("immediate")


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """A migrated database that others are copied from, in a tenth of the time that migrating takes."""
    from shop.runtime.migrate import upgrade

    postgres.create_database(_TEMPLATE)
    upgrade(postgres.url(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, template_database: str, tmp_path: Path) -> Iterator[str]:
    """A fresh, migrated, empty database for one test.
    `settings().database_url` names it, and `VAR_DIR` is the test's own folder."""
    name = f"shop_{next(_numbers)}"
    postgres.create_database(name, template=template_database)
    url = postgres.url(name)
    with psycopg.connect(url) as connection:  # a copy of a database has the installation id of its original
        connection.execute("UPDATE installation SET id = %s", (secrets.token_hex(8),))
    try:
        with environment({"DATABASE_URL": url, "VAR_DIR": str(tmp_path / "var")}):
            yield url
    finally:
        postgres.drop_database(name)


_ports = itertools.count(
    20_000 + 1_500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) + os.getpid() % 500
)
"""Below those that the system gives to anybody who asks for one, and for each process of tests others."""


def own_port(folder: Path) -> None:
    """Lets the server in that folder take a port of its own:
    the usual one is everybody's, and another session may just be starting."""
    folder.mkdir(parents=True, exist_ok=True)
    port = next(port for port in _ports if free_port(port) == port)
    (folder / "port").write_text(f"{port}\n")


@pytest.fixture(scope="session")
def sandbox(world_dir: Path) -> Iterator[Sandbox]:
    """A payment gateway as a process of its own, at `.url`; settings name it."""
    own_port(world_dir / "sandbox")
    gateway = Sandbox(
        home=HOME, folder=world_dir / "sandbox", logs=world_dir / "logs", pids=world_dir / "run"
    )
    try:
        gateway.start()
        with environment({"PAYMENT_GATEWAY_URL": gateway.url}):
            yield gateway
    finally:
        gateway.stop()


@pytest.fixture(scope="session")
def localstripe(world_dir: Path) -> Iterator[LocalStripe]:
    """A Stripe server that is not ours, as a process of its own, at `.url`."""
    server = LocalStripe(world_dir / "localstripe", world_dir / "run")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def easypost_server(world_dir: Path) -> Iterator[EasyPost]:
    """A carrier outside, as a process of its own, at `.url`."""
    server = EasyPost(world_dir / "easypost", world_dir / "run")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def prefect_api(postgres: EmbeddedPostgres, world_dir: Path) -> Iterator[PrefectServer]:
    """A Prefect server, with its API at `.api_url`, the work pool and the payment limit;
    this process's Prefect client talks to it."""
    from prefect.logging.handlers import APILogWorker

    postgres.create_database("prefect")
    url, logs, pids = postgres.url("prefect"), world_dir / "logs", world_dir / "run"
    own_port(world_dir / "prefect")
    server = PrefectServer(home=HOME, folder=world_dir / "prefect", database_url=url, logs=logs, pids=pids)
    try:
        server.start()
        with environment(server.client_environment):
            ensure_work_pool()
            ensure_queues()
            yield server
            # what is still to be sent would be tried for a minute when this process ends
            APILogWorker.drain_all(timeout=20)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def running_forkserver(world_dir: Path) -> Iterator[Forkserver]:
    """The parent of worker processes that are there in milliseconds."""
    forkserver = Forkserver(world_dir / "forkserver", world_dir / "run")
    try:
        forkserver.start()
        yield forkserver
    finally:
        forkserver.stop()
