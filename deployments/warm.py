"""Preloads `prefect ARGUMENT...` and runs it on a signal: `python -m deployments.warm GO_FILE
ARGUMENT...`.

Loading Prefect takes seconds, which this overlaps with the start of the server. GO_FILE contains the API's
address once it may run. It ends if its parent dies before.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

_PARTS = {
    "worker": ("prefect.cli.worker", "prefect.cli._worker_utils", "deployments.worker"),
    "deploy": ("prefect.cli.deploy",),
}


def main() -> None:
    go_file, arguments, parent = sys.argv[1], sys.argv[2:], os.getppid()
    load(part for word in arguments for part in _PARTS.get(word, ()))
    os.environ["PREFECT_API_URL"] = _wait_for(Path(go_file), parent)
    importlib.import_module("prefect.context").refresh_global_settings_context()
    sys.argv = ["prefect", *arguments]
    with importlib.import_module("deployments.worker").working() if "worker" in arguments else nullcontext():
        importlib.import_module("prefect.cli").app()


def load(parts: Iterable[str]) -> None:
    """Imports the modules without garbage collection, and excludes them from later collections. Saves a
    fifth of the time."""
    gc.disable()
    for part in parts:
        importlib.import_module(part)
    gc.collect()
    gc.freeze()
    gc.enable()


def _wait_for(go_file: Path, parent: int) -> str:
    while not go_file.exists():
        if os.getppid() != parent:
            sys.exit(1)
        time.sleep(0.02)
    return go_file.read_text(encoding="utf-8").strip()


if __name__ == "__main__":
    main()
