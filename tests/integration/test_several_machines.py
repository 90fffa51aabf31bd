"""Several machines on one database, each with a `VAR_DIR` of its own: what one has made, the others find."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from deployments.cli import order_saga
from deployments.environment import environment
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga.cancelling import Asked
from shop.orders import intake
from shop.retention.customers import erase_customers
from shop.retention.files import delete_files_of_erased_customers, deleting_files_of_erased_customers
from shop.review.cancel import ask_to_cancel
from shop.settings import settings
from shop.shipping.carriers import close_carriers
from shop.shipping.labels.stored import label_path
from tests.easypost_server import EasyPost
from tests.integration.web import KEY, served
from tests.integration.world import World, an_order
from tests.waiting import until


@pytest.fixture
def another(tmp_path: Path) -> dict[str, str]:
    """The environment of another machine, whose `VAR_DIR` does not exist yet."""
    return {"VAR_DIR": str(tmp_path / "another")}


@pytest.fixture
def web(saga: World, another: dict[str, str]) -> Iterator[httpx.Client]:
    """The web app of that other machine."""
    with environment({"ORDERS_API_KEY": KEY}), served() as client:
        yield client


@pytest.fixture
async def at_easypost(
    saga: World, easypost_server: EasyPost, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[EasyPost]:
    for name, value in {**easypost_server.settings, "CARRIER_TIMEOUT_SECONDS": "1"}.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield easypost_server
    await close_carriers()
    easypost_server.behave()


def files_in(folder: str | Path) -> set[str]:
    """The names of mails and labels in a `VAR_DIR`."""
    parts = ("mail/new", "mail/cur", "mail/tmp", "labels")
    return {path.name for part in parts for path in Path(folder, part).glob("*")}


async def test_a_carrier_s_label_is_fetched_again(
    saga: World,
    web: httpx.Client,
    at_easypost: EasyPost,
    another: dict[str, str],
    unique: str,
    tmp_path: Path,
) -> None:
    await process_order(an_order(unique), return_state=True)
    file = label_path(settings().label_dir, unique)
    made = file.read_bytes()
    assert made.startswith(b"%PDF-")
    with environment(another):
        answer = await asyncio.to_thread(web.get, "/documents/label", params={"id": unique})
        assert (answer.status_code, answer.content) == (200, made)
        assert label_path(settings().label_dir, unique).read_bytes() == made, "it has it now"
    with environment({"VAR_DIR": str(tmp_path / "laptop")}):
        assert await asyncio.to_thread(order_saga, ["label", unique, "--output", str(tmp_path / "out")]) == 0
        assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [made]
        assert not (tmp_path / "laptop").exists(), "nobody erases customers there"
    assert len(at_easypost.labels(unique)) == 1, "none was bought again"


async def test_an_unavailable_carrier_is_named(
    saga: World,
    web: httpx.Client,
    at_easypost: EasyPost,
    another: dict[str, str],
    unique: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    await process_order(an_order(unique), return_state=True)
    with environment(another | {"CARRIER_URL": "http://127.0.0.1:9"}):
        answer = await asyncio.to_thread(web.get, "/documents/label", params={"id": unique})
        assert answer.status_code == 503
        assert "easypost" in answer.json()["detail"]
        assert await asyncio.to_thread(order_saga, ["label", unique, "--output", str(tmp_path)]) == 1
        assert "easypost" in capfd.readouterr().err
    await close_carriers()


async def test_mails_are_built_again(
    saga: World, web: httpx.Client, another: dict[str, str], unique: str
) -> None:
    """To the byte, because they are functions of what the database has."""
    good, declined, short = (f"{unique}-{kind}" for kind in ("good", "declined", "short"))
    intake.submit([an_order(good), an_order(declined, card="0000"), an_order(short, product="OUT-OF-STOCK")])
    await process_pending_orders(consumer_seconds=0)
    sent = saga.mails()
    for order_id, kind in ((good, "confirmation"), (declined, "payment_failed"), (short, "out_of_stock")):
        asked = {"id": order_id, "kind": kind}
        here = web.get("/documents/mail", params=asked)
        (mail,) = (mail for name, mail in sent.items() if kind in name)
        with environment(another):
            there = web.get("/documents/mail", params=asked)
        assert (there.status_code, there.text) == (200, here.text)
        body = mail.get_body(("html",))
        assert body is not None
        assert body.get_content() == there.text
    with environment(another):
        assert web.get("/documents/mail", params={"id": good, "kind": "refund"}).status_code == 404
        saga.sql("UPDATE outbox SET sent_at = NULL WHERE order_id = :id", id=good)
        assert web.get("/documents/mail", params={"id": good, "kind": "confirmation"}).status_code == 404
    assert files_in(another["VAR_DIR"]) == set()


async def test_the_files_of_erased_customers_are_deleted_on_every_machine(
    saga: World, web: httpx.Client, another: dict[str, str], at_easypost: EasyPost, unique: str
) -> None:
    """One customer is erased on a machine that has none of his files; the id of another order is not a name
    of a file, and a third one is not erased."""
    plain, odd, young = f"PLAIN-{unique.upper()}", f"odd/{unique} ü", f"YOUNG-{unique.upper()}"
    for order_id in (plain, odd, young):
        await process_order(an_order(order_id), return_state=True)
    before = files_in(settings().var_dir)
    assert len(before) == 6
    saga.sql(
        "UPDATE customer_order SET finished_at = now() - interval '40 days' WHERE id = ANY(:ids)",
        ids=[plain, odd],
    )
    with environment(another):
        assert await asyncio.to_thread(erase_customers, 30) == 2
    assert files_in(settings().var_dir) == before
    for path in ("/documents/label", "/documents/mail"):
        gone = web.get(path, params={"id": plain, "kind": "confirmation"})
        assert gone.status_code == 410, "although this machine has the file"
    assert await ask_to_cancel(plain, reason="a warranty case", requested_by="ann") is Asked.ASKED
    await process_pending_orders(consumer_seconds=0)
    late = {name for name in files_in(settings().var_dir) if name.endswith("refund.eml")}
    assert len(late) == 1, "a mail to the support"

    with deleting_files_of_erased_customers():
        await until(lambda: _equal(len(files_in(settings().var_dir)), 3), 20, "the files are deleted")
    left = files_in(settings().var_dir)
    assert left == late | {name for name in before if name.startswith(young)}
    assert await asyncio.to_thread(delete_files_of_erased_customers) == 0
    assert web.get("/documents/mail", params={"id": plain, "kind": "refund"}).status_code == 200


async def _equal(one: object, other: object) -> bool:
    return one == other
