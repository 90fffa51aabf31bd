"""`order-saga secrets`: generates the passwords and keys of a new installation."""

from __future__ import annotations

import secrets as random
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from deployments import terminal
from shop.runtime.files import PRIVATE_FILE, write_atomic

_BYTES = 32
_EVERYBODY_READS = 0o444


def new_secrets(
    folder: Path,
    *,
    postgres: str = "postgres:5432",
    redis: str = "redis:6379",
    readable: bool = False,
) -> int:
    """Generate the passwords and keys of a new installation, each as a file of the folder.

    Existing files stay as they are, so that your own can be among them, and a second call changes nothing.

    Exit codes: 0; 1, a file cannot be written.

    Args:
        folder: Created if it is missing.
        postgres: Host and port of PostgreSQL, for the addresses of the databases.
        redis: Host and port of Redis, for the addresses of the Prefect servers' messages.
        readable: Let all users of this machine read the files: for a volume that only containers mount, whose
            processes run as different users.
    """
    try:
        folder.mkdir(mode=0o755 if readable else 0o700, parents=True, exist_ok=True)
        made = _write_missing(folder, postgres, redis, _EVERYBODY_READS if readable else PRIVATE_FILE)
    except OSError as error:
        raise SystemExit(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    terminal.write(f"{folder}: {', '.join(made) if made else 'all secrets exist'}")
    return 0


def _write_missing(folder: Path, postgres: str, redis: str, mode: int) -> list[str]:
    """Returns the names of the files that were missing."""
    known: dict[str, str] = {}
    made = []
    for name, make in _files(postgres, redis, known).items():
        file = folder / name
        if not file.exists():
            write_atomic(file, f"{make()}\n".encode())
            file.chmod(mode)
            made.append(name)
        known[name] = file.read_text(encoding="utf-8").strip()
    return made


def _files(postgres: str, redis: str, known: Mapping[str, str]) -> dict[str, Callable[[], str]]:
    """Returns what makes each file's content. Those of addresses read `known`, the files before them."""

    def key() -> str:
        return random.token_urlsafe(_BYTES)

    def database(scheme: str, name: str) -> str:
        return f"{scheme}://postgres:{quote(known['postgres-password'], safe='')}@{postgres}/{name}"

    def messages(number: int) -> str:
        return f"redis://:{quote(known['redis-password'], safe='')}@{redis}/{number}"

    return {
        "postgres-password": key,
        "database-url": lambda: database("postgresql", "shop"),
        "prefect-database-url": lambda: database("postgresql+asyncpg", "prefect"),
        "redis-password": key,
        "redis-url": lambda: messages(0),
        "docket-url": lambda: messages(1),
        "prefect-auth": lambda: f"admin:{key()}",
        "orders-api-key": key,
        "metrics-token": key,
    }
