"""Runs a Python module with a PostgreSQL and a Prefect server: those of a running `make run`, or temporary
embedded ones.

python -m deployments.local.with_servers examples.minimal_saga --crash
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from deployments.environment import given
from deployments.errors import AlreadyRunning, Interrupted, StackError
from deployments.local.stack import HOME, Options, Stack
from deployments.running import configured_prefect_api_url, use_running_world


def main(arguments: Sequence[str]) -> int:
    """Returns the module's exit code; 1 if the servers cannot be started; 2 if no module is given."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    env_file = HOME / ".env"
    var = Path(given("VAR_DIR", env_file) or HOME / "var")
    database_url, api_url = given("DATABASE_URL", env_file), configured_prefect_api_url()
    options = Options(
        var_dir=var,
        database_url=database_url,
        prefect_api_url=api_url,
        sandbox=False,
        deployments=False,
        worker=False,
        web=False,
    )
    try:
        with _running() or Stack(options):
            return _run(arguments)
    except AlreadyRunning:  # its addresses are not written yet
        print("make run is starting: try again when it is up", file=sys.stderr)
    except StackError as error:
        print(f"could not start: {error}", file=sys.stderr)
    except (KeyboardInterrupt, Interrupted):
        return 130
    return 1


def _running() -> nullcontext[None] | None:
    """Returns a context if `make run` is up, whose addresses are then in this process's environment; else
    None."""
    addresses = HOME / "var" / "run.env"
    if given("VAR_DIR", HOME / ".env") or not addresses.exists():
        return None
    use_running_world()
    database_url = given("DATABASE_URL", addresses)
    if database_url is None:
        return None
    os.environ.setdefault("DATABASE_URL", database_url)
    return nullcontext()


def _run(arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=HOME, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
