"""What a person does in the Prefect UI: finds things by what is written on them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from deployments.local.processes import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
_TIMEOUT_MS = 120_000
"""Milliseconds: a worker starts a process for each run."""


class Person:
    """Uses one page of a browser. Everything waits until it can be seen."""

    def __init__(self, page: Page, ui: str, api: httpx.Client) -> None:
        """`api` is a client of the Prefect server, for what cannot be seen."""
        self.page, self.ui, self._api = page, ui, api

    def logs_in(self, password: str) -> None:
        """Types what the terminal has shown."""
        self.page.goto(f"{self.ui}/login")
        self.page.locator("input[type=password]").fill(password)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("link", name="Runs", exact=True).first.wait_for()

    # -- finding

    def finds_order(self, order_id: str) -> None:
        """Looks for an order by its id, in the list of runs, and opens its run."""
        self.page.goto(f"{self.ui}/runs")
        self.page.get_by_placeholder("Search by flow run name").fill(order_id)
        # the list comes back once what was typed is in the address
        self.page.wait_for_url(lambda url: order_id in url)
        self.page.get_by_role("link", name=f"order {order_id}").first.click()
        self._sees_a_run()

    def looks_at(self, run: str) -> None:
        """Opens the page of a run."""
        self.page.goto(f"{self.ui}/runs/flow-run/{run}")
        self._sees_a_run()

    def opens_tab(self, name: str) -> None:
        """One of the tabs on a run's page."""
        self.page.get_by_role("tab", name=name, exact=True).click()

    def opens_artifact(self, key: str) -> None:
        """One of the artifacts of the run whose page is open."""
        self.opens_tab("Artifacts")
        self.page.get_by_text(key, exact=True).first.click()
        self.page.wait_for_url("**/artifacts/artifact/*")

    def opens_latest(self, key: str) -> None:
        """The newest artifact of this key, whichever run made it."""
        self.page.goto(f"{self.ui}/artifacts/key/{key}")
        self.page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
        self.page.wait_for_url("**/artifacts/artifact/*")

    def prefers(self, scheme: Any) -> None:
        """`light` or `dark`, as set up on their machine."""
        self.page.emulate_media(color_scheme=scheme)

    def sees_pictures(self, number: int) -> None:
        """So many charts, each of them drawn."""
        self.page.wait_for_function(
            "n => { const seen = [...document.querySelectorAll('img')]"
            ".filter(i => i.src.startsWith('data:image/svg')); "
            "return seen.length === n && seen.every(i => i.complete && i.naturalWidth > 0) }",
            arg=number,
        )

    def sees(self, text: str) -> None:
        """Can read this somewhere."""
        from playwright.sync_api import expect

        expect(self.page.get_by_text(re.compile(re.escape(text))).first).to_be_visible(timeout=_TIMEOUT_MS)

    def sees_state(self, state: str) -> None:
        """The page says that the run is in this state."""
        from playwright.sync_api import expect

        expect(self.page.get_by_text(state, exact=True).first).to_be_visible(timeout=_TIMEOUT_MS)

    def sees_diagram(self, *boxes: str) -> None:
        """The diagram is drawn, with these words in its boxes."""
        from playwright.sync_api import expect

        diagram = self.page.locator("svg[id^='mermaid']").first
        expect(diagram).to_be_visible(timeout=_TIMEOUT_MS)
        for words in boxes:
            expect(diagram).to_contain_text(words, timeout=_TIMEOUT_MS)

    def link(self, words: str) -> str:
        """Where this link leads."""
        return str(self.page.get_by_role("link", name=words, exact=True).first.get_attribute("href"))

    # -- the form of a deployment

    def opens_form(self, deployment: str) -> None:
        """Deployments, the deployment, Run, Custom run."""
        self.page.goto(f"{self.ui}/deployments")
        self.page.get_by_placeholder("Search deployments").fill(deployment)
        self.page.wait_for_url(lambda url: deployment in url)  # as above
        self.page.get_by_role("link", name=deployment, exact=True).first.click()
        self.page.wait_for_url("**/deployments/deployment/*")
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Custom run").click()
        self.page.get_by_role("heading", name="Parameters").wait_for()

    def fills(self, fields: dict[str, str]) -> None:
        """Fields, by their labels."""
        for label, text in fields.items():
            self._after(label, "self::textarea or self::input").fill(text)

    def says(self, label: str, text: str) -> None:
        """Fills a field that is left empty unless somebody has something to say."""
        self._after(label, "self::button and @role='tab' and normalize-space()='str'").click()
        self.fills({label: text})

    def chooses(self, label: str, choice: str) -> None:
        """One of a list."""
        self.page.get_by_label(f"Select {label}").click()
        self.page.get_by_role("option", name=choice, exact=True).click()

    def submits(self, run_name: str) -> str:
        """Sends the form. Returns the id of the run, which calls itself so once it has begun."""
        self.page.get_by_role("button", name="Submit").click()
        wait_until(lambda: bool(self._runs(run_name)), 120, f"a run called {run_name}", every=0.5)
        return str(self._runs(run_name)[0]["id"])

    def cancels(self) -> None:
        """The run whose page is open."""
        self.page.get_by_role("button", name="Open menu").first.click()
        self.page.get_by_role("menuitem", name="Cancel").click()
        self.page.get_by_role("button", name=re.compile("^Cancel (flow )?run$", re.IGNORECASE)).click()

    def takes_picture(self, name: str, height: int = 860) -> None:
        """For the documentation, if pictures are wanted. `height` of the page in pixels."""
        if os.environ.get("UI_SCREENSHOTS"):
            usual = self.page.viewport_size
            self.page.set_viewport_size({"width": 1280, "height": height})
            self.page.screenshot(path=DOCS / f"{name}.png")
            if usual:
                self.page.set_viewport_size(usual)

    def _sees_a_run(self) -> None:
        """The list of runs stays for a moment after its address is gone,
        and has tabs, too: this one it has not."""
        self.page.get_by_role("tab", name="Artifacts", exact=True).wait_for()

    def _after(self, label: str, what: str) -> Locator:
        """The first such element after the last label of these words."""
        return self.page.locator(
            f"xpath=(//label[normalize-space()='{label}'])[last()]/following::*[{what}][1]"
        )

    def _runs(self, name: str) -> list[dict[str, Any]]:
        wanted = {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC", "limit": 1}
        return list(self._api.post("/flow_runs/filter", json=wanted).raise_for_status().json())
