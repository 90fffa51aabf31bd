"""A server that answers as EasyPost does, in the shapes of its documentation and of the recordings of its
own client, as a process.

It remembers shipments, finds them by id or by reference, sells a label for one once (unless it is
configured to forget that), and takes labels back until the parcel is scanned. It can be configured to
misbehave. No parcel goes to Antarctica; and to Bouvet Island (BV) there are rates, but no label. Past the
client it can be asked which labels were bought.

As a program: `python -m tests.easypost_server PORT`.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import httpx
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from deployments.local.processes import Child, free_port, wait_until
from shop.orders.names import own_name, stem

HOME = Path(__file__).resolve().parents[1]
KEY = "EZTKfor-tests-0123456789"
SENDER = {
    "street1": "1 Warehouse Way",
    "city": "Anytown",
    "state": "CA",
    "zip": "90210",
    "country": "US",
    "phone": "5555555555",
}
_INSTALLATION = re.compile(r"^[0-9a-f]{16}-")
_RATES = (
    ("USPS", "Priority", "6.95", 2),
    ("USPS", "GroundAdvantage", "5.93", 3),
    ("UPS", "Ground", "9.10", 4),
)


class EasyPost:
    """The server at `.url`."""

    def __init__(self, folder: Path, pids: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "tests.easypost_server", str(port)]
        self._child = Child(
            "easypost", command, log=folder / "easypost.log", pid_file=pids / "easypost.pid", cwd=HOME
        )

    def start(self) -> None:
        self._child.start()
        wait_until(self._answers, 60, "the carrier to answer", child=self._child)

    def stop(self) -> None:
        self._child.stop()

    @property
    def settings(self) -> dict[str, str]:
        """For a shop whose parcels go this way."""
        return {
            "CARRIER": "easypost",
            "CARRIER_URL": self.url,
            "EASYPOST_API_KEY": KEY,
            "CARRIER_SENDER": json.dumps(SENDER),
        }

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/control/labels", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    # -- what the tests ask it, past our client --

    def labels(self, order_id: str) -> list[dict[str, Any]]:
        """Every purchase of a label for the order, by whichever installation: `shipment_id`, `reference`,
        `tracking_code`, `refund_status`."""
        answer = httpx.get(
            f"{self.url}/control/labels", params={"reference": _reference_of(order_id)}, timeout=10
        )
        bought: list[dict[str, Any]] = answer.raise_for_status().json()
        return bought

    def good_labels(self, order_id: str) -> int:
        """How many labels were bought and not taken back: parcels that can leave."""
        return sum(label["refund_status"] is None for label in self.labels(order_id))

    def shipments(self, order_id: str) -> list[dict[str, Any]]:
        """Every shipment with the order's reference, as the API shows it."""
        answer = httpx.get(
            f"{self.url}/control/shipments", params={"reference": _reference_of(order_id)}, timeout=10
        )
        found: list[dict[str, Any]] = answer.raise_for_status().json()
        return found

    def sell_to_another_shop(
        self, order_id: str, *, reference: str | None = None, **to: str
    ) -> dict[str, Any]:
        """A label that another shop has bought,
        with this order's id as its reference, as many plugins write it."""
        address = {
            "name": "Other Customer",
            "street1": "9 Other St",
            "city": "Elsewhere",
            "state": "NY",
            "country": "US",
            "zip": "10001",
            **to,
        }
        parcel = {
            "parcel": {"weight": 16},
            "from_address": SENDER,
            "to_address": address,
            "options": {"label_format": "PDF"},
        }
        made = self._api("/shipments", {"shipment": {"reference": reference or stem(order_id), **parcel}})
        return self._api(f"/shipments/{made['id']}/buy", {"rate": {"id": made["rates"][0]["id"]}})

    def _api(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(
            f"{self.url}/v2{path}", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=10
        )
        data: dict[str, Any] = answer.raise_for_status().json()
        return data

    def misbehave(
        self, move: str, fault: str, *, times: int = 1, order_id: str | None = None, seconds: float = 0
    ) -> None:
        """The next `times` requests of this kind (of this order) go wrong: see `_Handler._fault`."""
        order = {"reference": _reference_of(order_id)} if order_id else {}
        self._post_control(
            "faults", {"move": move, "fault": fault, "times": times, "seconds": seconds, **order}
        )

    def lie(self, order_id: str, move: str, path: str, value: Any, *, once: bool = False) -> None:
        """From now on answers to this move about the order say `value` in the field at `path`
        (`to_address.zip`, `rates.0.rate`): also `MISSING`, or `ANOTHERS`,
        what the newest shipment of another order has there."""
        self._post_control(
            "lies",
            {"reference": _reference_of(order_id), "move": move, "path": path, "value": value, "once": once},
        )

    def scan(self, order_id: str, status: str = "in_transit") -> None:
        """The order's parcel has been scanned."""
        self._post_control("scan", {"reference": _reference_of(order_id), "status": status})

    def behave(self) -> None:
        """No faults any more."""
        self._post_control("behave", {})

    def _post_control(self, what: str, body: dict[str, Any]) -> None:
        httpx.post(f"{self.url}/control/{what}", json=body, timeout=10).raise_for_status()


MISSING, ANOTHERS = "(missing)", "(another's)"


def _reference_of(order_id: str) -> str:
    """What comes after the installation id in the order's references."""
    return own_name("0" * 16, order_id)[17:]


def _is_about(reference: str | None, asked: str | None) -> bool:
    """Whether a shipment's reference is of the order that a test asks about,
    whichever installation made it."""
    return asked is None or (
        reference is not None and (reference == asked or _INSTALLATION.sub("", reference) == asked)
    )


class _No(Exception):
    """Answered with an error, in EasyPost's form."""

    def __init__(self, status: int, code: str, message: str, errors: list[Any] | None = None) -> None:
        self.status, self.body = status, {"error": {"code": code, "message": message, "errors": errors or []}}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Book:
    """What the server knows."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.shipments: dict[str, dict[str, Any]] = {}
        self.bought: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.forgets: set[str] = set()
        self.lies: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(10_000_000)

    def create(self, body: dict[str, Any], base: str) -> dict[str, Any]:
        asked = body.get("shipment") or {}
        missing = [
            {"field": f, "message": "Required and missing."}
            for f in ("to_address", "from_address", "parcel")
            if not asked.get(f)
        ]
        if missing:
            raise _No(
                422,
                "SHIPMENT.INVALID_PARAMS",
                "Unable to create shipment, one or more parameters were invalid.",
                missing,
            )
        to, sender = asked["to_address"], asked["from_address"]
        if not to.get("street1") or not to.get("country"):
            raise _No(
                422,
                "ADDRESS.PARAMETERS.INVALID",
                "Invalid address.",
                [{"field": "street1", "message": "is required"}],
            )
        if to["country"] != sender["country"] and not asked.get("customs_info"):
            raise _No(
                422,
                "SHIPMENT.INVALID_PARAMS",
                "customs_info is required",
                [{"field": "customs_info", "message": "Required"}],
            )
        shipment_id = f"shp_{uuid4().hex}"
        served = to["country"] != "AQ"
        refusal = {
            "carrier": "USPS",
            "carrier_account_id": "ca_1",
            "type": "rate_error",
            "message": "Destination country is not served",
        }
        made = {
            "id": shipment_id,
            "object": "Shipment",
            "created_at": _now(),
            "updated_at": _now(),
            "is_return": False,
            "messages": [] if served else [refusal],
            "mode": "test",
            "options": {
                "currency": "USD",
                "payment": {"type": "SENDER"},
                "date_advance": 0,
                **asked.get("options", {}),
            },
            "reference": asked.get("reference"),
            "status": "unknown",
            "tracking_code": None,
            "batch_id": None,
            "customs_info": asked.get("customs_info"),
            "from_address": {
                "id": f"adr_{uuid4().hex}",
                "object": "Address",
                "mode": "test",
                "verifications": {},
                **sender,
            },
            "to_address": {
                "id": f"adr_{uuid4().hex}",
                "object": "Address",
                "mode": "test",
                "verifications": {},
                **to,
            },
            "insurance": None,
            "order_id": None,
            "parcel": {"id": f"prcl_{uuid4().hex}", "object": "Parcel", "mode": "test", **asked["parcel"]},
            "postage_label": None,
            "rates": [self._rate(shipment_id, *rate) for rate in _RATES] if served else [],
            "refund_status": None,
            "scan_form": None,
            "selected_rate": None,
            "tracker": None,
            "usps_zone": 4,
            "forms": [],
            "fees": [],
        }
        self.shipments[shipment_id] = made
        return made

    def _rate(self, shipment_id: str, carrier: str, service: str, rate: str, days: int) -> dict[str, Any]:
        return {
            "id": f"rate_{uuid4().hex}",
            "object": "Rate",
            "created_at": _now(),
            "mode": "test",
            "service": service,
            "carrier": carrier,
            "rate": rate,
            "currency": "USD",
            "retail_rate": rate,
            "list_rate": rate,
            "billing_type": "easypost",
            "delivery_days": days,
            "delivery_date": None,
            "delivery_date_guaranteed": False,
            "est_delivery_days": days,
            "shipment_id": shipment_id,
            "carrier_account_id": "ca_1",
        }

    def get(self, any_id: str) -> dict[str, Any]:
        found = self.shipments.get(any_id) or next(iter(self.of(any_id)), None)
        if found is None:
            raise _No(404, "NOT_FOUND", "The requested resource could not be found.")
        return found

    def of(self, reference: str) -> list[dict[str, Any]]:
        """The newest first."""
        return [each for each in reversed(self.shipments.values()) if each["reference"] == reference]

    def about(self, reference: str) -> list[dict[str, Any]]:
        """Of an order, whichever installation made them; the newest first."""
        return [each for each in reversed(self.shipments.values()) if _is_about(each["reference"], reference)]

    def buy(self, shipment_id: str, body: dict[str, Any], base: str) -> dict[str, Any]:
        shipment = self.get(shipment_id)
        if shipment["postage_label"] is not None and "postage" not in self.forgets:
            raise _No(422, "SHIPMENT.POSTAGE.EXISTS", "Postage already exists for this shipment.")
        rate = next(
            (each for each in shipment["rates"] if each["id"] == (body.get("rate") or {}).get("id")), None
        )
        if rate is None:
            raise _No(422, "SHIPMENT.PURCHASE.FAILURE", "The rate is not one of this shipment.")
        if shipment["to_address"]["country"] == "BV":
            raise _No(422, "SHIPMENT.POSTAGE.FAILURE", "Nobody lives there.")
        code = f"9400100{next(self._numbers)}"
        wants_pdf = shipment["options"].get("label_format") == "PDF"
        url = f"{base}/files/{shipment_id}.{'pdf' if wants_pdf else 'png'}"
        shipment |= {
            "tracking_code": code,
            "selected_rate": rate,
            "updated_at": _now(),
            "postage_label": {
                "object": "PostageLabel",
                "id": f"pl_{uuid4().hex}",
                "created_at": _now(),
                "label_date": _now(),
                "label_resolution": 300,
                "label_size": "4x6",
                "label_type": "default",
                "label_file_type": "application/pdf" if wants_pdf else "image/png",
                "label_url": url,
                "label_pdf_url": url if wants_pdf else None,
                "label_zpl_url": None,
                "label_epl2_url": None,
                "label_file": None,
            },
            "tracker": {
                "id": f"trk_{uuid4().hex}",
                "object": "Tracker",
                "mode": "test",
                "tracking_code": code,
                "status": "unknown",
                "status_detail": "unknown",
                "created_at": _now(),
                "updated_at": _now(),
                "signed_by": None,
                "shipment_id": shipment_id,
                "carrier": rate["carrier"],
                "tracking_details": [],
                "fees": [],
            },
            "fees": [
                {
                    "object": "Fee",
                    "type": "PostageFee",
                    "amount": rate["rate"],
                    "charged": True,
                    "refunded": False,
                }
            ],
        }
        self.bought.append(
            {"shipment_id": shipment_id, "reference": shipment["reference"], "tracking_code": code}
        )
        return shipment

    def refund(self, shipment_id: str) -> dict[str, Any]:
        shipment = self.get(shipment_id)
        if shipment["postage_label"] is None:
            raise _No(
                422, "SHIPMENT.REFUND.UNAVAILABLE", "Refund request unavailable. The shipment has no postage."
            )
        if shipment["tracker"]["status"] not in {"unknown", "pre_transit"}:
            raise _No(
                422, "SHIPMENT.REFUND.UNAVAILABLE", "Refund request unavailable. The parcel has been scanned."
            )
        shipment["refund_status"] = "rejected" if "refunds" in self.forgets else "submitted"
        return shipment

    def scan(self, reference: str, status: str) -> None:
        for shipment in self.about(reference):
            if shipment["tracker"] is not None:
                begin = datetime.now(UTC)
                shipment["tracker"]["status"] = status
                shipment["tracker"]["tracking_details"] = [
                    _detail(
                        "Arrived at the post office", status, begin + timedelta(minutes=5), "SAN FRANCISCO"
                    ),
                    _detail("Shipping label created", "pre_transit", begin, "ANYTOWN"),
                ]

    def labels(self, reference: str | None) -> list[dict[str, Any]]:
        return [
            {**each, "refund_status": self.shipments[each["shipment_id"]]["refund_status"]}
            for each in self.bought
            if _is_about(each["reference"], reference)
        ]

    def falsified(self, move: str, reference: str | None, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer, with the false value for this order."""
        lie = self.lies.get(_INSTALLATION.sub("", reference or ""))
        if lie is None or lie["move"] != move:
            return answer
        if lie["once"]:
            del self.lies[_INSTALLATION.sub("", reference or "")]
        *places, last = (int(part) if part.isdigit() else part for part in lie["path"].split("."))
        others = next(
            (
                each
                for each in reversed(self.shipments.values())
                if each["reference"] != reference and each["postage_label"]
            ),
            {},
        )
        at: Any = answer
        for place in places:
            at, others = _step(at, place), _step(others, place)
        if isinstance(at, dict) and lie["value"] == MISSING:
            at.pop(last, None)
        elif isinstance(at, dict | list) and len(at):
            at[last] = _step(others, last) if lie["value"] == ANOTHERS else lie["value"]
        return answer

    def fault(self, move: str, reference: str | None) -> dict[str, Any] | None:
        for fault in self.faults:
            if (
                fault["move"] in {move, "any"}
                and _is_about(reference, fault.get("reference"))
                and fault["times"] > 0
            ):
                fault["times"] -= 1
                return fault
        return None


def _step(at: Any, place: str | int) -> Any:
    try:
        return at[place]
    except (TypeError, KeyError, IndexError):
        return None


def _detail(message: str, status: str, at: datetime, city: str) -> dict[str, Any]:
    return {
        "object": "TrackingDetail",
        "message": message,
        "description": None,
        "status": status,
        "status_detail": "status_update",
        "datetime": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "source": "USPS",
        "tracking_location": {
            "object": "TrackingLocation",
            "city": city,
            "state": "CA",
            "country": None,
            "zip": "94107",
        },
    }


_ERRORS = {
    "error_500": (500, "INTERNAL_SERVER_ERROR", "We're sorry, something went wrong."),
    "error_503": (503, "SERVICE_UNAVAILABLE", "Unavailable."),
    "error_429": (429, "RATE_LIMITED", "Please reduce your request rate."),
    "error_402": (402, "BILLING.INSUFFICIENT_FUNDS", "Insufficient funds."),
    "error_422": (422, "SHIPMENT.POSTAGE.FAILURE", "The postage could not be purchased."),
    "no_response": (422, "SHIPMENT.POSTAGE.NO_RESPONSE", "The carrier did not respond."),
}


class _Handler(BaseHTTPRequestHandler):
    book = _Book()
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}"))

    def _serve(self, body: dict[str, Any] | None) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.split("/") if part]
        try:
            if parts[0] == "control":
                self._control(
                    parts[1], body, {name: values[0] for name, values in parse_qs(url.query).items()}
                )
            elif parts[0] == "files":
                self._answer_bytes(200, _pdf(parts[1]), "application/pdf")
            else:
                self._api(parts[1:], body)
        except _No as no:
            self._answer(no.status, no.body)

    def _api(self, parts: list[str], body: dict[str, Any] | None) -> None:
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            raise _No(
                401, "APIKEY.INACTIVE", "This API key is no longer active. Please use a different API key."
            )
        if parts[:1] != ["shipments"]:
            raise _No(404, "NOT_FOUND", "The requested resource could not be found.")
        move = "create" if len(parts) == 1 else parts[2] if len(parts) == 3 else "get"
        with self.book.lock:
            reference = self._reference(parts, body)
            fault = self.book.fault(move, reference) or {}
        if not self._fault(fault, after=False):
            return
        with self.book.lock:
            answer = self.book.falsified(
                move, reference, json.loads(json.dumps(self._act(move, parts, body or {})))
            )
        if self._fault(fault, after=True):
            self._answer(201 if move == "create" else 200, answer)

    def _reference(self, parts: list[str], body: dict[str, Any] | None) -> str | None:
        if len(parts) == 1:
            return ((body or {}).get("shipment") or {}).get("reference")
        known = self.book.shipments.get(parts[1])
        return known["reference"] if known else parts[1]

    def _act(self, move: str, parts: list[str], body: dict[str, Any]) -> dict[str, Any]:
        base = f"http://{self.headers['Host']}"
        match move:
            case "create":
                return self.book.create(body, base)
            case "get" | "label":
                return self.book.get(parts[1])
            case "buy":
                return self.book.buy(parts[1], body, base)
            case "refund":
                return self.book.refund(parts[1])
        raise _No(404, "NOT_FOUND", "The requested resource could not be found.")

    def _fault(self, fault: dict[str, Any], *, after: bool) -> bool:
        """Whether to go on. `..._after`: the work is done,
        and the answer is an error, or none, or late, or rubbish all the same."""
        kind = str(fault.get("fault", ""))
        if kind.endswith("_after") != after or not kind:
            return True
        match kind.removesuffix("_after"):
            case "silent":
                time.sleep(fault["seconds"])
                return after
            case "lost":
                self.close_connection = True
                self.connection.close()
            case "rubbish":
                self._answer_bytes(200, b"<html>a proxy's own page</html>", "text/html")
            case "nonsense":
                self._answer(200, {"id": 7, "rates": "none"})
            case name:
                raise _No(*_ERRORS[name])
        return False

    def _control(self, what: str, body: dict[str, Any] | None, query: dict[str, str]) -> None:
        with self.book.lock:
            match what:
                case "labels":
                    return self._answer(200, self.book.labels(query.get("reference")))
                case "shipments":
                    return self._answer(200, self.book.about(query["reference"]))
                case "faults" if (body or {})["move"] == "forget":
                    self.book.forgets.add((body or {})["fault"])
                case "faults":
                    self.book.faults.append(body or {})
                case "lies":
                    self.book.lies[(body or {})["reference"]] = body or {}
                case "scan":
                    self.book.scan((body or {})["reference"], (body or {})["status"])
                case "behave":
                    self.book.faults.clear()
                    self.book.forgets.clear()
                    self.book.lies.clear()
        return self._answer(200, {})

    def _answer(self, status: int, body: Any) -> None:
        self._answer_bytes(status, json.dumps(body).encode(), "application/json; charset=utf-8")

    def _answer_bytes(self, status: int, body: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # who asked has gone


def _pdf(name: str) -> bytes:
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=(288, 432), invariant=1)
    canvas.drawString(18, 400, f"Label of {name}")
    canvas.save()
    return file.getvalue()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    _Server(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
