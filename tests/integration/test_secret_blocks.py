"""A secret in a block of a real Prefect server."""

from __future__ import annotations

import pytest
from prefect.blocks.system import Secret

import tasks  # noqa: F401  (what reads the blocks)
from deployments.stack.prefect_server import PrefectServer
from shop.settings import Settings


async def test_settings_read_it_also_inside_an_event_loop(prefect_api: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    await Secret(value="sk_test_PLANTED").save("planted-stripe-key", overwrite=True)  # type: ignore[misc, call-arg, arg-type]
    monkeypatch.setenv("STRIPE_API_KEY_BLOCK", "planted-stripe-key")
    monkeypatch.delenv("STRIPE_API_KEY", raising=False)
    key = Settings().stripe_api_key
    assert key is not None
    assert key.get_secret_value() == "sk_test_PLANTED"
    monkeypatch.setenv("STRIPE_API_KEY_BLOCK", "not-there")
    with pytest.raises(ValueError, match="STRIPE_API_KEY_BLOCK=not-there cannot be read from the Prefect server"):
        Settings()
