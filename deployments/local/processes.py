"""Child processes that are always cleaned up, also after the parent was killed."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from deployments.errors import Interrupted, StackError
from deployments.local.files import read_if_there, tail, write_whole
from deployments.processes import is_alive
from shop.runtime.files import PRIVATE_FILE, make_private

_MARK = "ORDER_SAGA_CHILD"
"""Environment variable that identifies a child and its descendants, whatever their parent is."""
_OWNER_ONLY = 0o077
"""The umask of children: only the user can read their files, Prefect's own included."""
_TRIES = 20
"""Limits how many free ports are tried that other processes have reserved."""
_SAME_START = 2.0  # tolerance for a process's recorded start, in seconds: clocks change

# An ignored signal stays ignored in a child; a Prefect worker that was started like that hangs on SIGTERM.
_DEFAULT_SIGNALS = (
    "import os,signal,sys;"
    "[signal.signal(s,signal.SIG_DFL) for s in (signal.SIGINT,signal.SIGTERM,signal.SIGHUP)];"
    "os.execvp(sys.argv[1],sys.argv[1:])"
)


@dataclass(frozen=True, slots=True)
class _PidFile:
    """The content of a pid file."""

    pid: int
    created: float
    mark: str

    @classmethod
    def read(cls, path: Path) -> _PidFile | None:
        with suppress(ValueError, KeyError, TypeError):
            content = json.loads(read_if_there(path))
            return cls(int(content["pid"]), float(content["created"]), str(content["mark"]))
        return None

    def processes(self) -> list[psutil.Process]:
        """Returns the process and its living descendants."""
        found: dict[int, psutil.Process] = {}
        with suppress(psutil.Error):
            leader = psutil.Process(self.pid)
            if abs(leader.create_time() - self.created) < _SAME_START:
                found = {process.pid: process for process in (leader, *leader.children(recursive=True))}
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid not in found and process.environ().get(_MARK) == self.mark:
                    found[process.pid] = process
        return [process for process in found.values() if process.pid != os.getpid()]


class Child:
    """One command as a process with its own session: Ctrl-C in our terminal does not reach it, `stop` does.

    Its output goes to `log` (the previous one is kept as `log`.1), its identity to `pid_file`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        pid_file: Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """`env` is added to this process's environment; None removes a name."""
        self.name, self.command, self.log, self.pid_file, self.cwd = name, list(command), log, pid_file, cwd
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process, after stopping what an earlier one with the same pid file has left."""
        stop_leftover(self.pid_file)
        mark = secrets.token_hex(12)
        # For programs that read the folder from the environment.
        here = {"PWD": str(self.cwd)} if self.cwd else {}
        merged = {**os.environ, "PYTHONUNBUFFERED": "1", **here, **self._env, _MARK: mark}
        environment = {name: value for name, value in merged.items() if value is not None}
        command = self.command
        if any(
            signal.getsignal(each) is signal.SIG_IGN
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        ):
            if shutil.which(command[0]) is None:
                raise StackError(f"{self.name} could not be started: there is no {command[0]}")
            command = [sys.executable, "-I", "-S", "-c", _DEFAULT_SIGNALS, *command]
        self._write_pid_file(0, 0, mark)  # before the start: an unrecorded process could not be stopped later
        make_private(self.log.parent)
        if self.log.exists():
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        try:
            with os.fdopen(
                os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE), "wb"
            ) as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    cwd=self.cwd,
                    start_new_session=True,
                    umask=_OWNER_ONLY,
                )
        except OSError as error:
            raise StackError(f"{self.name} could not be started: {error}") from error
        with suppress(psutil.Error):
            self._write_pid_file(self._process.pid, psutil.Process(self._process.pid).create_time(), mark)

    def _write_pid_file(self, pid: int, created: float, mark: str) -> None:
        write_whole(self.pid_file, json.dumps({"pid": pid, "created": created, "mark": mark}))

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs or before it was started."""
        return self._process.poll() if self._process else None

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, grace: float = 10, hurry: threading.Event | None = None) -> None:
        """Sends SIGTERM, waits up to `grace` seconds, or until `hurry` is set because the person has asked
        twice, then kills it and its descendants. Idempotent."""
        _stop_recorded(self.pid_file, grace, hurry, reap=self.running)
        if self._process is not None:
            self._process.wait(10)


def stop_leftover(pid_file: Path) -> bool:
    """Stops what a killed supervisor has left running. Returns whether there was something."""
    return _stop_recorded(pid_file, 5, None)


def _stop_recorded(
    pid_file: Path, grace: float, hurry: threading.Event | None, reap: Callable[[], bool] | None = None
) -> bool:
    noted = _PidFile.read(pid_file)
    if noted is None:
        return False
    living = noted.processes()
    for process in living:
        if process.pid == noted.pid:
            with suppress(psutil.Error):
                process.terminate()
            _wait_for([process], grace, hurry, reap)
    # Descendants that were started meanwhile, or did not end with it.
    left = {process.pid: process for process in (*living, *noted.processes())}
    for process in left.values():
        with suppress(psutil.Error):
            process.kill()
    _wait_for(left.values(), 10, None, reap)
    pid_file.unlink(missing_ok=True)
    return bool(living)


def _wait_for(
    processes: Iterable[psutil.Process],
    seconds: float,
    hurry: threading.Event | None,
    reap: Callable[[], bool] | None,
) -> None:
    waiting = list(processes)
    end = time.monotonic() + seconds
    while waiting and time.monotonic() < end and not (hurry and hurry.is_set()):
        if reap:
            reap()  # our own child stays a zombie until it is reaped
        waiting = [process for process in waiting if is_alive(process)]
        if waiting:
            time.sleep(0.02)


def free_port(preferred: int | None = None, host: str = "127.0.0.1") -> int:
    """Returns the preferred port if it is free, else any free one. Until this process ends, no other process
    of this user gets the port from this function: seconds may pass until a server listens on it."""
    for port in (preferred, *[0] * _TRIES) if preferred else [0] * _TRIES:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do, because closed connections may linger.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((host, port))
                found = int(probe.getsockname()[1])
                if _reserve(found):
                    return found
    raise StackError(f"no port is free on {host}")


def _reserve(port: int) -> bool:
    """Locks the port's byte in a common file until this process ends. Returns False if another process has
    locked it."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except BlockingIOError:
        return False
    except OSError:  # without the file there are no reservations
        pass
    return True


@cache
def _reservations() -> int:
    """Opens the common file of this user's processes."""
    file = Path(tempfile.gettempdir()) / f"order-saga-ports-{os.getuid()}"
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)


def wait_until(
    condition: Callable[[], bool],
    seconds: float,
    what: str,
    *,
    child: Child | None = None,
    cancelled: threading.Event | None = None,
    every: float = 0.05,
) -> None:
    """Waits until the condition is true. Raises StackError, with the end of the child's log, after the
    timeout or if the child ends before; Interrupted if `cancelled` is set."""
    end = time.monotonic() + seconds
    while True:
        # Read before the condition: the child may become ready and end at once.
        ended = child is not None and not child.running()
        if condition():
            return
        if cancelled is not None and cancelled.is_set():
            raise Interrupted("another part of the start")
        if ended or time.monotonic() > end:
            why = f"it ended with code {child.returncode}" if ended and child else f"not within {seconds:g} s"
            log = f"\nIts log, {child.log}, ends:\n{tail(child.log)}" if child else ""
            raise StackError(f"waited for {what}: {why}.{log}")
        time.sleep(every)
