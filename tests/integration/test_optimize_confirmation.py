"""The flow that optimises the confirmation's program, against a model server over real HTTP.

The model of the test writes wrong texts until it is shown how: when there are demonstrations in the prompt,
or the right instructions, it writes right ones.
So what is learned is really better, and by how much is known.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import State

from flows.optimize_confirmation import ARTIFACT, optimize_confirmation
from shop.confirmation import program, program_versions
from shop.confirmation.optimising import CannotOptimize, Stopped, run
from shop.confirmation.program_versions import Optimizer
from shop.confirmation.signature import demonstrations, examples
from shop.confirmation.writer import write_confirmation
from shop.orders.order import EXAMPLE, Order
from shop.settings import Settings, settings

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
ORDER = Order.model_validate(EXAMPLE)
MAGIC = "Say it plainly and exactly."


class Learner:
    """An OpenAI-compatible server. `right(body)` says whether it writes a text that may be sent."""

    def __init__(self) -> None:
        self.right: Callable[[dict[str, Any]], bool] = lambda _: False
        self.status = 200
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        asked = json.loads(body)
        self.bodies.append(asked)
        content = {"error": {"message": "no"}} if self.status != 200 else completion(self.answer(asked))
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})

    def answer(self, body: dict[str, Any]) -> str:
        last = text_of(body["messages"][-1])
        if "[[ ## order_size ## ]]" not in last:  # an optimiser that asks for instructions
            fields = re.findall(r"\[\[ ## (\w+) ## \]\]", text_of(body["messages"][0]))
            wanted = [name for name in dict.fromkeys(fields) if "instruction" in name] or [
                "proposed_instruction"
            ]
            if "JSON" in last or body.get("response_format"):
                return json.dumps(
                    {"new_instruction": MAGIC, "proposed_instruction": MAGIC, "improved_instruction": MAGIC}
                )
            return "\n".join(
                [
                    f"[[ ## {name} ## ]]\n{MAGIC}"
                    for name in [*wanted, "observations", "summary", "program_description"]
                ]
            )
        texts = {
            "greeting": "Dear {customer_name}, thank you for your order!",
            "order_summary": "Order {order_id}: {items}. The total is {total}.",
            "next_steps": "We are packing it. The estimated delivery is {delivery}."
            + ("" if self.right(body) else " A refund is yours."),
            "tracking_info": "Follow your parcel. {tracking}",
        }
        return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name, text in {**texts, "completed": ""}.items())


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def with_demonstrations(body: dict[str, Any]) -> bool:
    return len(body["messages"]) > 2


def with_instructions(body: dict[str, Any]) -> bool:
    return MAGIC in text_of(body["messages"][0])


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
def served() -> Iterator[tuple[Learner, str]]:
    model = Learner()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(model, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield model, f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def model(
    served: tuple[Learner, str], shop_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Learner]:
    model, url = served
    model.right, model.status, model.bodies = (lambda _: False), 200, []
    for name, value in {
        "DSPY_MODEL": "openai/test-model",
        "DSPY_API_BASE": url,
        "DSPY_API_KEY": "sk-secret",
        "CONFIRMATION_TIMEOUT_SECONDS": "30",
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield model
    settings.cache_clear()


def in_use() -> program.Program:
    """The stored program that is in use. Fails if it is the plain one."""
    url = settings().database_url
    return program.load(url, program_versions.version_in_use(url))


def nothing_is_saved() -> bool:
    url = settings().database_url
    return (
        program_versions.version_in_use(url) == program_versions.PLAIN
        and program_versions.stored_programs(url) == []
    )


async def optimized(**parameters: Any) -> State[Any]:
    return await optimize_confirmation(**parameters, return_state=True)  # type: ignore[call-overload,no-any-return]


async def page() -> str:
    artifact = await Artifact.aget(ARTIFACT)
    assert artifact is not None
    return str(artifact.data)


async def test_what_is_better_is_saved_and_used_from_the_next_order_on(
    prefect_api: Any, model: Learner
) -> None:
    model.right = with_demonstrations
    before = await write_confirmation(ORDER, settings())
    assert (before.generation_model, before.program_version) == ("template", None)

    state = await optimized()

    assert (state.name, state.type.value) == ("Saved", "COMPLETED")
    (stored,) = program_versions.stored_programs(settings().database_url)
    version = stored.version
    assert version == in_use().version
    assert version in str(state.message)
    assert "openai/test-model" in stored.remark
    assert "Prefect run" in stored.made_by
    after = await write_confirmation(ORDER, settings())
    assert (after.generation_model, after.program_version, after.validation_warnings) == (
        "openai/test-model",
        version,
        [],
    )

    shown = await page()
    held_out = examples("evaluation", settings())
    for expected in (
        f"0 of {len(held_out)} | {len(held_out)} of {len(held_out)}",
        "openai/test-model",
        "bootstrap",
        version,
        "next_steps: promises: refund",
    ):
        assert expected in shown
    assert held_out[0].tone in shown
    assert "sk-secret" not in shown + program_versions.read_content(settings().database_url, version)


async def test_what_is_learned_are_texts_that_may_be_sent_and_nothing_else(
    prefect_api: Any, model: Learner
) -> None:
    model.right = with_demonstrations
    await optimized(demonstrations=3)
    learned = in_use().writer.write.demos
    assert 1 <= len(learned) <= 3
    inputs = [example.inputs().toDict() for example in examples("training", settings())]
    for demo in learned:
        assert set(demo) == set(demonstrations(settings())[0].keys())
        assert {name: demo[name] for name in inputs[0]} in inputs


async def test_a_cancelled_optimisation_saves_nothing_and_asks_no_more(model: Learner) -> None:
    model.right = with_demonstrations
    stop = threading.Event()
    held_out = len(examples("evaluation", settings()))

    def stopped(_: str) -> None:
        stop.set()

    with pytest.raises(Stopped):
        run(settings(), Optimizer.BOOTSTRAP, shown=3, calls=20, stop=stop, report=stopped, by="a test")
    assert len(model.bodies) <= held_out + 3
    assert nothing_is_saved()


async def test_a_tie_keeps_what_there_was(prefect_api: Any, model: Learner) -> None:
    model.right = lambda _: True
    state = await optimized()
    assert state.name == "Kept"
    assert nothing_is_saved()
    assert "not saved" in await page()


async def test_what_is_worse_does_not_replace_a_saved_program(prefect_api: Any, model: Learner) -> None:
    model.right = with_demonstrations
    await optimized()
    saved = program_versions.read_content(settings().database_url, in_use().version)
    model.right = lambda body: with_demonstrations(body) and saved_demonstrations_in(body, saved)
    state = await optimized(demonstrations=1)
    assert state.name == "Kept"
    assert [each.version for each in program_versions.stored_programs(settings().database_url)] == [
        in_use().version
    ]
    assert program_versions.read_content(settings().database_url, in_use().version) == saved


def saved_demonstrations_in(body: dict[str, Any], saved: str) -> bool:
    return len(body["messages"]) == 2 + 2 * len(json.loads(saved)["write"]["demos"])


@pytest.mark.parametrize("status", [500, 401])
async def test_a_model_that_is_down_fails_the_flow_clearly(
    prefect_api: Any, model: Learner, status: int
) -> None:
    model.status = status
    state = await optimized()
    assert state.is_failed()
    assert "the model did not answer" in str(state.message)
    assert "sk-secret" not in str(state.message)
    assert nothing_is_saved()
    with pytest.raises(CannotOptimize):
        await state.aresult()


async def test_a_model_that_goes_down_while_learning_saves_nothing(prefect_api: Any, model: Learner) -> None:
    held_out = len(examples("evaluation", settings()))

    def down_after_the_first_evaluation(_: dict[str, Any]) -> bool:
        if len(model.bodies) > held_out:
            model.status = 500
        return False

    model.right = down_after_the_first_evaluation
    state = await optimized()
    assert state.is_failed()
    assert "the model did not answer" in str(state.message)
    assert nothing_is_saved()


async def test_without_a_model_the_flow_names_the_setting(
    prefect_api: Any, model: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPY_MODEL", "")
    settings.cache_clear()
    state = await optimized()
    assert state.is_failed()
    assert "DSPY_MODEL" in str(state.message)


async def test_gepa_with_a_reflection_model_learns_instructions(
    prefect_api: Any, model: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPY_REFLECTION_MODEL", "openai/reflection-model")
    settings.cache_clear()
    model.right = with_instructions
    state = await optimized(calls=40)
    assert {body["model"] for body in model.bodies} == {"test-model", "reflection-model"}
    assert state.name == "Saved", state.message
    assert in_use().writer.write.signature.instructions == MAGIC


async def test_mipro_tries_instructions_and_demonstrations(prefect_api: Any, model: Learner) -> None:
    model.right = with_demonstrations
    state = await optimized(optimizer=Optimizer.MIPRO, calls=30)
    assert state.name == "Saved", state.message
    after = await write_confirmation(ORDER, settings())
    assert after.program_version == in_use().version


async def test_a_key_is_not_sent_to_another_provider(served: tuple[Learner, str]) -> None:
    from shop.confirmation.language_model import reflection_model

    given: dict[str, Any] = {
        "_env_file": None,
        "DSPY_MODEL": "openai/a",
        "DSPY_API_BASE": served[1],
        "DSPY_API_KEY": "sk-secret",
    }
    assert (
        reflection_model(Settings(**given, DSPY_REFLECTION_MODEL="openai/b")).kwargs["api_key"] == "sk-secret"
    )
    other = reflection_model(Settings(**given, DSPY_REFLECTION_MODEL="anthropic/c")).kwargs
    assert not {"api_key", "api_base"} & set(other)
