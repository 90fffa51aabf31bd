"""Talking to the language model, on a thread and an event loop of its own.

So nothing that DSPy or a provider's library does (a second of imports, a blocking call, a cancellation that is
ignored) holds up the orders that are worked on: they wait for a future, and stop waiting when their time is over.
Nothing of a customer is kept: no cache on disk or in memory, no history, no trace.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from shop.confirmation.facts import ConfirmationFacts
from shop.settings import Settings


class ModelStopped(Exception):
    """Something within the conversation cancelled it or wanted the program to end; that must not look as if the order were cancelled."""


_starting = threading.Lock()
_limits: dict[int, asyncio.Semaphore] = {}


async def ask(facts: ConfirmationFacts, settings: Settings, mistakes: Sequence[str] = ()) -> dict[str, str]:
    """The model's texts as they came, unchecked; `mistakes` are those of its first attempt. Raises whatever went wrong.
    Whoever stops waiting ends the conversation.
    At most `settings.confirmation_concurrency` conversations of this process are under way at once."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_in_turn(facts, settings, mistakes), _own_loop()))


async def try_out(settings: Settings) -> None:
    """Asks the model for a word or two. Raises whatever goes wrong."""

    async def greet() -> None:
        with _dspy().context(disable_history=True, callbacks=[]):
            await _language_model(settings).acall("Answer with the word yes.")

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(greet(), _own_loop()))


def _own_loop() -> asyncio.AbstractEventLoop:
    with _starting:
        return _running_loop()


@lru_cache(maxsize=1)
def _running_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="language-model", daemon=True).start()
    return loop


async def _in_turn(facts: ConfirmationFacts, settings: Settings, mistakes: Sequence[str]) -> dict[str, str]:
    limit = settings.confirmation_concurrency
    try:
        async with _limits.setdefault(limit, asyncio.Semaphore(limit)):
            return await _converse(facts, settings, mistakes)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ModelStopped from None
    except (SystemExit, KeyboardInterrupt):
        raise ModelStopped from None


async def _converse(facts: ConfirmationFacts, settings: Settings, mistakes: Sequence[str]) -> dict[str, str]:
    dspy = _dspy()
    from shop.confirmation.signature import ConfirmationWriter

    model = _language_model(settings)
    with dspy.context(lm=model, disable_history=True, max_trace_size=0, callbacks=[], track_usage=False, warn_on_type_mismatch=False):
        texts: dict[str, str] = await ConfirmationWriter().acall(facts=facts, mistakes=mistakes)
    return texts


@lru_cache(maxsize=1)
def _dspy() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # else its import asks the network
    import dspy  # type: ignore[import-untyped]

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    return dspy


@lru_cache(maxsize=4)
def _language_model(settings: Settings) -> Any:
    """Kept between orders, for its connections."""
    dspy = _dspy()
    options: dict[str, Any] = {"cache": False, "num_retries": 1, "timeout": settings.confirmation_timeout_seconds}
    if settings.dspy_api_base:
        options["api_base"] = settings.dspy_api_base
        options["api_key"] = "none"  # a server of one's own often asks for none, and must not be sent another provider's
    if settings.dspy_api_key:
        options["api_key"] = settings.dspy_api_key.get_secret_value()
    try:
        return dspy.LM(settings.dspy_model, max_tokens=settings.dspy_max_tokens, temperature=settings.dspy_temperature, **options)
    except dspy.LMConfigurationError:  # OpenAI's reasoning models take neither
        return dspy.LM(settings.dspy_model, max_tokens=None, temperature=None, **options)
