"""`python -m shop.payments.sandbox`: serves the sandbox gateway on this machine only, and prints its address."""

from __future__ import annotations

import argparse
import socket
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import uvicorn

from shop.payments.sandbox.app import create_app
from shop.payments.sandbox.behaviour import Behaviour
from shop.payments.sandbox.ledger import Ledger


class _Server(uvicorn.Server):
    """Tells where it is as soon as it answers there."""

    def __init__(self, config: uvicorn.Config, port: int, port_file: Path | None) -> None:
        super().__init__(config)
        self._port, self._port_file = port, port_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._port_file is not None:
            _write_whole(self._port_file, str(self._port))
        print(f"http://127.0.0.1:{self._port}", flush=True)


def _listen(port: int) -> socket.socket:
    # asyncio sends small answers at once only on sockets that say they are TCP; on others each waits 40 ms for Nagle.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


def _write_whole(path: Path, text: str) -> None:
    """Nobody ever reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    draft.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shop.payments.sandbox", description="A payment gateway for development and tests.")
    parser.add_argument("--port", type=int, default=8420, help="0 for any free one (default: %(default)s)")
    parser.add_argument("--db", type=Path, help="the ledger's file (default: in memory)")
    parser.add_argument("--port-file", type=Path, help="write the port there once it listens")
    parser.add_argument("--forget-keys", action="store_true", help="ignore idempotency keys")
    arguments = parser.parse_args()

    try:
        behaviour = Behaviour.from_env()
        if arguments.forget_keys:
            behaviour = behaviour.model_copy(update={"forget_keys": True})
        listener, ledger = _listen(arguments.port), Ledger(arguments.db, behaviour)
    except (OSError, OverflowError, ValueError, sqlite3.Error) as error:
        raise SystemExit(f"the sandbox cannot start: {error}") from error

    config = uvicorn.Config(
        create_app(ledger),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=60,  # longer than any client's own, so that the server never hangs up on a request
        timeout_graceful_shutdown=1,  # answers that are held back must not hold up the end
    )
    with closing(ledger), listener, suppress(KeyboardInterrupt):
        _Server(config, listener.getsockname()[1], arguments.port_file).run([listener])


if __name__ == "__main__":
    main()
