"""`order-saga worker` runs Prefect's worker with the project's defaults."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from prefect.context import refresh_global_settings_context
from prefect.settings import get_current_settings

from deployments import worker
from deployments.environment import environment
from shop.monitoring import traces

NAME = "PREFECT_WORKER_QUERY_SECONDS"


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the command puts into its process is removed afterwards."""
    monkeypatch.delenv(NAME, raising=False)
    monkeypatch.setattr(sys, "argv", ["order-saga"])
    with environment({NAME: None}):
        yield
    refresh_global_settings_context()


def started(monkeypatch: pytest.MonkeyPatch) -> tuple[float, list[str]]:
    """Returns how often the worker asks for work, in seconds, and Prefect's arguments."""
    found: list[tuple[float, list[str]]] = []

    def app() -> None:
        found.append((get_current_settings().worker.query_seconds, sys.argv))

    monkeypatch.setattr(worker, "working", nullcontext)
    monkeypatch.setattr(worker.importlib, "import_module", lambda _: SimpleNamespace(app=app))
    worker.work(["--name", "mine"])
    return found[0]


def test_it_asks_for_work_each_second_in_the_pool_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    with environment({"WORKER_POOL": "a pool"}):
        seconds, arguments = started(monkeypatch)
    assert seconds == 1
    assert arguments[arguments.index("--pool") + 1] == "a pool"
    assert arguments[-2:] == ["--name", "mine"]


def test_another_interval_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with environment({NAME: "7"}):
        assert started(monkeypatch)[0] == 7
        assert os.environ[NAME] == "7"


def test_sending_the_last_traces_leaves_time_to_record_the_end() -> None:
    assert traces._END_SECONDS < worker._EXIT_SECONDS
