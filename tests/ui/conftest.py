"""A browser, and the world of `make run` to look at with it.

UI_VAR=/some/folder looks at one that runs already, with its data there.
UI_SCREENSHOTS=1 writes the pictures docs/ui-*.png.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
from dotenv import dotenv_values

from deployments.local.processes import free_port, wait_until
from tests.conftest import own_port
from tests.ui.person import Person

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOME = Path(__file__).resolve().parent.parent.parent
FAILURES = HOME / "var" / "ui-failures"
_OURS = {
    "DATABASE_URL",
    "PREFECT_API_URL",
    "PAYMENT_GATEWAY",
    "PAYMENT_GATEWAY_URL",
    "STRIPE_API_KEY",
    "PREFECT_HOME",
    "PREFECT_API_AUTH_STRING",
}
_CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Shop:
    """The world that `make run` has started."""

    def __init__(self, folder: Path) -> None:
        self.known = {name: value or "" for name, value in dotenv_values(folder / "run.env").items()}
        self.ui = self.known["PREFECT_API_URL"].removesuffix("/api") + "/v2"
        """The UI's version 2: it draws Mermaid."""
        self.prefect_password = self.known["PREFECT_API_AUTH_STRING"]
        self._key = (folder / "orders-api-key").read_text().strip()

    def opens(self, link: str) -> httpx.Response:
        """What a browser gets, once somebody has typed the key."""
        return httpx.get(link, auth=("ann", self._key), timeout=30).raise_for_status()

    def payments(self, order_id: str) -> list[dict[str, Any]]:
        """What the gateway's ledger knows about an order."""
        answer = httpx.get(
            f"{self.known['PAYMENT_GATEWAY_URL']}/v1/payments", params={"order_id": order_id}, timeout=30
        )
        return list(answer.raise_for_status().json()["data"])

    def runs(self, deployment: str) -> None:
        """Starts a run of it, as its schedule does."""
        with self.prefect() as api:
            known = api.get(f"/deployments/name/{deployment}").raise_for_status().json()
            api.post(f"/deployments/{known['id']}/create_flow_run", json={}).raise_for_status()

    def has_artifact(self, key: str) -> bool:
        """Whether some run has made one."""
        with self.prefect() as api:
            return api.get(f"/artifacts/{key}/latest").is_success

    def prefect(self) -> httpx.Client:
        """A client of its API."""
        user, password = self.prefect_password.split(":")
        return httpx.Client(base_url=self.known["PREFECT_API_URL"], auth=(user, password), timeout=30)

    def slow_down(self, order_id: str) -> None:
        """From now on the gateway takes a minute to confirm the order's payment."""
        rule = {"order_id": order_id, "move": "confirm", "fault": "slow", "ms": 60_000}
        httpx.post(
            f"{self.known['PAYMENT_GATEWAY_URL']}/sandbox/behaviour", json={"faults": [rule]}, timeout=30
        ).raise_for_status()

    def reservation(self, order_id: str) -> str | None:
        """What became of the stock that was reserved for an order."""
        with psycopg.connect(self.known["DATABASE_URL"].replace("+psycopg", "")) as connection:
            row = connection.execute(
                "SELECT state FROM reservation WHERE order_id = %s", [order_id]
            ).fetchone()
        return str(row[0]) if row else None


@pytest.fixture(scope="session")
def shop() -> Iterator[Shop]:
    """What `order-saga run` has started, its samples sent."""
    if given := os.environ.get("UI_VAR"):
        yield Shop(Path(given))
        return
    with tempfile.TemporaryDirectory(prefix="order-saga-ui-") as var:
        folder = Path(var)
        folder.chmod(0o711)  # PostgreSQL runs as another user when this is root
        own_port(folder / "prefect")
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        environment |= {
            "VAR_DIR": var,
            "WEB_PORT": str(free_port()),
            "PREFECT_API_URL": "",  # whatever a Prefect profile names
        }
        log = folder / "run.log"
        with log.open("wb") as output:
            run = subprocess.Popen(
                [sys.executable, "-m", "deployments.cli", "run"],
                cwd=HOME,
                env=environment,
                stdout=output,
                stderr=output,
            )
        try:
            wait_until(
                lambda: "Look at the runs:" in log.read_text() or run.poll() is not None,
                300,
                "make run to be up",
                every=0.5,
            )
            assert run.poll() is None, log.read_text()[-4000:]
            yield Shop(folder)
        finally:
            run.send_signal(signal.SIGINT)
            run.wait(180)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    where = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert where, "there is no chromium: apt-get install chromium, or name it: CHROMIUM=/path/to/chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=where, args=list(_CHROMIUM))
        yield chromium
        chromium.close()


@pytest.fixture
def person(shop: Shop, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Person]:
    """Somebody in front of the UI. If the test fails, what they saw last is kept."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_default_timeout(60_000)
    failed = request.session.testsfailed
    with shop.prefect() as api:
        at_browser = Person(page, shop.ui, api)
        at_browser.logs_in(shop.prefect_password)
        yield at_browser
    if request.session.testsfailed > failed:
        FAILURES.mkdir(parents=True, exist_ok=True)
        picture = FAILURES / f"{request.node.name}.png"
        page.screenshot(path=picture, full_page=True)
        sys.stderr.write(f"\nwhat could be seen: {picture}\n")
    page.close()
