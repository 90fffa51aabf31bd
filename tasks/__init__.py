"""The steps of the order saga: one file for each, the task and its compensation side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from shop.runtime import secrets


def _read(name: str) -> str:
    """Reads the Prefect Secret block that a setting names (`STRIPE_API_KEY_BLOCK=stripe-key`) in its own
    thread, because settings are read where they are first needed, also inside an event loop."""
    from prefect.blocks.system import Secret  # imported here: loading Prefect takes a second or two

    def load() -> str:
        block = Secret.load(name)
        assert isinstance(block, Secret)  # not a coroutine, because no event loop runs in this thread
        return str(block.get())

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(load).result(30)


secrets.blocks_from(_read)
