"""What runs in place of an image of compose.yaml: the program of this machine, started as the image does."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deployments.local.postgres_binaries import account_for, find_binaries

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Program:
    """How an image's command becomes a process."""

    command: Sequence[str]
    folder: str | None = None
    """The image's working directory, as the container sees it."""
    environment: Mapping[str, str] = field(default_factory=dict)


_START_POSTGRES = """
set -e
sql() { $AS psql --host "$DATA" --username postgres --quiet --command "$1"; }
if [ ! -s "$DATA/PG_VERSION" ]; then
  chown "$ACCOUNT" "$DATA"; chmod 700 "$DATA"
  $AS initdb --pgdata "$DATA" --encoding UTF8 --username postgres --pwfile "$POSTGRES_PASSWORD_FILE" \
    --auth-host scram-sha-256 --auth-local trust >/dev/null
  echo "host all all all scram-sha-256" >> "$DATA/pg_hba.conf"
  $AS pg_ctl --pgdata "$DATA" -w -o "-c listen_addresses= -c unix_socket_directories=$DATA" start >/dev/null
  [ "$POSTGRES_DB" = postgres ] || sql "CREATE DATABASE $POSTGRES_DB"
  $AS pg_ctl --pgdata "$DATA" -w stop >/dev/null
fi
exec $AS "$@" -D "$DATA" -c "listen_addresses=*" -c "unix_socket_directories=$DATA"
"""


def program_of(image: str, command: Sequence[str] | None) -> Program:
    """Returns what runs in place of the image with that command."""
    name = image.rpartition("/")[2].partition(":")[0]
    return {"postgres": _postgres, "redis": _redis, "haproxy": _haproxy}.get(name, _ours)(command or [])


def _ours(command: Sequence[str]) -> Program:
    """Our own image: this virtual environment, behind the image's init process."""
    folder = "/var/lib/order-saga"
    return Program(
        ["tini", "--", *command],
        environment={
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "HOME": folder,
            "VAR_DIR": folder,
            "PREFECT_HOME": f"{folder}/prefect",
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": f"{folder}/ui",
            "WEB_HOST": "0.0.0.0",
        },
    )


def _postgres(command: Sequence[str]) -> Program:
    folder = find_binaries().folder
    account = account_for(Path("/nonexistent"))
    assert account, "the fleet needs root"
    return Program(
        ["sh", "-c", _START_POSTGRES, "postgres", *(command or ["postgres"])],
        environment={
            "DATA": "/var/lib/postgresql/data",
            "ACCOUNT": f"{account.uid}:{account.gid}",
            "AS": f"setpriv --reuid {account.uid} --regid {account.gid} --clear-groups --",
            "PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        },
    )


def _redis(command: Sequence[str]) -> Program:
    path = f"{Path(__file__).parent / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    return Program(command or ["redis-server"], folder="/data", environment={"PATH": path})


def _haproxy(command: Sequence[str]) -> Program:
    return Program(command or ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"])
