"""The shop of the integration tests, for parts that lie, poison and attack."""

from __future__ import annotations

from tests.integration.conftest import saga, shop_environment, unique, world

__all__ = ["saga", "shop_environment", "unique", "world"]
