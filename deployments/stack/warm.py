"""`python -m deployments.stack.warm GO_FILE ARGUMENT...`: is `prefect ARGUMENT...`, but loads itself first and waits for GO_FILE.

Loading Prefect takes seconds. Doing it while the server still starts takes them off the time that a person waits.
GO_FILE holds the address of the API. Ends by itself when its parent has died before it was told to go.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

_PARTS = {
    "worker": ("prefect.cli.worker", "prefect.cli._worker_utils", "prefect.workers.process"),
    "deploy": ("prefect.cli.deploy", "flows"),
}


def main() -> None:
    go_file, arguments = Path(sys.argv[1]), sys.argv[2:]
    parent = os.getppid()
    for word in arguments:
        for part in _PARTS.get(word, ()):
            importlib.import_module(part)
    from prefect.cli import app
    from prefect.context import refresh_global_settings_context

    while not go_file.exists():
        if os.getppid() != parent:
            sys.exit(1)
        time.sleep(0.02)
    os.environ["PREFECT_API_URL"] = go_file.read_text(encoding="utf-8").strip()
    refresh_global_settings_context()
    sys.argv = ["prefect", *arguments]
    app()


if __name__ == "__main__":
    main()
