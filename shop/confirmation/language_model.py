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
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from shop.confirmation.facts import ConfirmationFacts, inputs_of
from shop.settings import Settings

LOCAL = "local/"
"""How the names of models begin that run in this process."""


_REFLECTION_SECONDS = 120


class ModelStopped(Exception):
    """Something within the conversation cancelled it or wanted the program to end; that must not look as if the order were cancelled."""


class LocalModelMissing(Exception):
    """The model that runs here is not installed, or is not the one that was tested. The message says what to do, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, unchecked, and which program asked it."""

    texts: dict[str, str]
    program: str
    warning: str | None = None
    """Why it is not the saved program."""


_starting = threading.Lock()
_limits: dict[int, asyncio.Semaphore] = {}


async def ask(facts: ConfirmationFacts, settings: Settings, mistakes: Sequence[str] = ()) -> Answer:
    """The model's texts as they came; `mistakes` are those of its first attempt. Raises whatever went wrong.
    Whoever stops waiting ends the conversation.
    At most `settings.confirmation_concurrency` conversations of this process are under way at once."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_in_turn(facts, settings, mistakes), _own_loop()))


async def try_out(settings: Settings) -> None:
    """Asks the model for a word or two. Raises whatever goes wrong."""

    async def greet() -> None:
        with configured_dspy().context(**context(settings), max_trace_size=0):
            await language_model(settings).acall("Answer with the word yes.")

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(greet(), _own_loop()))


def _own_loop() -> asyncio.AbstractEventLoop:
    with _starting:
        return _running_loop()


@lru_cache(maxsize=1)
def _running_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="language-model", daemon=True).start()
    return loop


async def _in_turn(facts: ConfirmationFacts, settings: Settings, mistakes: Sequence[str]) -> Answer:
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


async def _converse(facts: ConfirmationFacts, settings: Settings, mistakes: Sequence[str]) -> Answer:
    dspy = configured_dspy()
    from shop.confirmation.program_file import in_use
    from shop.confirmation.signature import ConfirmationWriter, texts_of

    program, warning = in_use(settings)
    with dspy.context(**context(settings), max_trace_size=0):
        prediction = await ConfirmationWriter(program).acall(**inputs_of(facts, mistakes))
    return Answer(texts_of(prediction), program.version, warning)


def context(settings: Settings) -> dict[str, Any]:
    """What `dspy.context` needs to speak with the model of these settings, and to keep nothing of what is said."""
    quiet = {"disable_history": True, "callbacks": [], "track_usage": False, "warn_on_type_mismatch": False}
    return {"lm": language_model(settings), "adapter": _adapter(settings), **quiet}


def _adapter(settings: Settings) -> Any:
    if not (settings.dspy_model or "").startswith(LOCAL):
        return None
    from shop.confirmation.local_adapter import LocalAdapter

    return LocalAdapter()


@lru_cache(maxsize=1)
def configured_dspy() -> Any:
    """DSPy, imported so that it asks no network and caches nothing."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # else its import asks the network
    import dspy  # type: ignore[import-untyped]

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    return dspy


def language_model(settings: Settings) -> Any:
    """The `dspy.LM` of `settings.dspy_model`. Kept between orders, for its connections.
    Raises LocalModelMissing if it is one that runs here and is not installed."""
    key = settings.dspy_api_key.get_secret_value() if settings.dspy_api_key else None
    name, temperature = settings.dspy_model or "", settings.dspy_temperature
    if name.startswith(LOCAL) and "dspy_temperature" not in settings.model_fields_set:
        temperature = 0.0  # a small model that is left to chance gets its numbers wrong
    return _language_model(
        _Model(name, settings.dspy_api_base, key, settings.dspy_max_tokens, temperature, settings.confirmation_timeout_seconds)
    )


# Not the whole settings: some of them cannot be hashed.
@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    api_base: str | None
    api_key: str | None = field(repr=False)
    max_tokens: int
    temperature: float
    seconds: float


@lru_cache(maxsize=4)
def _language_model(asked: _Model) -> Any:
    dspy = configured_dspy()
    limits: dict[str, Any] = {"max_tokens": asked.max_tokens, "temperature": asked.temperature}
    if asked.name.startswith(LOCAL):
        from shop.confirmation.local_model import engines

        engine, async_engine = engines(asked.name.removeprefix(LOCAL), asked.seconds)
        return dspy.LM(asked.name, engine=engine, async_engine=async_engine, cache=False, num_retries=0, **limits)
    options: dict[str, Any] = {"cache": False, "num_retries": 1, "timeout": asked.seconds}
    if asked.api_base:
        options["api_base"] = asked.api_base
        options["api_key"] = "none"  # a server of one's own often asks for none, and must not be sent another provider's
    if asked.api_key:
        options["api_key"] = asked.api_key
    try:
        return dspy.LM(asked.name, **limits, **options)
    except dspy.LMConfigurationError:  # OpenAI's reasoning models take neither
        return dspy.LM(asked.name, max_tokens=None, temperature=None, **options)


def reflection_model(settings: Settings) -> Any:
    """The `dspy.LM` of `settings.dspy_reflection_model`. Where the other model is, and its key, are also this one's if nothing else is
    set and both are of the same provider; a key never goes to another provider."""
    name = settings.dspy_reflection_model or ""
    base, key = settings.dspy_reflection_api_base, settings.dspy_reflection_api_key
    if base is None and key is None and name.partition("/")[0] == (settings.dspy_model or "").partition("/")[0]:
        base, key = settings.dspy_api_base, settings.dspy_api_key
    return _language_model(_Model(name, base, key.get_secret_value() if key else None, 8000, 1.0, _REFLECTION_SECONDS))
