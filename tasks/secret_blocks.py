"""Settings may name Prefect Secret blocks (`STRIPE_API_KEY_BLOCK=stripe-key`): here they are read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from shop import secrets


def _read(name: str) -> str:
    """In a thread of its own: settings are read wherever they are first needed, also inside an event loop."""
    from prefect.blocks.system import Secret  # Prefect takes a second or two to load

    def load() -> str:
        block = Secret.load(name)
        assert isinstance(block, Secret)  # not a coroutine, where no event loop runs
        return str(block.get())

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(load).result(30)


secrets.blocks_from(_read)
