"""Servers and worker processes of these tests' own, so that what is done to them disturbs nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.nursery import Nursery
from tests.integration.conftest import saga, shop_environment, unique, world

__all__ = ["saga", "shop_environment", "unique", "world"]


@pytest.fixture(scope="session")
def running_nursery(world_dir: Path) -> Iterator[Nursery]:
    nursery = Nursery(world_dir / "nursery", world_dir / "run")
    try:
        nursery.start()
        yield nursery
    finally:
        nursery.stop()


@pytest.fixture
def nursery(running_nursery: Nursery) -> Iterator[Nursery]:
    """Worker processes for this test; those that are left at its end are ended."""
    yield running_nursery
    running_nursery.end_all()
