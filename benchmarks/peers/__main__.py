"""Measures other engines and ours with the same six effects, in one run: `make bench-peers`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.command import run
from benchmarks.peers.suite import PYTHON, RESTATE, SUITE
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
        "RESTATE_SERVER": str(_restate_server()),
    }


def versions() -> dict[str, str]:
    """Returns the versions of what `.peers` has."""
    asked = subprocess.run([PYTHON, "-c", _VERSIONS], capture_output=True, text=True, check=True)
    package = json.loads((RESTATE / "restate-server" / "package.json").read_text())
    return {**json.loads(asked.stdout), "Restate server": package["version"]}


def _restate_server() -> Path | None:
    """Returns the server itself, which npm installs for this machine only."""
    return next(RESTATE.glob("restate-server-*/bin/restate-server"), None)


if __name__ == "__main__":
    if not Path(PYTHON).exists() or not _restate_server():
        sys.exit("DBOS and Restate are not installed: make bench-peers installs them")
    sys.exit(run(SUITE, prepare=prepare, versions=versions()))
