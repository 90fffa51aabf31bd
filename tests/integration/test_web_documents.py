"""An order's label and mails in a browser: only with a key, and nothing else of the disk."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pypdf import PdfReader

from deployments.environment import environment
from deployments.web.app import create_app
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga.cancelling import Asked
from shop.orders.page.page import label_url, mail_url
from shop.retention.customers import erase_customers
from shop.review.cancel import ask_to_cancel
from shop.settings import settings
from shop.shipping.labels.stored import label_path, write_label
from tests.integration.artifacts import page_of
from tests.integration.web import KEY, served
from tests.integration.world import World, an_order
from tests.waiting import until

HOSTILE = '../../etc/passwd" onload=alert(1) <b>&kind=refund#'


@pytest.fixture
def web(saga: World) -> Iterator[httpx.Client]:
    with environment({"ORDERS_API_KEY": f"{KEY}, the-second-key-of-this-shop"}), served() as client:
        client.headers.pop("Authorization")
        yield client


@pytest.fixture
async def shipped(saga: World, unique: str) -> str:
    order_id = f"PAPER-{unique}"
    await process_order(an_order(order_id, customer_name="Zoë <b>Quick</b>"), return_state=True)
    return order_id


@pytest.mark.parametrize("password", [KEY, "the-second-key-of-this-shop"])
async def test_the_key_is_the_password_that_a_browser_asks_for(
    web: httpx.Client, shipped: str, password: str
) -> None:
    asked = web.get("/documents/label", params={"id": shipped})
    assert (asked.status_code, asked.headers["WWW-Authenticate"]) == (
        401,
        'Basic realm="orders", charset="UTF-8"',
    )
    label = web.get("/documents/label", params={"id": shipped}, auth=("ann", password))
    assert label.status_code == 200
    assert label.headers["Content-Type"] == "application/pdf"
    assert label.headers["Cache-Control"] == "no-store"
    printed = PdfReader(io.BytesIO(label.content), strict=True).pages[0].extract_text()
    assert f"Order: {shipped}" in printed
    assert "123 Main St" in printed


async def test_a_label_is_the_same_whenever_and_wherever_it_is_drawn(
    web: httpx.Client, saga: World, shipped: str, tmp_path: Path
) -> None:
    """On another machine, and after the shop has moved."""
    before = web.get("/documents/label", params={"id": shipped}, auth=("ann", KEY)).content
    with environment({"VAR_DIR": str(tmp_path / "another"), "SHOP_ADDRESS": "2 New Street"}):
        assert web.get("/documents/label", params={"id": shipped}, auth=("ann", KEY)).content == before
        assert saga.labels([shipped]) == {shipped: before}
    saga.sql("UPDATE shipment SET sender = NULL")
    with environment({"SHOP_ADDRESS": "2 New Street"}):
        again = web.get("/documents/label", params={"id": shipped}, auth=("ann", KEY)).content
    assert "2 New Street" in PdfReader(io.BytesIO(again)).pages[0].extract_text(), "of an earlier version"


@pytest.mark.parametrize(("dpi", "size"), [(None, (812, 1218)), (300, (1200, 1800))])
async def test_a_label_printer_gets_its_own_language(
    web: httpx.Client, shipped: str, dpi: int | None, size: tuple[int, int]
) -> None:
    asked = {"id": shipped, "format": "zpl", **({"dpi": dpi} if dpi else {})}
    label = web.get("/documents/label", params=asked, auth=("ann", KEY))
    assert (label.status_code, label.headers["Content-Type"]) == (200, "application/zpl")
    assert label.content.startswith(b"^XA^CI28^PW%d^LL%d" % size)
    for wrong in ({"format": "epl"}, {"dpi": 150}):
        assert web.get("/documents/label", params={**asked, **wrong}, auth=("ann", KEY)).status_code == 422


async def test_labels_that_are_gone(web: httpx.Client, saga: World, shipped: str, unique: str) -> None:
    """A parcel that came back, and a customer whose data is erased; an order that never had a parcel."""
    returned, refused = f"BACK-{unique}", f"AQ-{unique}"
    await process_order(an_order(returned), return_state=True)
    await process_order(an_order(refused, country="AQ"), return_state=True)
    assert await ask_to_cancel(returned, reason="does not want it", requested_by="ann") is Asked.ASKED
    await process_pending_orders(consumer_seconds=0)
    saga.sql("UPDATE customer_order SET finished_at = now() - interval '40 days' WHERE id = :id", id=shipped)
    assert await asyncio.to_thread(erase_customers, 30) == 1
    for order_id, status in ((returned, 410), (shipped, 410), (refused, 404)):
        assert web.get("/documents/label", params={"id": order_id}, auth=("", KEY)).status_code == status


async def test_another_carrier_s_label_is_the_file_that_it_made(
    web: httpx.Client, saga: World, shipped: str
) -> None:
    saga.sql(
        """UPDATE order_step SET result = result || '{"booked_at": "easypost"}' WHERE order_id = :id """
        "AND step = 'fulfill_order'",
        id=shipped,
    )
    ask = {"id": shipped}
    assert web.get("/documents/label", params=ask, auth=("", KEY)).status_code == 503, "not set"
    write_label(label_path(settings().label_dir, shipped), b"%PDF-of-the-carrier")
    assert web.get("/documents/label", params=ask, auth=("", KEY)).content == b"%PDF-of-the-carrier"
    assert web.get("/documents/label", params={**ask, "format": "zpl"}, auth=("", KEY)).status_code == 404


async def test_a_label_that_is_asked_for_with_spaces_is_deleted_with_the_others(
    web: httpx.Client, saga: World, shipped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saga.sql(
        """UPDATE order_step SET result = result || '{"booked_at": "easypost"}' WHERE order_id = :id """
        "AND step = 'fulfill_order'",
        id=shipped,
    )

    async def fetched(_: object) -> bytes:
        return b"%PDF-of-the-carrier"

    monkeypatch.setattr("shop.shipping.labels.stored._fetch", fetched)
    asked = web.get("/documents/label", params={"id": f"{shipped} "}, auth=("", KEY))
    assert asked.content == b"%PDF-of-the-carrier"
    assert len(list(settings().label_dir.glob("*.pdf"))) == 1
    saga.sql("UPDATE customer_order SET finished_at = now() - interval '40 days' WHERE id = :id", id=shipped)
    assert await asyncio.to_thread(erase_customers, 30) == 1
    assert list(settings().label_dir.glob("*.pdf")) == []


async def test_the_app_deletes_labels_of_erased_orders_however_it_is_served(
    saga: World, shipped: str
) -> None:
    """Those of another machine's erasure."""
    saga.sql("UPDATE customer_order SET finished_at = now() - interval '40 days' WHERE id = :id", id=shipped)
    assert await asyncio.to_thread(erase_customers, 30) == 1
    left = label_path(settings().label_dir, shipped)
    write_label(left, b"%PDF-of-the-carrier")

    async def gone() -> bool:
        return not left.exists()

    async with create_app().router.lifespan_context(create_app()):
        await until(gone, 20, "the label is deleted")


