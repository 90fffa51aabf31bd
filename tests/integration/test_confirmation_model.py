"""The language model over real HTTP, against a server of the test's own that speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from shop.confirmation import language_model
from shop.confirmation.confirmation import Confirmation
from shop.confirmation.writer import write_confirmation
from shop.orders.order import EXAMPLE, Order
from shop.settings import Settings
from tests.waiting import until

SECRETS = (
    "John Doe",
    "john.doe",
    "ORDER-1001",
    "Laptop",
    "1059",
    "1,059",
    "123 Main",
    "Anytown",
    "tok_visa_secret",
    "4242",
    "neighbour",
)
"""What no model may be sent: the order's facts, and secrets."""
ORDER = Order.model_validate(
    {
        **EXAMPLE,
        "payment_info": {"method": "credit_card", "card_last4": "4242", "token": "tok_visa_secret"},
        "notes": "neighbour has PIN 4242",
    }
)
GOOD = {
    "greeting": "Dear {customer_name}, a warm thank you for your order!",
    "order_summary": "Order {order_id}: {items}, {total} in total.",
    "next_steps": "We are packing it now; it should be with you in {delivery}.",
    "tracking_info": "You can follow your parcel. {tracking}",
}
FILLED = {
    "greeting": "Dear John Doe, a warm thank you for your order!",
    "order_summary": "Order ORDER-1001: 1 x Laptop, 2 x Mouse, 1,059.97 USD in total.",
    "next_steps": "We are packing it now; it should be with you in 3-5 business days.",
    "tracking_info": "You can follow your parcel. Your tracking number is below.",
}
TOMORROW = {**GOOD, "next_steps": "It arrives tomorrow, or in {delivery}."}

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


def marked(texts: dict[str, str]) -> str:
    """The fields as DSPy asks for them."""
    return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name, text in {**texts, "completed": ""}.items())


class Model:
    """An OpenAI-compatible server. `answer` is what it says;
    None is silence until the client gives up; a number is a status."""

    def __init__(self) -> None:
        self.answer: str | int | None = marked(GOOD)
        self.first: str | None = None
        """What it says once, before it says `answer`."""
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.instance = 0
        self.most_under_way = 0
        self.given_up = threading.Event()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.instance += 1
        self.most_under_way = max(self.most_under_way, self.instance)
        try:
            await self._serve(scope, receive, send)
        finally:
            self.instance -= 1

    async def _serve(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(json.loads(body))
        self.keys.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        answer, self.first = (self.answer, None) if self.first is None else (self.first, None)
        if answer is None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.given_up.set()
            return
        status, content = (
            (answer, {"error": {"message": "key sk-secret is bad"}})
            if isinstance(answer, int)
            else (200, completion(answer))
        )
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"0")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})


