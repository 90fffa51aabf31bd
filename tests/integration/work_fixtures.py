"""A shop in which effects can be counted, and what an event loop complains about."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable

import pytest

from tests.integration.domain import Shop


@pytest.fixture
async def stocked(shop: Shop) -> Shop:
    """Each order has a product of its own name, in which its effects are counted."""
    await shop.add_stock(**{chr(letter): 100 for letter in range(ord("A"), ord("T"))})
    return shop


@pytest.fixture
async def unheard() -> AsyncIterator[Callable[[], list[str]]]:
    """The event loop's complaints about calls whose end nobody looked at."""
    loop, complaints = asyncio.get_running_loop(), list[str]()
    before = loop.get_exception_handler()
    gc.collect()  # what tests before this one left is not its complaint
    loop.set_exception_handler(lambda _, context: complaints.append(str(context["message"])))

    def heard() -> list[str]:
        gc.collect()
        return complaints

    yield heard
    heard()
    loop.set_exception_handler(before)
