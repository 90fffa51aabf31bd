"""Talking to the language model, on a thread and an event loop of its own.

So nothing that DSPy or a provider's library does (a second of imports, a blocking call, a cancellation that is
ignored) holds up the orders that are worked on: they wait for a future, and stop waiting when their time is over.
Nothing of a customer is kept: no cache on disk or in memory, no history, no trace.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from shop.runtime.extras import needs_extra
from shop.settings import Settings

LOCAL = "local/"
"""How the names of models begin that `local_model` serves on this machine."""

_REFLECTION_SECONDS = 120


class ModelStopped(Exception):
    """Something within the conversation cancelled it or wanted the program to end; that must not look as if the order were cancelled."""


class LocalModelUnavailable(Exception):
    """No server of a local model is configured. The message says what to do, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, unchecked, and which program asked it."""

    texts: dict[str, str]
    program: str
    warning: str | None = None
    """Why it is not the saved program."""


_starting = threading.Lock()
_limits: dict[int, asyncio.Semaphore] = {}


async def ask(inputs: Mapping[str, str], settings: Settings) -> Answer:
    """The model's texts as they came. Raises whatever went wrong. Cancelling this ends the conversation.
    At most `settings.confirmation.concurrency` conversations of this process are under way at once."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_in_turn(inputs, settings), _own_loop()))


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


async def _in_turn(inputs: Mapping[str, str], settings: Settings) -> Answer:
    limit = settings.confirmation.concurrency
    try:
        async with _limits.setdefault(limit, asyncio.Semaphore(limit)):
            return await _converse(inputs, settings)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ModelStopped from None
    except (SystemExit, KeyboardInterrupt):
        raise ModelStopped from None


async def _converse(inputs: Mapping[str, str], settings: Settings) -> Answer:
    dspy = configured_dspy()
    from shop.confirmation.program import in_use
    from shop.confirmation.signature import texts_of

    program = in_use(settings)
    with dspy.context(**context(settings), max_trace_size=0):
        prediction = await program.writer.acall(**inputs)
    return Answer(texts_of(prediction), program.version, program.warning)


def context(settings: Settings) -> dict[str, Any]:
    """What `dspy.context` needs to speak with the model of these settings, and to keep nothing of what is said."""
    quiet = {"disable_history": True, "callbacks": [], "track_usage": False, "warn_on_type_mismatch": False}
    return {"lm": language_model(settings), **quiet}


@lru_cache(maxsize=1)
def configured_dspy() -> Any:
    """DSPy, imported so that it asks no network and caches nothing. Raises `MissingExtra`."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # else its import asks the network
    with needs_extra("llm", "DSPY_MODEL"):
        import dspy  # type: ignore[import-untyped]

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    return dspy


def language_model(settings: Settings) -> Any:
    """The `dspy.LM` of `settings.language_model.model`. Kept between orders, for its connections.
    Raises LocalModelUnavailable for a local model without DSPY_API_BASE."""
    asked = settings.language_model
    key = asked.api_key.get_secret_value() if asked.api_key else None
    name, temperature, stop = asked.model or "", asked.temperature, None
    if name.startswith(LOCAL):
        if asked.api_base is None:
            raise LocalModelUnavailable(f"{name} needs its server: make run starts it; else see python -m shop.confirmation.local_model")
        name = f"openai/{name.removeprefix(LOCAL)}"
        if "temperature" not in asked.model_fields_set:
            temperature = 0.0  # a small model that is left to chance gets its slots wrong
        stop = "[[ ## completed ## ]]"  # DSPy's mark of the end, after which a small model goes on
    return _language_model(
        _Model(
            name,
            asked.api_base,
            key,
            asked.max_tokens,
            temperature,
            settings.confirmation.timeout_seconds,
            stop,
        )
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
    stop: str | None = None


@lru_cache(maxsize=4)
def _language_model(asked: _Model) -> Any:
    dspy = configured_dspy()
    limits: dict[str, Any] = {"max_tokens": asked.max_tokens, "temperature": asked.temperature}
    options: dict[str, Any] = {"cache": False, "num_retries": 1, "timeout": asked.seconds}
    if asked.api_base:
        options["api_base"] = asked.api_base
        options["api_key"] = "none"  # a server of one's own often asks for none, and must not be sent another provider's
    if asked.stop:
        options["stop"] = asked.stop
    if asked.api_key:
        options["api_key"] = asked.api_key
    try:
        return dspy.LM(asked.name, **limits, **options)
    except dspy.LMConfigurationError:  # OpenAI's reasoning models take neither
        return dspy.LM(asked.name, max_tokens=None, temperature=None, **options)


def reflection_model(settings: Settings) -> Any:
    """The `dspy.LM` of `DSPY_REFLECTION_MODEL`. Where the other model is, and its key, are also this one's if nothing else is
    set and both are of the same provider; a key never goes to another provider."""
    asked = settings.language_model
    name = asked.reflection_model or ""
    base, key = asked.reflection_api_base, asked.reflection_api_key
    if base is None and key is None and name.partition("/")[0] == (asked.model or "").partition("/")[0]:
        base, key = asked.api_base, asked.api_key
    return _language_model(_Model(name, base, key.get_secret_value() if key else None, 8000, 1.0, _REFLECTION_SECONDS))