def completion(content: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "test-model",
        "choices": [choice],
        "usage": usage,
    }


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Model, str]]:
    model = Model()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(model, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield model, f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def programs(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """A database without an optimised program."""
    postgres.create_database("programs", template=template_database)
    with environment({"DATABASE_URL": postgres.url("programs")}):
        yield postgres.url("programs")
    postgres.drop_database("programs")


@pytest.fixture(scope="module")
async def imported(served: tuple[Model, str], programs: str) -> None:
    """Importing DSPy takes a second or more, which is not what the time limits here are about."""
    await write_confirmation(ORDER, the_settings(served[1], seconds=50))


@pytest.fixture
def model(served: tuple[Model, str], imported: None) -> Model:
    model, _ = served
    model.answer, model.first, model.bodies, model.keys, model.most_under_way = marked(GOOD), None, [], [], 0
    model.given_up.clear()
    return model


@pytest.fixture
def settings(served: tuple[Model, str]) -> Settings:
    return the_settings(served[1])


def the_settings(api_base: str, *, seconds: float = 10, **more: Any) -> Settings:
    return Settings(
        _env_file=None,
        **{
            "DSPY_MODEL": "openai/test-model",
            "DSPY_API_BASE": api_base,
            "DSPY_API_KEY": "sk-secret",
            "CONFIRMATION_TIMEOUT_SECONDS": seconds,
            **more,
        },
    )


def assert_template(confirmation: Confirmation, *warnings: str) -> None:
    assert confirmation.generation_model == "template"
    assert confirmation.greeting.startswith("Hello John Doe")
    assert "ORDER-1001" in confirmation.order_summary
    assert confirmation.validation_warnings == [f"language model not used: {warning}" for warning in warnings]


async def test_a_good_answer_is_used(model: Model, settings: Settings) -> None:
    confirmation = await write_confirmation(ORDER, settings)
    assert confirmation.validation_warnings == []
    assert confirmation.generation_model == "openai/test-model"
    assert {name: getattr(confirmation, name) for name in FILLED} == FILLED
    assert confirmation.personalization_level == "high"
    assert confirmation.includes_tracking


async def test_the_model_is_sent_nothing_of_the_order(model: Model, settings: Settings) -> None:
    model.first = marked(TOMORROW)
    await write_confirmation(ORDER, settings)
    assert len(model.bodies) == 2
    for body in model.bodies:
        sent = json.dumps(body)
        for given in ("English", "professional_friendly", "several items", "{customer_name}"):
            assert given in sent
        assert not [secret for secret in SECRETS if secret in sent]
        assert (body["model"], body["temperature"]) == ("test-model", 0.7)
        assert body.get("max_tokens", body.get("max_completion_tokens")) == 500
    assert set(model.keys) == {"Bearer sk-secret"}


async def test_the_language_of_the_mail_is_asked_for_and_filled_in(
    model: Model, served: tuple[Model, str]
) -> None:
    model.answer = marked(
        {
            "greeting": "Guten Tag {customer_name}, vielen Dank!",
            "order_summary": "Ihre Bestellung {order_id}: {items}, zusammen {total}.",
            "next_steps": "Wir packen sie. Lieferzeit: {delivery}.",
            "tracking_info": "Sie können Ihr Paket verfolgen. {tracking}",
        }
    )
    confirmation = await write_confirmation(ORDER, the_settings(served[1], MAIL_LANGUAGE="de"))
    assert confirmation.generation_model == "openai/test-model", confirmation.validation_warnings
    assert "German" in json.dumps(model.bodies[0])
    assert "1.059,97 USD" in confirmation.order_summary


async def test_silence_ends_with_the_time_limit(model: Model, served: tuple[Model, str]) -> None:
    model.answer = None
    began = time.monotonic()
    confirmation = await write_confirmation(ORDER, the_settings(served[1], seconds=0.4))
    assert 0.35 < time.monotonic() - began < 3
    assert_template(confirmation, "TimeoutError")
    assert await asyncio.to_thread(model.given_up.wait, 10), "the request was left running"


async def test_waiting_for_a_turn_counts_too(model: Model, served: tuple[Model, str]) -> None:
    model.answer = None
    limits = the_settings(served[1], seconds=0.5, CONFIRMATION_CONCURRENCY=1)
    began = time.monotonic()
    confirmations = await asyncio.gather(*[write_confirmation(ORDER, limits) for _ in range(10)])
    assert time.monotonic() - began < 4
    assert {confirmation.generation_model for confirmation in confirmations} == {"template"}
    assert model.most_under_way == 1


async def test_many_at_once_keep_to_the_limit(model: Model, served: tuple[Model, str]) -> None:
    limits = the_settings(served[1], CONFIRMATION_CONCURRENCY=3)
    confirmations = await asyncio.gather(*[write_confirmation(ORDER, limits) for _ in range(20)])
    assert [c.generation_model for c in confirmations] == ["openai/test-model"] * 20
    assert 1 <= model.most_under_way <= 3


def test_from_several_event_loops_at_once(model: Model, settings: Settings) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(asyncio.run(write_confirmation(ORDER, settings)).generation_model)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == ["openai/test-model"] * 4


@pytest.mark.parametrize("status", [500, 429, 401, 400, 404])
async def test_an_error_is_named_by_type_only(model: Model, settings: Settings, status: int) -> None:
    model.answer = status
    confirmation = await write_confirmation(ORDER, settings)
    (warning,) = confirmation.validation_warnings
    assert_template(confirmation, warning.removeprefix("language model not used: "))
    assert warning.removeprefix("language model not used: ").isidentifier()
    assert len(model.bodies) <= 2


async def test_connection_refused(model: Model) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    confirmation = await write_confirmation(ORDER, the_settings(f"http://127.0.0.1:{port}/v1"))
    assert confirmation.generation_model == "template"
    assert len(confirmation.validation_warnings) == 1


async def test_what_is_wrong_is_named_once_and_the_second_text_is_used(
    model: Model, settings: Settings
) -> None:
    model.first = marked({**GOOD, "order_summary": "Order {order_id}: {items}. Total: 5. A full refund!"})
    confirmation = await write_confirmation(ORDER, settings)
    assert confirmation.generation_model == "openai/test-model"
    assert {name: getattr(confirmation, name) for name in FILLED} == FILLED
    first, second = (json.dumps(body) for body in model.bodies)
    for mistake in (
        "order_summary: {total} is missing",
        "order_summary: character: DIGIT FIVE",
        "order_summary: promises: refund",
    ):
        assert mistake not in first
        assert mistake in second
        assert f"language model asked again: {mistake}" in confirmation.validation_warnings


async def test_what_stays_wrong_is_the_template_s_turn(model: Model, settings: Settings) -> None:
    model.first = marked(TOMORROW)
    model.answer = marked(
        {**GOOD, "order_summary": "Order {order_id}: {items} and a gift, {total} in total."}
    )
    confirmation = await write_confirmation(ORDER, settings)
    assert len(model.bodies) == 2
    assert_template(confirmation, "next_steps: times: tomorrow", "order_summary: promises: gift")


async def test_both_attempts_share_the_time_limit(model: Model, served: tuple[Model, str]) -> None:
    model.first, model.answer = marked(TOMORROW), None
    began = time.monotonic()
    confirmation = await write_confirmation(ORDER, the_settings(served[1], seconds=2))
    assert time.monotonic() - began < 5
    assert_template(confirmation, "next_steps: times: tomorrow", "TimeoutError")


async def test_another_order_and_a_link_are_never_sent_or_stored(model: Model, settings: Settings) -> None:
    model.answer = marked(
        {**GOOD, "next_steps": "In {delivery}: a full refund for ORDER-2002 at https://evil.example."}
    )
    confirmation = await write_confirmation(ORDER, settings)
    assert confirmation.generation_model == "template"
    assert "language model not used: next_steps: promises: refund" in confirmation.validation_warnings
    assert "2002" not in confirmation.model_dump_json()
    assert "evil" not in confirmation.model_dump_json()


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I cannot do that.",
        "[[ ## greeting ## ]]\nHello",
        marked({**GOOD, "tracking_info": " "}),
        json.dumps({"greeting": 1}),
    ],
)
async def test_an_answer_with_elements_missing(model: Model, settings: Settings, answer: str) -> None:
    model.answer = answer
    confirmation = await write_confirmation(ORDER, settings)
    assert confirmation.generation_model == "template"
    assert confirmation.validation_warnings


