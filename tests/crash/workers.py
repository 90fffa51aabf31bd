"""Worker processes that may be killed, from a parent that has everything imported."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent.parent


class Workers:
    """Starts workers as forks of one parent, and tells how they ended. For several threads."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._logs = itertools.count()
        self._ended: dict[int, queue.Queue[int]] = {}
        self._started: queue.Queue[int] = queue.Queue()
        self._one_at_a_time = threading.Lock()
        log = (folder / "zygote.log").open("w")
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            cwd=HOME,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert self._zygote.stdout is not None
        hello = self._zygote.stdout.readline()
        assert hello, (folder / "zygote.log").read_text()[-3000:]
        self.points: tuple[str, ...] = tuple(json.loads(hello)["points"])
        """Every point that the code declares."""
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()

    def start(self, lane: str, orders: Sequence[dict[str, Any]], environment: Mapping[str, str], **options: Any) -> Worker:
        log = self._folder / f"worker-{next(self._logs)}.log"
        request = {"lane": lane, "orders": list(orders), "environment": dict(environment), "log": str(log), **options}
        assert self._zygote.stdin is not None
        with self._one_at_a_time:
            self._zygote.stdin.write(json.dumps(request) + "\n")
            self._zygote.stdin.flush()
            pid = self._started.get(timeout=30)
        return Worker(pid, self._ended[pid], log)

    def close(self) -> None:
        for pid, end in list(self._ended.items()):
            if end.empty():
                _kill(pid)
        if self._zygote.stdin is not None:
            self._zygote.stdin.close()
        self._zygote.terminate()
        self._zygote.wait(20)

    def _listen(self) -> None:
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            said = json.loads(line)
            if "started" in said:
                self._ended[said["started"]] = queue.Queue()
                self._started.put(said["started"])
            else:
                self._ended[said["ended"]].put(said["status"])


class Worker:
    """One worker process."""

    def __init__(self, pid: int, ended: queue.Queue[int], log: Path) -> None:
        self.pid, self._ended, self.log = pid, ended, log

    def wait(self, seconds: float) -> int:
        """Its exit status; negative: the signal that killed it. Kills it when the time is over, and says so."""
        try:
            return self._ended.get(timeout=seconds)
        except queue.Empty:
            self.kill()
            raise TimeoutError(f"a worker did not end within {seconds:g} s:\n{self.tail()}") from None

    def ended(self) -> bool:
        return not self._ended.empty()

    def kill(self) -> None:
        _kill(self.pid)

    def tail(self) -> str:
        return self.log.read_text()[-3000:] if self.log.exists() else ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
