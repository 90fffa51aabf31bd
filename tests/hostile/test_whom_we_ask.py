"""Whoever answers our requests: sends us elsewhere,
never ends, or wants to know what `~/.netrc` has for it."""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from saga.clock import Clock
from saga.errors import StepError
from shop.alerts import delivery
from shop.alerts.message import Message
from shop.inventory.errors import InventoryUnavailable
from shop.inventory.service.client import ServiceInventory
from shop.monitoring.traces import Sender
from shop.notifications.crm import Receiver, Webhook
from shop.notifications.delivery_log import DeliveryResult
from shop.payments.errors import PaymentGatewayError
from shop.payments.sandbox.client import SandboxGateway
from shop.payments.stripe.gateway import StripeGateway
from shop.settings import Settings
from shop.shipping.easypost.calls import EasyPostCalls, _Session
from shop.shipping.errors import CarrierTimeout, CarrierUnavailable
from tests.integration.scripted_server import answering_server, http

SECONDS = 1.0
KEY = "EZTK0123456789"


async def _easypost(url: str) -> Any:
    calls = EasyPostCalls(url, KEY, SECONDS, 1)
    try:
        return await calls(lambda client: client.shipment.retrieve("shp_1"))
    finally:
        await calls.aclose()


async def _label(url: str) -> bytes:
    calls = EasyPostCalls(url, KEY, SECONDS, 1)
    try:
        return await calls.download(f"{url}/label.pdf")
    finally:
        await calls.aclose()


async def _inventory(url: str) -> Any:
    inventory = ServiceInventory(url, "a-token", timeout_seconds=SECONDS, concurrency=1)
    try:
        return await inventory.commit("O-1")
    finally:
        await inventory.aclose()


async def _sandbox(url: str) -> Any:
    gateway = SandboxGateway(url, SECONDS, 1)
    try:
        return await gateway.refund("pay_1", amount=Decimal(1), currency="USD", key="k")
    finally:
        await gateway.aclose()


async def _stripe(url: str) -> Any:
    gateway = StripeGateway(url, "sk_test_0123456789", SECONDS, 1)
    try:
        return await gateway.get("pi_1")
    finally:
        await gateway.aclose()


async def _crm(url: str) -> DeliveryResult:
    ends: list[DeliveryResult] = []

    async def record(_: int, end: DeliveryResult) -> bool:
        ends.append(end)
        return True

    await Receiver(url, b"key", seconds=SECONDS, clock=Clock(datetime.now(UTC))).send(
        [(1, Webhook("w", b"{}"))], record, until=time.monotonic() + 60
    )
    return ends[0]


async def _alert(url: str) -> str | None:
    return await asyncio.to_thread(
        delivery._send, f"{url.replace('http://', 'json://')}/", Message("title", "body")
    )


async def _traces(url: str) -> Any:
    sender = Sender(Settings(_env_file=None, OTEL_EXPORTER_OTLP_ENDPOINT=url))
    context = SpanContext(trace_id=1, span_id=1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return await asyncio.to_thread(sender._exporter.export, [ReadableSpan("order", context)])


ASK: dict[str, Callable[[str], Awaitable[Any]]] = {
    "EasyPost": _easypost,
    "a label": _label,
    "the inventory service": _inventory,
    "the sandbox gateway": _sandbox,
    "Stripe": _stripe,
    "the CRM": _crm,
    "a service of alerts": _alert,
    "the collector of traces": _traces,
}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are no settings of ours."""
    monkeypatch.setattr(delivery, "SEND_SECONDS", 5 * SECONDS)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", str(SECONDS))


@pytest.mark.parametrize("target", ASK)
@pytest.mark.parametrize("status", ["301 Moved", "303 See Other", "307 Temporary Redirect"])
async def test_redirects_are_not_followed(target: str, status: str) -> None:
    async with (
        answering_server(http({})) as elsewhere,
        answering_server(http(b"", status, f"Location: {elsewhere.url}/a")) as there,
    ):
        with suppress(Exception):
            await ASK[target](there.url)
        assert there.asked
        assert elsewhere.asked == []


@pytest.mark.parametrize("target", ASK)
async def test_no_login_of_netrc_is_sent(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither beside our own key nor in its place."""
    file = tmp_path / "netrc"
    file.write_text(
        "machine 127.0.0.1 login planted password planted\ndefault login planted password planted\n"
    )
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").symlink_to(file)
    async with answering_server(http({})) as there:
        with suppress(Exception):
            await ASK[target](there.url)
        assert there.asked
        assert not [
            asked for asked in there.asked if asked.headers.get("authorization", "").startswith("Basic")
        ]


@pytest.mark.parametrize("proxies", [False, True])
def test_easypost_s_key_stays_ours_with_https(
    proxies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a proxy that the environment names is used."""
    file = tmp_path / "netrc"
    file.write_text("machine api.easypost.com login planted password planted\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    if proxies:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    calls = EasyPostCalls("https://api.easypost.com", KEY, SECONDS, 1)
    mounted = [str(pattern.pattern) for pattern in calls._http._mounts]
    assert ("https://" in mounted) is proxies
    assert calls._http.auth is None


@asynccontextmanager
async def endless(head: bytes, part: bytes, pause: float = 0) -> AsyncIterator[str]:
    """A server whose answer never ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            while True:
                writer.write(part)
                await writer.drain()
                with suppress(TimeoutError):
                    if await asyncio.wait_for(reader.read(100), pause) == b"":
                        return
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ENDLESS = {
    "a body, at once": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        b"10000\r\n" + b" " * 65_536 + b"\r\n",
        0.0001,
    ),
    "a body, drop by drop": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 0.05),
    "a header, drop by drop": (OK, b"X-More: x\r\n", 0.05),
}


