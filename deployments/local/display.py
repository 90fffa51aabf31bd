"""Shows the progress of the start: a live display on a terminal, one line per event elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from deployments.cli.outcome_table import STYLES
from deployments.local.stack import STOPPING


class Display:
    """Shows the state of each part that starts, and then of each order. Thread-safe."""

    def __init__(self, console: Console, phases: list[str]) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._phases = phases
        self._orders: list[tuple[str, str]] = []
        self._spinner = Spinner("dots")
        self._live = (
            Live(self, console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes the display; later output takes its place."""
        if self._live:
            with suppress(Exception):  # a closed terminal must not prevent the shutdown
                self._live.stop()

    def phase(self, name: str, done: bool) -> None:
        """Records that a part starts, or is ready."""
        if name == STOPPING:
            self.close()
            self._line("Stopped." if done else "Stopping. (Press Ctrl-C again to stop at once.)")
            return
        now = time.monotonic()
        with self._lock:
            if name not in self._phases:
                self._phases.append(name)
            if done:
                self._took[name] = now - self._began.get(name, now)
            else:
                self._began[name] = now
        if not self._live:
            self._line(f"{name}: ready after {self._took[name]:.1f} s" if done else f"{name}: starting")

    def orders(self, names: list[str]) -> None:
        """Shows the orders too from now on."""
        with self._lock:
            self._orders = [(name, "waiting") for name in names]

    def order(self, place: int, state: str) -> None:
        """Records an order's state."""
        with self._lock:
            name, before = self._orders[place]
            self._orders[place] = (name, state)
        if not self._live and state != before:
            self._line(f"{name}: {state}")

    def steps(self, steps: Mapping[str, str]) -> None:
        """Shows the step of each order in progress, by name. On a terminal only."""
        with self._lock:
            for place, (name, state) in enumerate(self._orders):
                if name in steps and state != "waiting" and state not in STYLES:
                    self._orders[place] = (name, steps[name])

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def __rich__(self) -> RenderableType:
        with self._lock:
            grid = Table.grid(padding=(0, 2))
            for name in self._phases:
                if name in self._took:
                    grid.add_row(Text("✓", "green"), name, Text(f"{self._took[name]:.1f} s", "dim"))
                elif name in self._began:
                    grid.add_row(
                        self._spinner, name, Text(f"{time.monotonic() - self._began[name]:.0f} s", "dim")
                    )
                else:
                    grid.add_row("", Text(name, "dim"), "")
            for name, state in self._orders:
                ended = state in STYLES
                mark: RenderableType = (
                    Text("✓", STYLES[state]) if ended else "" if state == "waiting" else self._spinner
                )
                grid.add_row(
                    mark,
                    Text(name, "dim" if state == "waiting" else ""),
                    Text(state, STYLES.get(state, "dim")),
                )
            return grid
