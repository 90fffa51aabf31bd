"""Real worker processes that start in milliseconds: a parent loads Prefect and the flows once, and forks.

In a test: `Forkserver` starts the parent, `Forkserver.consumer(...)` and its like start a worker process.
As a program (`python -m tests.worker_forkserver.forkserver SOCKET`): the parent.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.local.files import tail
from deployments.local.processes import Child, wait_until
from tests.waiting import TIMEOUT_FACTOR

HOME = Path(__file__).resolve().parents[2]


@dataclass
class Process:
    """One worker process. It is ended by its id when the test is over."""

    pid: int
    log: Path
    ended: Path
    """Holds its exit code once it has ended."""
    result_file: Path
    """Holds what its role returned."""

    def signal(self, number: signal.Signals) -> None:
        if self.running():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def running(self) -> bool:
        return not self.ended.exists()

    def stopped(self) -> bool:
        """Whether SIGSTOP holds it."""
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
        return (
            subprocess.run(
                ["ps", "-o", "state=", "-p", str(self.pid)], capture_output=True, text=True, check=False
            ).stdout[:1]
            == "T"
        )

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Fails with the end of its log when the condition does not come true in time,
        or the process ends before."""
        end = time.monotonic() + TIMEOUT_FACTOR * seconds
        while not condition():
            gone = not self.running()
            assert not gone or condition(), (
                f"the process ended ({self.code}) before {what}:\n{tail(self.log, 30)}"
            )
            assert time.monotonic() < end, (
                f"waited {TIMEOUT_FACTOR * seconds:g} s in vain for {what}:\n{tail(self.log, 30)}"
            )
            time.sleep(0.02)

    @property
    def code(self) -> int | None:
        """How it ended; negative: by which signal."""
        return int(self.ended.read_text()) if self.ended.exists() else None

    def wait(self, seconds: float) -> Any:
        """Waits for its end, which has to be a good one; returns what its role returned."""
        end = time.monotonic() + TIMEOUT_FACTOR * seconds
        while self.running():
            assert time.monotonic() < end, (
                f"process {self.pid} has not ended in {TIMEOUT_FACTOR * seconds:g} s:\n{tail(self.log, 30)}"
            )
            time.sleep(0.02)
        assert self.code == 0, f"process {self.pid} ended with {self.code}:\n{tail(self.log, 40)}"
        return json.loads(self.result_file.read_text())

    def gone(self, seconds: float) -> int | None:
        """Waits for its end, whatever it is; returns the exit code."""
        end = time.monotonic() + TIMEOUT_FACTOR * seconds
        while self.running():
            assert time.monotonic() < end, (
                f"process {self.pid} has not ended in {TIMEOUT_FACTOR * seconds:g} s:\n{tail(self.log, 30)}"
            )
            time.sleep(0.02)
        return self.code


class Forkserver:
    """The parent, and the processes that a test has started; for any number of threads."""

    def __init__(self, folder: Path, pids: Path) -> None:
        self._folder = folder
        self._socket = folder / "socket"
        self._parent = Child(
            "the forkserver",
            [sys.executable, "-m", "tests.worker_forkserver.forkserver", str(self._socket)],
            log=folder / "forkserver.log",
            pid_file=pids / "forkserver.pid",
            cwd=HOME,
        )
        self._numbers = itertools.count(1)
        self._started: list[Process] = []

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._parent.start()
        wait_until(self._socket.exists, 120, "the forkserver to be ready", child=self._parent)

    def stop(self) -> None:
        self.end_all()
        self._parent.stop()

    def logs(self) -> list[tuple[str, str]]:
        """The processes of this test, and the ends of their logs."""
        return [
            (f"{p.log.stem} {p.pid} ({'runs' if p.code is None else p.code})", tail(p.log, 60))
            for p in self._started
        ]

    def end_all(self) -> None:
        """Ends what this test has left, each by its id."""
        for process in self._started:
            process.signal(signal.SIGKILL)
        for process in self._started:
            process.gone(20)
        self._started.clear()

    def process(
        self,
        role: str,
        *,
        env: Mapping[str, str] | None = None,
        stop_at: str | None = None,
        stop_by: signal.Signals = signal.SIGSTOP,
        clock: Sequence[int] = (),
        **arguments: Any,
    ) -> Process:
        """A process with this role (`tests.worker_forkserver.roles`), this process's environment and `env`.

        `stop_at`: it sends itself `stop_by` there, once: `module:name:before` or `module:name:after` a call.
        `clock`: by so many seconds its clock is wrong, first,
        and then each time after it has written to the journal.
        """
        name = f"{next(self._numbers)}-{role}"
        log, ended, result_file = (self._folder / f"{name}.{ending}" for ending in ("log", "ended", "result"))
        job = {
            "role": role,
            "arguments": arguments,
            "env": {**os.environ, **(env or {})},
            "stop_at": stop_at,
            "stop_by": stop_by,
        }
        job["clock"] = list(clock)
        job |= {"log": str(log), "ended": str(ended), "result": str(result_file)}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(self._socket))
            with connection.makefile("rw") as line:
                line.write(json.dumps(job) + "\n")
                line.flush()
                process = Process(int(line.readline()), log, ended, result_file)
        self._started.append(process)
        return process

    def consumer(self, consumer_seconds: float = 0, *, batch_size: int | None = None, **more: Any) -> Process:
        """The pending lane."""
        return self.process("consumer", consumer_seconds=consumer_seconds, batch_size=batch_size, **more)

    def order(self, order: Mapping[str, Any], **more: Any) -> Process:
        """`process_order` for one order."""
        return self.process("order", order=order, **more)


# -- the parent


def main(path: str) -> None:
    """Forks a child for each request."""
    from tests.worker_forkserver import roles

    children: dict[int, str] = {}

    def reap(*_: object) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if (note := children.pop(ended[0], None)) is not None:
                    _write(Path(note), str(os.waitstatus_to_exitcode(ended[1])))

    signal.signal(signal.SIGCHLD, reap)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(100)
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rw") as line:
                job = json.loads(line.readline())
                # its end is not seen before it is noted
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
                pid = os.fork()
                if pid == 0:
                    server.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
                    os._exit(roles.play(job))
                children[pid] = job["ended"]
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
                line.write(f"{pid}\n")
                line.flush()


def _write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


if __name__ == "__main__":
    main(sys.argv[1])
