"""More processes for a measurement: each says when it is ready, and begins when all are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from subprocess import PIPE, Popen

_READY, _BEGIN, _DONE = "ready\n", "begin\n", "done\n"


class Followers:
    """Processes that wait for their beginning."""

    def __init__(self, processes: Sequence[Popen[str]]) -> None:
        self._pipes = [(each.stdin, each.stdout) for each in processes if each.stdin and each.stdout]

    def begin(self) -> None:
        """Makes all begin."""
        for orders, _ in self._pipes:
            orders.write(_BEGIN)
            orders.flush()

    def wait(self, line: str = _DONE) -> None:
        """Waits until each has written the line. Raises RuntimeError if one ends before."""
        for _, answers in self._pipes:
            if line not in iter(answers.readline, ""):
                raise RuntimeError("another process of the measurement failed")

    def close(self) -> None:
        """Closes their input, at which they end."""
        for orders, _ in self._pipes:
            orders.close()


@contextmanager
def followers(command: Sequence[str], number: int) -> Iterator[Followers]:
    """Starts the command `number` times, yields when all are ready, and waits for their end."""
    with ExitStack() as stack:
        every = Followers(
            [
                stack.enter_context(subprocess.Popen(command, text=True, stdin=PIPE, stdout=PIPE))
                for _ in range(number)
            ]
        )
        stack.callback(every.close)
        every.wait(_READY)
        yield every


def follow() -> None:
    """Reports that this process is ready, and waits for the signal to begin."""
    sys.stdout.write(_READY)
    sys.stdout.flush()
    sys.stdin.readline()


def done() -> None:
    """Says that this process is done."""
    sys.stdout.write(_DONE)
    sys.stdout.flush()
