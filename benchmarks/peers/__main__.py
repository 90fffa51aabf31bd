"""Measures other engines and ours with the same six effects, in one run: `make bench-peers`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.command import run
from benchmarks.peers.suite import PYTHON, RESTATE_SERVER, SUITE
from deployments.local.stack import Stack

_VERSIONS = (
    "import json; from importlib.metadata import version; "
    "print(json.dumps({'DBOS': version('dbos'), 'Restate SDK': version('restate-sdk')}))"
)


def prepare(stack: Stack) -> dict[str, str]:
    """Creates the peers' databases, and returns their environment."""
    if stack.postgres is None:
        raise RuntimeError("the peers need the embedded PostgreSQL")
    for database in ("peers", "peers_system"):
        stack.postgres.create_database(database)
    return {
        "PEERS_DATABASE_URL": stack.postgres.url("peers"),
        "PEERS_SYSTEM_DATABASE_URL": stack.postgres.url("peers_system"),
        "RESTATE_SERVER": str(RESTATE_SERVER),
    }


def versions() -> dict[str, str]:
    """Returns the versions of what `.peers` has."""
    asked = subprocess.run([PYTHON, "-c", _VERSIONS], capture_output=True, text=True, check=True)
    package = RESTATE_SERVER.parents[1] / "@restatedev" / "restate-server" / "package.json"
    return {**json.loads(asked.stdout), "Restate server": json.loads(package.read_text())["version"]}


if __name__ == "__main__":
    if not Path(PYTHON).exists() or not RESTATE_SERVER.exists():
        sys.exit("DBOS and Restate are not installed: make bench-peers installs them")
    sys.exit(run(SUITE, prepare=prepare, versions=versions()))