async def test_a_mail_is_shown_as_its_reader_sees_it_and_can_do_nothing(
    web: httpx.Client, shipped: str
) -> None:
    mail = web.get(
        "/documents/mail",
        params={"id": shipped, "kind": "confirmation"},
        headers={"Authorization": f"Bearer {KEY}"},
    )
    assert mail.status_code == 200
    assert shipped in mail.text
    assert "<b>Quick" not in mail.text
    assert mail.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in mail.headers["Content-Security-Policy"]
    assert mail.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("password", ["", "wrong", KEY + "x", "ü"])
async def test_access_without_the_token_is_refused(web: httpx.Client, shipped: str, password: str) -> None:
    for path in ("/documents/label", "/documents/mail"):
        refused = web.get(path, params={"id": shipped, "kind": "confirmation"}, auth=("ann", password))
        assert refused.status_code == 401
        assert shipped not in refused.text
    assert (
        web.get(
            "/documents/label", params={"id": shipped}, headers={"Authorization": "Basic not-base64"}
        ).status_code
        == 401
    )


@pytest.mark.parametrize("order_id", ["nobody's", HOSTILE, "..", "a/../../b", "x" * 200, "a\0b"])
async def test_what_is_not_there_is_not_found(web: httpx.Client, order_id: str) -> None:
    for path in ("/documents/label", "/documents/mail"):
        assert web.get(path, params={"id": order_id, "kind": "refund"}, auth=("", KEY)).status_code == 404
    assert (
        web.get("/documents/mail", params={"id": order_id, "kind": "../x"}, auth=("", KEY)).status_code == 422
    )


@pytest.mark.usefixtures("prefect_api")
async def test_an_order_s_page_leads_there(web: httpx.Client, saga: World, unique: str) -> None:
    order_id = f"PAPER {unique} ü&?"
    with environment({"WEB_URL": str(web.base_url)}):
        state = await process_order(an_order(order_id), return_state=True)
    page = await page_of(order_id, state.state_details.flow_run_id)
    for link in (
        label_url(str(web.base_url), order_id),
        mail_url(str(web.base_url), order_id, "confirmation"),
    ):
        assert f"]({link})" in page
        assert web.get(link, auth=("ann", KEY)).status_code == 200


def test_links_name_nothing_but_the_order() -> None:
    link = label_url("https://orders.shop.example/shop/", HOSTILE)
    assert link.startswith(
        "https://orders.shop.example/shop/documents/label?id=..%2F..%2Fetc%2Fpasswd%22+onload"
    )
    assert not set("<>\"'() #") & set(link)
