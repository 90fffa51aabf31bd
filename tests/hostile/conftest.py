"""The shop of the integration tests, for parts that lie, poison and attack."""

from __future__ import annotations

from tests.faults.conftest import forkserver
from tests.integration.conftest import monkeypatch, runnable_flows, saga, shop_environment, unique, world

__all__ = ["forkserver", "monkeypatch", "runnable_flows", "saga", "shop_environment", "unique", "world"]
