"""Client of the language model, on its own thread and event loop.

Nothing that DSPy or a provider's library does (a second of imports, a blocking call, an ignored cancellation)
blocks the processing of orders: they await a future with a time limit. No customer data is kept: no cache on
disk or in memory, no history, no trace.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from shop.confirmation.settings import LOCAL
from shop.runtime.extras import needs_extra
from shop.settings import Settings

_REFLECTION_SECONDS = 120


class ModelStopped(Exception):
    """The conversation was cancelled or ended by its own code, which must not look like a cancelled order."""


class LocalModelUnavailable(Exception):
    """No server of a local model is configured. The message says what to do and contains no secret."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's unchecked answer, and the program that asked."""

    texts: dict[str, str]
    program: str
    warning: str | None = None
    """Why the stored program was not used."""


_starting = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_limits: dict[int, asyncio.Semaphore] = {}


async def ask(inputs: Mapping[str, str], settings: Settings) -> Answer:
    """Returns the model's unchecked texts. Raises any error of the conversation; cancelling this ends it.
    `settings.confirmation.concurrency` limits the concurrent conversations of this process."""
    return await asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(_with_slot(inputs, settings), _own_loop())
    )


async def probe(settings: Settings) -> None:
    """Requests a very short answer from the model. Raises any error."""

    async def greet() -> None:
        with configured_dspy().context(**context(settings), max_trace_size=0):
            await language_model(settings).acall("Answer with the word yes.")

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(greet(), _own_loop()))


def _own_loop() -> asyncio.AbstractEventLoop:
    global _loop  # noqa: PLW0603
    with _starting:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="language-model", daemon=True).start()
        return _loop


async def _with_slot(inputs: Mapping[str, str], settings: Settings) -> Answer:
    limit = settings.confirmation.concurrency
    try:
        async with _limits.setdefault(limit, asyncio.Semaphore(limit)):
            return await _request(inputs, settings)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ModelStopped from None
    except (SystemExit, KeyboardInterrupt):
        raise ModelStopped from None


async def _request(inputs: Mapping[str, str], settings: Settings) -> Answer:
    dspy = configured_dspy()
    from shop.confirmation.program import in_use
    from shop.confirmation.signature import texts_of

    program = await asyncio.to_thread(in_use, settings)
    with dspy.context(**context(settings), max_trace_size=0):
        prediction = await program.writer.acall(**inputs)
    return Answer(texts_of(prediction), program.version, program.warning)


def context(settings: Settings) -> dict[str, Any]:
    """Returns the options of `dspy.context` for the model of these settings, without history or traces."""
    quiet = {"disable_history": True, "callbacks": [], "track_usage": False, "warn_on_type_mismatch": False}
    return {"lm": language_model(settings), **quiet}


@lru_cache(maxsize=1)
def configured_dspy() -> Any:
    """Imports DSPy, configured so that it makes no network request and caches nothing.
    Raises `MissingExtra`."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # else its import makes a network request
    with needs_extra("llm", "DSPY_MODEL"):
        import dspy  # type: ignore[import-untyped]

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    return dspy


def language_model(settings: Settings) -> Any:
    """Returns the `dspy.LM` of `settings.language_model.model`. It is shared by orders, for its connections.
    Raises LocalModelUnavailable for a local model without DSPY_API_BASE."""
    asked = settings.language_model
    key = asked.api_key.get_secret_value() if asked.api_key else None
    name, temperature, stop = asked.model or "", asked.temperature, None
    if name.startswith(LOCAL):
        if asked.api_base is None:
            raise LocalModelUnavailable(
                f"{name} needs a server at DSPY_API_BASE: "
                "make run starts one, or run python -m shop.confirmation.local_model"
            )
        name = f"openai/{name.removeprefix(LOCAL)}"
        if "temperature" not in asked.model_fields_set:
            temperature = 0.0  # with a higher one, a small model gets its slots wrong
        stop = "[[ ## completed ## ]]"  # DSPy's end mark: a small model does not stop there
    seconds = settings.confirmation.timeout_seconds
    return _language_model(name, asked.api_base, key, asked.max_tokens, temperature, seconds, stop)


# Not of the settings object: some settings cannot be hashed.
@lru_cache(maxsize=4)
def _language_model(  # noqa: PLR0917
    name: str,
    api_base: str | None,
    api_key: str | None,
    max_tokens: int,
    temperature: float,
    seconds: float,
    stop: str | None = None,
) -> Any:
    dspy = configured_dspy()
    options: dict[str, Any] = {"cache": False, "num_retries": 1, "timeout": seconds}
    if api_base:
        options["api_base"] = api_base
        options["api_key"] = "none"  # own servers often require none, and must not get another provider's
    if stop:
        options["stop"] = stop
    if api_key:
        options["api_key"] = api_key
    try:
        return dspy.LM(name, max_tokens=max_tokens, temperature=temperature, **options)
    except dspy.LMConfigurationError:  # OpenAI's reasoning models accept neither option
        return dspy.LM(name, max_tokens=None, temperature=None, **options)


def reflection_model(settings: Settings) -> Any:
    """Returns the `dspy.LM` of `DSPY_REFLECTION_MODEL`. Its address and key default to the other model's if
    both are of the same provider; a key never goes to another provider."""
    asked = settings.language_model
    name = asked.reflection_model or ""
    base, key = asked.reflection_api_base, asked.reflection_api_key
    if base is None and key is None and name.partition("/")[0] == (asked.model or "").partition("/")[0]:
        base, key = asked.api_base, asked.api_key
    secret = key.get_secret_value() if key else None
    return _language_model(name, base, secret, 8000, 1.0, _REFLECTION_SECONDS)
