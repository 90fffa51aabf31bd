"""Loads the flows, waits for a run on the standard input, and runs it as `python -m prefect.engine` does:
`python -m deployments.standby_run`.

The process ends if its worker ends before that. It starts anew, without what it has loaded, if a file of the
code has changed meanwhile, or if the run needs another environment than the worker's.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import runpy
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from deployments.warm import load

RUN_ID_VARIABLE = "PREFECT__FLOW_RUN_ID"
NO_RUN = UUID(int=0)
"""The run's id, in the list of processes, of a process that waits."""
_MODULES = (
    "prefect.engine",
    "prefect.flow_engine",
    "prefect._internal.metrics",
    "flows.process_order",
    "flows.process_pending_orders",
    "flows.housekeeping",
)
_OF_A_RUN = ("PREFECT__", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "ORDER_SAGA_STANDBY")
"""Beginnings of the names of variables that no module reads while it is loaded."""


def main() -> None:
    began = time.time()
    load(_MODULES)
    if not (given := sys.stdin.buffer.read()):
        return
    run = json.loads(given)
    env: dict[str, str] = run["env"]
    os.chdir(run["cwd"])
    if (why := _why_anew(env, began)) is None:
        _show_run(env[RUN_ID_VARIABLE])
        os.environ.clear()
        os.environ.update(env)
        importlib.import_module("prefect.context").refresh_global_settings_context()
        sys.argv = ["prefect.engine"]
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    else:
        sys.stderr.write(f"The code is loaded again for this run: {why}.\n")
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, "-m", "prefect.engine"], env)  # noqa: S606


def _why_anew(env: Mapping[str, str], began: float) -> str | None:
    """Returns why the run cannot use what is loaded; None if it can."""
    different = {name for name, _ in env.items() ^ os.environ.items() if not name.startswith(_OF_A_RUN)}
    if different:
        return f"its environment has other values of {', '.join(sorted(different))}"
    home = str(Path(__file__).resolve().parents[1])
    files = {str(getattr(module, "__file__", "")) for module in list(sys.modules.values())}
    ours = {Path(file) for file in files if file.startswith(home) and "site-packages" not in file}
    if changed := {file.name for file in ours if not file.exists() or file.stat().st_mtime >= began}:
        return f"changed files: {', '.join(sorted(changed))}"
    return None


def _show_run(run_id: str) -> None:
    """Replaces the run's id in the environment that the list of processes shows: the one at the start."""
    find = ctypes.CDLL(None).getenv
    find.restype = ctypes.c_void_p
    ctypes.memmove(find(RUN_ID_VARIABLE.encode()), run_id.encode(), len(run_id))


if __name__ == "__main__":
    main()
