"""`order-saga-health`: reports whether the role of a container works, with its exit code, for `HEALTHCHECK`.

The role is that of the container's first process, or of the command line that is given:

order-saga-health                          # in a container
order-saga-health order-saga worker --with-healthcheck
order-saga-health --live                   # without what the role needs from others, for restarts

Roles without an HTTP server are healthy while they run: a worker without `--with-healthcheck`, jobs,
Prefect's background services. Loads in a tenth of a second, because it runs every few seconds.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 4
"""Timeout of the request, below that of the image's `HEALTHCHECK`."""
_MOST_BYTES = 2_000
"""Limits how much of an answer is printed."""
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  (compared, not bound)
_FIRST_PROCESS = Path("/proc/1/cmdline")


@dataclass(frozen=True)
class Probe:
    """Where a role answers."""

    host: str
    port: int
    live: str
    ready: str


def probe(command: Sequence[str], environment: Mapping[str, str]) -> Probe | None:
    """Returns where the role of this command line answers; None: it has no HTTP server."""
    words = _words(command)
    after = {name: words[words.index(name) + 1 :] for name in ("order-saga", "prefect") if name in words}
    role = next((rest[:1] for rest in after.values() if rest), [])
    if role == ["worker"] and "--with-healthcheck" in words:
        return _probe(words, environment, "PREFECT_WORKER_WEBSERVER", 8080)
    if role == ["web"]:
        return _probe(words, environment, "WEB", 8430)
    if role == ["sandbox"]:
        return _probe(words, environment, "", 8420, ready="/health")
    if role == ["inventory-service"]:
        return _probe(words, environment, "", 8440, ready="/health")
    if after.get("prefect", [])[:2] == ["server", "start"]:
        base = environment.get("PREFECT_SERVER_API_BASE_PATH") or "/api"
        return _probe(
            words, environment, "PREFECT_SERVER_API", 4200, live=f"{base}/health", ready=f"{base}/ready"
        )
    return None


def _words(command: Sequence[str]) -> list[str]:
    """Returns the names in the command line, also those that it passes to a shell as one argument."""
    return [Path(word).name for argument in command for word in argument.split()]


def _probe(
    command: Sequence[str],
    environment: Mapping[str, str],
    prefix: str,
    port: int,
    *,
    live: str = "/health",
    ready: str = "/ready",
) -> Probe:
    host = _option(command, "--host") or environment.get(f"{prefix}_HOST", "")
    chosen = _option(command, "--port") or environment.get(f"{prefix}_PORT", "")
    return Probe("127.0.0.1" if host in _EVERYWHERE else host, int(chosen or port), live, ready)


def _option(command: Sequence[str], name: str) -> str | None:
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return None


def _answer(target: Probe, path: str) -> tuple[bool, str]:
    """Asks the role; returns whether it is healthy, and what it says. No proxy is used."""
    connection = http.client.HTTPConnection(target.host, target.port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read(_MOST_BYTES).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return False, f"{target.host}:{target.port} does not answer ({error or type(error).__name__})"
    finally:
        connection.close()
    return answer.status == http.HTTPStatus.OK, f"{answer.status} {text}"


def main() -> None:
    """Exits with 0 if the role is healthy, with 1 if not, and prints the role's answer."""
    given = sys.argv[1:]
    is_live = given[:1] == ["--live"]
    command = given[is_live:] or _FIRST_PROCESS.read_text(encoding="utf-8", errors="replace").split("\0")
    target = probe(command, os.environ)
    if not {"order-saga", "prefect"} & set(_words(command)):
        sys.exit("no role of order-saga: give its command line, such as order-saga-health order-saga web")
    if target is None:
        print("running; it has no health check")
        return
    healthy, reasons = _answer(target, target.live if is_live else target.ready)
    print(reasons)
    sys.exit(not healthy)


if __name__ == "__main__":
    main()
