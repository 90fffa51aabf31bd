"""localstripe (https://pypi.org/project/localstripe):
a Stripe server that is not ours, as a process of its own, over HTTP.

It knows no idempotency keys, has no search, and lists the oldest first.
As a program (`python -m tests.localstripe_server PORT FILE`): the server, with what it knows kept in FILE.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import httpx

from deployments.local.processes import Child, free_port, wait_until

HOME = Path(__file__).resolve().parents[1]
KEY = "sk_test_localstripe"
_ALL = 1_000_000


class LocalStripe:
    """The server at `.url`. It keeps its address and what it knows from one start to the next."""

    def __init__(self, folder: Path, pids: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "tests.localstripe_server", str(port), str(folder / "store.pickle")]
        self._child = Child(
            "localstripe",
            command,
            log=folder / "localstripe.log",
            pid_file=pids / "localstripe.pid",
            cwd=HOME,
        )
        self.log = folder / "localstripe.log"

    def start(self) -> None:
        self._child.start()
        wait_until(self._answers, 60, "localstripe to answer", child=self._child)

    def stop(self) -> None:
        self._child.stop()

    @property
    def settings(self) -> dict[str, str]:
        """For a shop that is paid here."""
        return {"PAYMENT_GATEWAY": "stripe", "PAYMENT_GATEWAY_URL": self.url, "STRIPE_API_KEY": KEY}

    @property
    def pid(self) -> int | None:
        return self._child.pid

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/js.stripe.com/v3/", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    # -- what the tests ask it, past our client --

    def get(self, path: str) -> Any:
        return self._json("GET", path)

    def post(self, path: str, **form: str) -> Any:
        return self._json("POST", path, form)

    def all(self, what: str) -> list[dict[str, Any]]:
        """Every `payment_intents`, `charges` or `refunds` that there is."""
        found: list[dict[str, Any]] = self.get(f"/v1/{what}?limit={_ALL}")["data"]
        return found

    def card(self, number: str) -> str:
        """A PaymentMethod for this card, as the shop's page would have made it. Its id."""
        card = {"card[number]": number, "card[exp_month]": "12", "card[exp_year]": "2030", "card[cvc]": "123"}
        made: str = self.post("/v1/payment_methods", type="card", **card)["id"]
        return made

    def authenticate(self, payment_id: str, *, success: bool) -> None:
        """What the customer answers to the bank."""
        secret = self.get(f"/v1/payment_intents/{payment_id}")["client_secret"]
        self.post(
            f"/v1/payment_intents/{payment_id}/_authenticate",
            client_secret=secret,
            success=str(success).lower(),
        )

    def ledger(self, order_id: str) -> list[dict[str, Any]]:
        """The order's payments, or those of a checkout outside (`metadata`), in the shape of the sandbox's
        ledger; every single charge counts."""
        charges, refunds = self.all("charges"), self.all("refunds")
        entries = []
        for intent in self.all("payment_intents"):
            if order_id not in {intent["metadata"].get("order_id"), intent["metadata"].get("checkout")}:
                continue
            mine = [
                charge
                for charge in charges
                if charge["payment_intent"] == intent["id"] and charge["status"] == "succeeded"
            ]
            given = [refund for refund in refunds if refund["charge"] in {charge["id"] for charge in mine}]
            left = {
                "id": intent["id"],
                "status": intent["status"],
                "currency": intent["currency"],
                "amount": 0,
                "refunds": [],
            }
            entries += [
                {**left, "status": "succeeded", "amount": charge["amount"], "refunds": given}
                for charge in mine
            ] or [left]
        return entries

    def _json(self, method: str, path: str, form: dict[str, str] | None = None) -> Any:
        answer = httpx.request(
            method, self.url + path, data=form, headers={"Authorization": f"Bearer {KEY}"}, timeout=20
        )
        return answer.raise_for_status().json()


def main(port: int, file: Path) -> None:
    from aiohttp import web
    from localstripe import resources, server

    # It keeps everything in one file, which it has in common with every other localstripe on the machine:
    # each has its own here.
    def own_file(_path: str, mode: str) -> Any:
        return file.open(mode)

    resources.open = own_file
    logging.basicConfig(level=logging.INFO)  # a line for each request
    resources.store.try_load_from_disk()
    web.run_app(server.app, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
