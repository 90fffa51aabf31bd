"""What a person does in the Prefect UI: finds things by what is written on them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from deployments.stack.processes import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
_PATIENCE = 120_000


class Person:
    """Uses one page of a browser."""

    def __init__(self, page: Page, ui: str) -> None:
        self.page, self.ui = page, ui

    def open_form(self, deployment: str) -> None:
        """Deployments, the deployment, Run, Custom run."""
        self.page.goto(f"{self.ui}/deployments")
        self.page.get_by_role("link", name=deployment, exact=True).first.click()
        self.page.wait_for_url("**/deployments/deployment/*")
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Custom run").click()
        self.page.get_by_role("button", name="Submit").wait_for()
        self.page.get_by_text("Parameters", exact=True).first.wait_for()

    def field(self, label: str) -> Locator:
        """The field under the (last) label of these words."""
        wanted = f"//label[.//span[normalize-space()='{label}']]"
        return self.page.locator(f"xpath=({wanted})[last()]/following::*[self::textarea or self::input][1]")

    def fill(self, **fields: str) -> None:
        """Fills fields, by their labels."""
        for name, value in fields.items():
            self.field(name).fill(value)

    def choose(self, label: str, choice: str) -> None:
        """Chooses one of a list."""
        self.page.locator(
            f"xpath=//label[.//span[normalize-space()='{label}']]/following::button[contains(@class,'p-select-button')][1]"
        ).click()
        self.page.get_by_role("option", name=choice).or_(self.page.locator(".p-select-option", has_text=choice)).first.click()

    def say(self, label: str, text: str) -> None:
        """Fills a field that may also be left empty."""
        wanted = f"//label[.//span[normalize-space()='{label}']]"
        self.page.locator(f"xpath=({wanted})[last()]/following::button[normalize-space()='str'][1]").click()
        self.field(label).fill(text)

    def submit(self, name: str) -> str:
        """Sends the form. Returns the id of the run, which calls itself so once it has begun."""
        self.page.get_by_role("button", name="Submit").click()
        wait_until(lambda: bool(self._runs(name)), 120, f"a run called {name}", every=0.5)
        return str(self._runs(name)[0]["id"])

    def look_at_run(self, run: str) -> None:
        """Opens the page of a run."""
        self.page.goto(f"{self.ui}/runs/flow-run/{run}")

    def sees_state(self, state: str) -> None:
        """Waits until the run's page says that it is in this state."""
        from playwright.sync_api import expect

        expect(self.page.get_by_text(state, exact=True).first).to_be_visible(timeout=_PATIENCE)

    def sees_task(self, name: str) -> None:
        """Waits until the run's page lists this task run."""
        self.page.get_by_text("Task Runs", exact=True).first.click()
        self.sees(name)

    def sees(self, text: str) -> None:
        """Waits until this can be read somewhere."""
        from playwright.sync_api import expect

        expect(self.page.get_by_text(re.compile(re.escape(text))).first).to_be_visible(timeout=_PATIENCE)

    def picture(self, name: str) -> None:
        """A picture for README, if they are wanted."""
        if os.environ.get("UI_SCREENSHOTS"):
            self.page.screenshot(path=DOCS / f"{name}.png")

    def _runs(self, name: str) -> list[dict[str, Any]]:
        wanted = {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC", "limit": 1}
        return list(httpx.post(f"{self.ui}/api/flow_runs/filter", json=wanted, timeout=30).json())
