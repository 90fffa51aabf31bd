"""The fleet's options."""

from __future__ import annotations

import pytest

from tests.integration.conftest import unique

__all__ = ["unique"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("fleet").addoption(
        "--fleet-orders", type=int, default=1000, help="How many orders go through the fleet, in both lanes."
    )
