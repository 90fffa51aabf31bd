"""A browser, and the world of `make run` to look at with it.

UI_AT=http://127.0.0.1:4200 looks at one that runs already. UI_SCREENSHOTS=1 writes README's pictures (docs/*.png).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deployments.stack.processes import free_port, wait_until
from tests.conftest import own_port
from tests.ui.person import Person

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOME = Path(__file__).resolve().parent.parent.parent
FAILURES = HOME / "var" / "ui-failures"
_OURS = ("DATABASE_URL", "PREFECT_API_URL", "PAYMENT_GATEWAY", "PAYMENT_GATEWAY_URL", "STRIPE_API_KEY", "PREFECT_HOME")
_CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync")  # fmt: skip


@pytest.fixture(scope="session")
def ui() -> Iterator[str]:
    """The address of the Prefect UI that `deployments.run` has started, its samples sent."""
    if given := os.environ.get("UI_AT"):
        yield given.rstrip("/")
        return
    with tempfile.TemporaryDirectory(prefix="order-saga-ui-") as var:
        folder = Path(var)
        own_port(folder / "prefect")
        port = int((folder / "prefect" / "port").read_text())
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        environment |= {"VAR_DIR": var, "WEB_PORT": str(free_port())}
        log = folder / "run.log"
        with log.open("wb") as output:
            run = subprocess.Popen([sys.executable, "-m", "deployments.run"], cwd=HOME, env=environment, stdout=output, stderr=output)
        try:
            wait_until(lambda: "Look at the runs:" in log.read_text() or run.poll() is not None, 300, "make run to be up", every=0.5)
            assert run.poll() is None, log.read_text()[-4000:]
            yield f"http://127.0.0.1:{port}"
        finally:
            run.send_signal(signal.SIGINT)
            run.wait(60)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=list(_CHROMIUM))
        yield chromium
        chromium.close()


@pytest.fixture
def person(ui: str, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Person]:
    """Somebody in front of the UI. If the test fails, what they saw last is kept."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_default_timeout(60_000)
    failed = request.session.testsfailed
    yield Person(page, ui)
    if request.session.testsfailed > failed:
        FAILURES.mkdir(parents=True, exist_ok=True)
        picture = FAILURES / f"{request.node.name}.png"
        page.screenshot(path=picture, full_page=True)
        sys.stderr.write(f"\nwhat could be seen: {picture}\n")
    page.close()
