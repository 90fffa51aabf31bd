"""An embedded PostgreSQL: a data folder and a Unix socket, no port. Committed data survives a crash."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql
from psycopg.pq import PGconn, Ping

from deployments.errors import StackError
from deployments.local.files import poll, read_if_there, tail
from deployments.local.postgres_binaries import (
    Account,
    Binaries,
    account_for,
    find_binaries,
    require_access,
    require_programs,
)
from deployments.processes import is_alive
from shop.runtime.files import make_private

_PORT = 5432  # only a part of the socket's name
_LONGEST_SOCKET = 103  # macOS allows 103 bytes, Linux 107
_BIG_LOG = 10_000_000
_CONNECT_SECONDS = 5
_SETTINGS = {
    "listen_addresses": "",
    "port": _PORT,
    "unix_socket_permissions": "0700",
    "max_connections": 200,
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "jit": "off",  # compiling our short queries would cost more than it saves
    "log_min_duration_statement": -1,
    "logging_collector": "off",
    "timezone": "UTC",
}

StopMode = Literal["smart", "fast", "immediate"]


class EmbeddedPostgres:
    """A PostgreSQL server in `data_dir`, which is created if it is missing.

    A server that an earlier process left running in the data folder is used, and stopped by `stop`. Also
    works as root (the server then runs as another system user). Every method raises StackError with what to
    do.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.log = self.data_dir / "server.log"
        self._found: tuple[Binaries, Account | None] | None = None

    def start(self, seconds: float = 60) -> None:
        """Starts the server and waits until it answers. Does nothing if it runs already."""
        if not self._leftover_answers(seconds):
            self._make_data()
            self._clean_up_after_crash()
            self._launch(seconds)

    @property
    def group(self) -> int | None:
        """Returns the group that must be able to traverse the folders above the data: that of the server's
        user. None if it is our own user."""
        account = account_for(self.data_dir)
        return account.gid if account else None

    def stop(self, mode: StopMode = "fast", seconds: float = 60) -> None:
        """Stops the server: `fast` closes connections, `immediate` is like a crash (recovery at the next
        start). Does nothing if it does not run."""
        if (server := self._server()) is None:
            return
        with suppress(StackError):
            self._pg_ctl("stop", "-m", mode, "-w", "-t", str(int(max(seconds, 1))), seconds=seconds + 5)
        if not poll(lambda: not is_alive(server), 0 if mode == "immediate" else 2):
            self._kill(server)
        if self._socket_dir != self.data_dir:
            shutil.rmtree(self._socket_dir, ignore_errors=True)

    def running(self) -> bool:
        """Whether the server runs, even if it has no free connection or is recovering from a crash."""
        return self._server() is not None and self._ping() in (Ping.OK, Ping.REJECT)

    def url(self, database: str) -> str:
        """Returns the database's address for psycopg; SQLAlchemy needs another driver in front."""
        name, host = quote(database, safe=""), quote(str(self._socket_dir))
        return f"postgresql://postgres@/{name}?host={host}&port={_PORT}"

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """Creates the database if it is missing, as a copy of `template` if given."""
        with self._connect() as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                like = sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
                with suppress(psycopg.errors.DuplicateDatabase):  # another process was faster
                    connection.execute(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), like))

    def drop_database(self, name: str) -> None:
        """Drops the database and ends the connections to it."""
        with self._connect() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def require_extension(self, name: str) -> None:
        """Raises StackError if this PostgreSQL does not have the extension."""
        with self._connect() as connection:
            if (
                connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", [name]).fetchone()
                is None
            ):
                raise StackError(
                    f"the PostgreSQL in {self._tools()[0].folder} has no extension {name!r}, "
                    "which the Prefect server needs: install its contrib package (such as postgresql-contrib)"
                )

    # -- location and user

    @property
    def _socket_dir(self) -> Path:
        if len(os.fsencode(self.data_dir / f".s.PGSQL.{_PORT}.lock")) <= _LONGEST_SOCKET:
            return self.data_dir
        return (
            Path(tempfile.gettempdir()) / f"pg-{hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]}"
        )

    def _tools(self) -> tuple[Binaries, Account | None]:
        if self._found is None:
            version = read_if_there(self.data_dir / "PG_VERSION").strip()
            binaries, account = (
                find_binaries(int(version) if version.isdigit() else None),
                account_for(self.data_dir),
            )
            if account:
                require_programs(account, binaries)
            self._found = binaries, account
        return self._found

    # -- the data

    def _make_data(self) -> None:
        binaries, account = self._tools()
        make_private(self.data_dir.parent, account.gid if account else None)
        if account:
            require_access(account, self.data_dir.parent)
        elif self.data_dir.exists() and (owner := self.data_dir.stat().st_uid) != os.geteuid():
            raise StackError(
                f"the data folder {self.data_dir} belongs to another user "
                f"(uid {owner}; perhaps created as root). "
                "Run as that user, or delete the folder to begin with an empty one"
            )
        if not (self.data_dir / "PG_VERSION").exists():
            # In another folder first: an incomplete one must never look like a complete one.
            fresh = self.data_dir.with_name(f"{self.data_dir.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            _own_folder(fresh, account)
            locale = (
                ["--locale-provider=builtin", "--locale=C.UTF-8"] if binaries.major >= 17 else ["--locale=C"]
            )
            self._run(
                ["initdb", "-D", str(fresh), "-U", "postgres", "--auth=trust", "--encoding=UTF8", *locale],
                fresh,
                seconds=120,
            )
            if self.data_dir.exists():
                self._refuse_foreign_folder()
                self.data_dir.rmdir()
            fresh.rename(self.data_dir)

    def _refuse_foreign_folder(self) -> None:
        if any(self.data_dir.iterdir()):
            raise StackError(
                f"{self.data_dir} is not empty and contains no PostgreSQL data: "
                "choose another folder, or empty this one"
            )

    # -- the server's process

    def _server(self) -> psutil.Process | None:
        """Returns the running server of this data folder. An unrelated process may have the recorded id."""
        first = read_if_there(self.data_dir / "postmaster.pid").split("\n", 1)[0].strip()
        if not first.isdigit():
            return None
        with suppress(psutil.Error):
            process = psutil.Process(int(first))
            if is_alive(process) and process.name().startswith("postgres") and self._is_this_server(process):
                return process
        return None

    def _is_this_server(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            return Path(process.cwd()).samefile(self.data_dir)
        return False

    def _answers(self) -> bool:
        """Whether the server answers, even if all connections are in use."""
        return self._ping() == Ping.OK

    def _ping(self) -> int:
        return PGconn.ping(f"{self.url('postgres')}&connect_timeout={_CONNECT_SECONDS}".encode())

    def _connect(self) -> psycopg.Connection:
        """Waits for a free connection. Raises StackError after the timeout."""
        return _connected(
            self.url("postgres"), 20, f"the PostgreSQL in {self.data_dir} accepts no connection"
        )

    def _leftover_answers(self, seconds: float) -> bool:
        """Whether a server that was left running can be used. Waits for one that is shutting down."""
        if self._server() is None:
            return False
        poll(lambda: self._server() is None or self._answers(), seconds)
        if self._server() is None:
            return False
        if self._answers():
            return True
        raise StackError(
            f"the PostgreSQL that runs in {self.data_dir} does not answer. Its log ends:\n{tail(self.log)}"
        )

    def _clean_up_after_crash(self) -> None:
        """Cleans up after a crash: backends may still be ending, and another process may have the id."""
        if self._server() is None:
            for process in self._orphans():
                if not poll(lambda process=process: not is_alive(process), 3):  # type: ignore[misc]
                    self._kill(process)
            for lock in (
                self.data_dir / "postmaster.pid",
                self._socket_dir / f".s.PGSQL.{_PORT}",
                self._socket_dir / f".s.PGSQL.{_PORT}.lock",
            ):
                lock.unlink(missing_ok=True)

    def _orphans(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter(["name"]):
            if str(process.info["name"]).startswith("postgres") and self._is_this_server(process):
                yield process

    def _kill(self, process: psutil.Process) -> None:
        with suppress(psutil.Error):
            for each in (*process.children(recursive=True), process):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        poll(lambda: not is_alive(process), 10)

    def _launch(self, seconds: float) -> None:
        _, account = self._tools()
        _own_folder(self._socket_dir, account)
        with suppress(OSError):
            if self.log.stat().st_size > _BIG_LOG:
                self.log.replace(self.log.with_suffix(".log.1"))
        values = {**_SETTINGS, "unix_socket_directories": f'"{self._socket_dir}"'}
        options = shlex.join(word for name, value in values.items() for word in ("-c", f"{name}={value}"))
        try:
            start = ("-w", "-t", str(int(seconds)), "-l", str(self.log), "-o", options)
            self._pg_ctl("start", *start, seconds=seconds + 10)
        except StackError as error:
            raise StackError(
                f"PostgreSQL did not start in {self.data_dir}: {error}. Its log ends:\n{tail(self.log)}"
            ) from error
        if not poll(self._answers, 10):
            raise StackError(
                f"PostgreSQL started in {self.data_dir}, but accepts no connections. "
                f"Its log ends:\n{tail(self.log)}"
            )

    def _pg_ctl(self, action: str, *arguments: str, seconds: float) -> None:
        self._run(["pg_ctl", action, "-D", str(self.data_dir), *arguments], self.data_dir, seconds=seconds)

    def _run(self, command: list[str], folder: Path, *, seconds: float) -> None:
        """Runs one of PostgreSQL's programs as the right user, isolated from our terminal's Ctrl-C."""
        binaries, account = self._tools()
        # PGPORT and the like in the caller's environment are for another server.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # A file, not a pipe: the server would inherit a pipe and keep it open.
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            try:
                subprocess.run(
                    [binaries.program(command[0]), *command[1:]],
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=environment,
                    timeout=seconds,
                    start_new_session=True,
                    user=account.uid if account else None,
                    group=account.gid if account else None,
                    extra_groups=[] if account else None,
                )
            except (OSError, subprocess.SubprocessError) as error:
                output.seek(0)
                message = output.read().strip() or str(error)
                raise StackError(f"{command[0]} failed: {message}") from error


def _own_folder(folder: Path, account: Account | None) -> None:
    """Creates a folder that only the server's user can enter. Refuses one of another user."""
    owner = account.uid if account else os.geteuid()
    try:
        folder.mkdir(mode=0o700)
        if account:
            os.chown(folder, account.uid, account.gid)
    except FileExistsError:
        status = folder.lstat()
        if folder.is_symlink() or not folder.is_dir() or status.st_uid != owner:
            raise StackError(
                f"{folder} is needed for the embedded PostgreSQL, but belongs to another user: remove it"
            ) from None
    folder.chmod(0o700)


def wait_for_server(url: str, seconds: float = 10) -> None:
    """Waits until the server at the address accepts connections. Raises StackError, with its error, after
    the timeout."""
    _connected(url, seconds, "the database at DATABASE_URL cannot be used").close()


def _connected(url: str, seconds: float, what: str) -> psycopg.Connection:
    end = time.monotonic() + seconds
    while True:
        try:
            return psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_SECONDS)
        except psycopg.Error as error:
            if time.monotonic() > end:
                raise StackError(f"{what}: {str(error).strip()}") from error
            time.sleep(0.2)
