"""The web app against its own OpenAPI description:
schemathesis sends what that allows and what it does not, and judges the answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deployments.environment import environment
from tests.integration.web import KEY, SECRET, served

SIGNED = ("/webhooks/stripe", "/orders/shopify", "/orders/woocommerce")
NO_SERVER = "http://127.0.0.1:1/api"


@pytest.fixture
def web(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    values = {
        "ORDERS_API_KEY": KEY,
        "PAYMENT_GATEWAY": "stripe",
        "STRIPE_API_KEY": "sk_test_nobody",
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "SHOPIFY_WEBHOOK_SECRET": SECRET,
        "WOOCOMMERCE_WEBHOOK_SECRET": SECRET,
        "PREFECT_API_URL": NO_SERVER,
    }
    with environment(values), served() as client:
        yield client


def schemathesis(web: httpx.Client, folder: Path, *options: str) -> None:
    """Runs it, always with the same cases. AssertionError, with its report, if it has found anything."""
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    command += [f"{str(web.base_url).rstrip('/')}/openapi.json", "--header", f"Authorization: Bearer {KEY}"]
    command += ["--generation-deterministic", "--continue-on-failure", "--request-timeout", "10"]
    done = subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Test cases:" in done.stdout


def test_orders_and_health_keep_to_their_description(web: httpx.Client, tmp_path: Path) -> None:
    """Every check that there is."""
    options = [part for path in SIGNED for part in ("--exclude-path", path)]
    schemathesis(web, tmp_path, "--checks", "all", "--max-examples", "25", *options)


def test_webhooks_keep_to_their_description(web: httpx.Client, tmp_path: Path) -> None:
    """All that is not signed is refused, so that nothing of it can be accepted."""
    options = [part for path in SIGNED for part in ("--include-path", path)]
    options += ["--max-examples", "15"]
    schemathesis(web, tmp_path, "--checks", "all", "--exclude-checks", "positive_data_acceptance", *options)
