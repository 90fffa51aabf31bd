"""Whole systems and commands, started as people start them: they have the shop of the integration tests."""

from __future__ import annotations

from tests.integration.conftest import (
    monkeypatch,
    runnable_flows,
    saga,
    shop_environment,
    stripe_saga,
    unique,
    worker,
    world,
)

__all__ = [
    "monkeypatch",
    "runnable_flows",
    "saga",
    "shop_environment",
    "stripe_saga",
    "unique",
    "worker",
    "world",
]