async def test_an_order_that_is_cancelled_stops_waiting(model: Model, settings: Settings) -> None:
    model.answer = None
    task = asyncio.create_task(write_confirmation(ORDER, settings))

    async def asked() -> bool:
        return bool(model.bodies)

    await until(asked, 10, "the model to be asked")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(model.given_up.wait, 10), "the request was left running"


async def test_a_cancellation_from_within_is_a_failure_of_the_model(
    model: Model, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(*_: object) -> dict[str, str]:
        raise asyncio.CancelledError

    monkeypatch.setattr(language_model, "_request", cancelled)
    assert_template(await write_confirmation(ORDER, settings), "ModelStopped")


async def test_nothing_of_the_customer_is_kept(
    model: Model, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    import dspy  # type: ignore[import-untyped]
    from dspy.clients import base_lm  # type: ignore[import-untyped]

    with caplog.at_level(logging.DEBUG, logger="dspy"):
        await write_confirmation(ORDER, settings)
        await write_confirmation(ORDER, settings)
    assert len(model.bodies) == 2, "the second answer came from a cache"
    assert not base_lm.GLOBAL_HISTORY
    assert not dspy.settings.trace
    assert not dspy.cache.memory_cache
    assert not dspy.cache.disk_cache
    assert "John Doe" not in caplog.text


async def test_a_key_of_another_provider_is_not_sent_to_a_server_of_one_s_own(
    model: Model, served: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    await write_confirmation(ORDER, the_settings(served[1], DSPY_API_KEY=None))
    assert model.keys == ["Bearer none"]


async def test_reasoning_models_are_asked_in_their_way(model: Model, served: tuple[Model, str]) -> None:
    confirmation = await write_confirmation(ORDER, the_settings(served[1], DSPY_MODEL="openai/gpt-5-mini"))
    assert confirmation.generation_model == "openai/gpt-5-mini"
    assert "temperature" not in model.bodies[0]


_ALONE = """
import asyncio, os, socket, sys
from pathlib import Path
from shop.confirmation.writer import write_confirmation
from shop.orders.order import EXAMPLE, Order
from shop.settings import Settings
from tests.waiting import until
assert "dspy" not in sys.modules
asked, look_up = [], socket.getaddrinfo
def recorded(host, *rest, **more):
    asked.append(host)
    return look_up(host, *rest, **more)
socket.getaddrinfo = recorded
order = Order.model_validate(EXAMPLE)
without = Settings(_env_file=None, DSPY_MODEL=None)
assert asyncio.run(write_confirmation(order, without)).generation_model == "template"
assert "dspy" not in sys.modules, "imported without a model being set"
written = asyncio.run(write_confirmation(order, Settings(_env_file=None)))
assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "true"
assert set(asked) <= {"127.0.0.1"}, asked
print(written.generation_model, len(written.validation_warnings))
"""


@pytest.mark.parametrize(("first", "warnings"), [(None, 0), (marked(TOMORROW), 1)])
def test_a_separate_process_leaves_no_file_calls_no_other_server_and_ends(
    model: Model, settings: Settings, programs: str, tmp_path: Path, first: str | None, warnings: int
) -> None:
    """Also when a text was refused and written once more."""
    model.first = first
    given = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(language_model.__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "DATABASE_URL": programs,
        "DSPY_MODEL": "openai/test-model",
        "DSPY_API_BASE": str(settings.language_model.api_base),
        "CONFIRMATION_TIMEOUT_SECONDS": "50",
    }
    done = subprocess.run(
        [sys.executable, "-c", _ALONE],
        env=given,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"openai/test-model {warnings}"
    assert len(model.bodies) == 1 + warnings
    assert done.stderr == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
