"""The process that runs llama.cpp: a JSON line in, a JSON line out. `local_model` starts it, with the file of the weights.

A process of its own, because a mistake in native code must not take a worker and its orders along, because it can be killed, and
because two libraries of compiled Cython, this one and the labels' uharfbuzz, cannot be loaded into one process (Cython 3.3).
It imports nothing of this project. It ends when its standard input does, so it does not outlive the process that started it.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import sys
import threading
from typing import Any

_CONTEXT = 4096


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever native code prints is no answer
    server = _server(sys.argv[1])
    calls: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    stopped: set[int] = set()
    threading.Thread(target=_read, args=(calls, stopped), daemon=True).start()
    _say(answers, {"ready": True})
    while True:
        call = calls.get()
        _say(answers, {"id": call["id"], **_answer(server, call, stopped)})


def _read(calls: queue.SimpleQueue[dict[str, Any]], stopped: set[int]) -> None:
    for line in sys.stdin:
        call = json.loads(line)
        if "stop" in call:
            stopped.add(call["stop"])
        else:
            calls.put(call)
    os._exit(0)


def _say(answers: Any, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def _server(weights: str) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = weights
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


def _answer(server: Any, call: dict[str, Any], stopped: set[int]) -> dict[str, Any]:
    text: list[str] = []
    found: dict[str, Any] = {"finish": "stop", "usage": {}}

    def took(chunk: Any) -> bool:
        """llama.cpp says each token here, and ends when this is true."""
        for part in chunk if isinstance(chunk, list) else [chunk]:
            if "error" in part:
                found["error"] = str(part["error"].get("type"))[:60]
                return True
            found["usage"] = part.get("usage") or found["usage"]
            for choice in part.get("choices", []):
                text.append(choice.get("delta", {}).get("content") or "")
                if choice.get("finish_reason") == "length":
                    found["finish"] = "length"
        return call["id"] in stopped

    if call["id"] not in stopped:
        try:
            server.handle_chat_completions(call["body"], took)
        except Exception as error:  # noqa: BLE001 - one answer less; the next one may work
            found["error"] = type(error).__name__
    return {**found, "text": "".join(text), "stopped": call["id"] in stopped}


if __name__ == "__main__":
    main()
