"""Serving an HTTP application from one process: on a port that is told once it answers there."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn

from shop.files import write_atomic


class _Server(uvicorn.Server):
    """Tells where it is as soon as it answers there."""

    def __init__(self, config: uvicorn.Config, url: str, port: int, port_file: Path | None) -> None:
        super().__init__(config)
        self._url, self._port, self._port_file = url, port, port_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._port_file is not None:
            write_atomic(self._port_file, str(self._port).encode())
        print(self._url, flush=True)


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket on that port; 0: any that is free. Raises OSError if it is taken."""
    # asyncio sends small answers at once only on sockets that say they are TCP; on others each waits 40 ms for Nagle.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def serve(app: Any, listener: socket.socket, port_file: Path | None = None, **options: Any) -> None:
    """Serves until SIGTERM or Ctrl-C, and prints its address. `options` are uvicorn's."""
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, **options)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    with suppress(KeyboardInterrupt), _ending_well():
        _Server(config, url, port, port_file).run([listener])


@contextmanager
def _ending_well() -> Iterator[None]:
    """uvicorn sends a SIGTERM that it has heard on to its process, which would end at once: without a goodbye of who runs it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