@pytest.mark.parametrize("target", [each for each in ASK if each != "the collector of traces"])
@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.short_form("a body, at once")
async def test_an_endless_answer_ends(target: str, kind: str) -> None:
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(endless(*ENDLESS[kind]))
        with suppress(StepError):
            await ASK[target](url)
    assert time.monotonic() - begin < 10 * SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


async def test_easypost_s_threads_are_free_again_after_an_endless_answer() -> None:
    """All of them: of one."""
    async with endless(*ENDLESS["a header, drop by drop"]) as url:
        calls = EasyPostCalls(url, KEY, SECONDS / 2, 1)
        for _ in range(3):
            with pytest.raises(CarrierTimeout):
                await calls(lambda client: client.shipment.retrieve("shp_1"))
        begin = time.monotonic()
        calls._threads.shutdown(wait=True)
        assert time.monotonic() - begin < 5 * SECONDS
        await calls.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "http://{host}/label.pdf",
        "https://{host}:8443/label.pdf",
        "https://{host}.evil.example/label.pdf",
        "https://evil-{host}/label.pdf",
        "https://user:password@{host}/label.pdf",
        "https://evil.example/{host}/label.pdf",
        "https://evil.example\\@{host}/label.pdf",
        "https://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:5432/",
        "file:///etc/passwd",
        "ftp://{host}/label.pdf",
        "//{host}/label.pdf",
        "label.pdf",
        "",
        "https://",
        "https://[::1]/",
        "https://\x00/",
        "https://" + "a" * 100_000,
    ],
)
async def test_labels_are_fetched_from_easypost_only(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = "easypost-files.s3.us-west-2.amazonaws.com"
    calls = EasyPostCalls(
        "https://api.easypost.com", KEY, SECONDS, 1, Settings(_env_file=None).easypost.label_hosts
    )
    asked: list[str] = []

    async def exchange(_: str, url: str) -> Any:
        asked.append(url)
        return 200, {}, b"%PDF-"

    monkeypatch.setattr(calls, "_exchange", exchange)
    with pytest.raises(CarrierUnavailable) as refused:
        await calls.download(url.format(host=host))
    assert asked == []
    assert len(str(refused.value)) < 300
    assert await calls.download(f"https://{host}/files/label.pdf?signature=a") == b"%PDF-"
    assert await calls.download("https://api.easypost.com/label.pdf") == b"%PDF-"
    await calls.aclose()


ODD = {
    "a redirect to no URL": http(b"", "302 Found", "Location: mailto:x"),
    "a redirect to no host": http(b"", "302 Found", "Location: http://xn--/"),
    "a status that Python does not know": http(b"", "520 Unknown"),
    "a status of three digits": http(b"", "999 Unknown"),
}


@pytest.mark.parametrize("target", [each for each in ASK if each != "the collector of traces"])
@pytest.mark.parametrize("kind", ODD)
async def test_an_answer_that_breaks_the_client_is_no_clear_no(target: str, kind: str) -> None:
    """Once something was sent, it may have been done."""
    result: Any
    async with answering_server(ODD[kind]) as there:
        try:
            result = await ASK[target](there.url)
        except StepError as error:
            result = error
    assert there.asked
    match result:
        case PaymentGatewayError():
            assert result.retryable
        case DeliveryResult():
            assert result.what == "later"
        case str():
            assert result
        case _:
            assert isinstance(result, CarrierUnavailable | InventoryUnavailable), repr(result)


def test_an_exchange_with_easypost_that_ends_too_late_is_cancelled() -> None:
    """And is the time limit that EasyPost's client knows."""
    began, cancelled = threading.Event(), threading.Event()

    async def exchange(*_: Any, **__: Any) -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def run() -> None:
        session = _Session(exchange, -0.9)
        session.loop = asyncio.get_running_loop()
        with pytest.raises(requests.exceptions.Timeout):
            await asyncio.to_thread(
                session.request, "GET", "/", params=None, headers=None, json=None, timeout=1, verify=True
            )
        assert began.is_set()
        assert await asyncio.to_thread(cancelled.wait, 30)

    asyncio.run(run())
