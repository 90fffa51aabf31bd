"""The program that asks the language model is in the database: every worker uses the one in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from deployments.cli import order_saga
from saga.database import sync_engine
from shop.confirmation import program, program_versions
from shop.confirmation.program import PLAIN, Program, UnusableProgram, in_use, load, look_again, save
from shop.confirmation.signature import ConfirmationWriter, demonstrations
from shop.settings import Settings, settings
from tests.waiting import until

WORKER = """
import sys
from shop.confirmation.program import in_use
from shop.settings import settings
for _ in sys.stdin:
    print(in_use(settings()).version, flush=True)
"""


@pytest.fixture
def shop(shop_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("DSPY_MODEL", "openai/a")
    settings.cache_clear()
    look_again()
    yield settings()
    look_again()


def saved(shop: Settings, instructions: str = "Write well.", many: int = 2) -> Program:
    writer = ConfirmationWriter()
    writer.write.signature = writer.write.signature.with_instructions(instructions)
    writer.write.demos = demonstrations(shop)[:many]
    return save(writer, shop, by="ann", remark="by hand")


def shown(found: Program) -> tuple[str, list[dict[str, str]]]:
    return found.writer.write.signature.instructions, [dict(demo) for demo in found.writer.write.demos]


def stored(shop: Settings, content: str) -> str:
    return program_versions.add_and_use(shop.database_url, content, by="ann", remark="by hand")


def changed(shop: Settings, change: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
    """A version like a good one, but for the change of its `write`."""
    state = json.loads(program_versions.read_content(shop.database_url, saved(shop).version))
    return stored(shop, json.dumps({**state, "write": change(state["write"])}))


def test_what_was_saved_is_in_use_at_once(shop: Settings) -> None:
    assert (in_use(shop).version, in_use(shop).warning) == (PLAIN, None)
    first = saved(shop)
    assert (in_use(shop).version, in_use(shop).warning) == (first.version, None)
    assert shown(in_use(shop)) == shown(first)
    second = saved(shop, "Write better.")
    assert in_use(shop).version == second.version != first.version
    assert shown(in_use(shop))[0] == "Write better."


async def test_other_workers_use_it_too_and_the_one_before_again(
    shop: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A worker is a process with another `VAR_DIR`, which has run before there was a program."""
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env={**os.environ, "VAR_DIR": str(tmp_path / "another")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )

    async def uses(version: str) -> bool:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("\n")
        return worker.stdout.readline().strip() == version

    try:
        assert await uses(PLAIN)
        first, second = saved(shop).version, saved(shop, "Write better.").version
        await until(lambda: uses(second), 15, "the second program")
        assert order_saga(["program", first]) == 2, "it does not say who decided it"
        assert order_saga(["program", "no-such-version", "--by", "ann"]) == 1
        assert await uses(second)
        assert order_saga(["program", first, "--by", "ann"]) == 0
        await until(lambda: uses(first), 15, "the first program again")
        assert order_saga(["program", PLAIN, "--by", "ann"]) == 0
        await until(lambda: uses(PLAIN), 15, "the plain program")
    finally:
        worker.kill()
        worker.communicate()
    assert [each.version for each in program_versions.stored_programs(shop.database_url)] == [second, first]
    capfd.readouterr()
    assert order_saga(["program"]) == 0
    (line,) = (line for line in capfd.readouterr().out.splitlines() if "in use" in line)
    assert PLAIN in line


def test_orders_in_quick_succession_ask_the_database_once(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = saved(shop).version
    in_use(shop)
    monkeypatch.setattr(program_versions, "version_in_use", lambda _: pytest.fail("asked again"))
    monkeypatch.setattr(program, "load", lambda *_: pytest.fail("read again"))
    assert in_use(shop).version == version
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(in_use(shop).version)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [version] * 20


def test_while_the_database_does_not_answer_the_known_one_is_used(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = saved(shop).version
    assert in_use(shop).version == version
    monkeypatch.setattr(program, "LOOK_SECONDS", 0.0)
    elsewhere = Settings(DATABASE_URL="postgresql://postgres@127.0.0.1:9/nowhere")
    found = in_use(elsewhere)
    assert found.version == PLAIN, "nothing is known of that one"
    assert "confirmation program not used: " in str(found.warning)
    look_again()
    in_use(shop)
    with sync_engine(shop.database_url).begin() as connection:
        connection.execute(text("ALTER TABLE confirmation_program_use RENAME TO gone"))
    in_use(shop)
    assert (in_use(shop).version, in_use(shop).warning) == (version, None)


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[]", "{}", '{"write": 1}', "x" * 1_000_001, "[" * 100_000],
    ids=["empty", "broken", "null", "list", "incomplete", "wrong type", "large", "deep"],
)
def test_a_broken_program_is_a_warning(shop: Settings, content: str) -> None:
    stored(shop, content)
    found = in_use(shop)
    assert found.version == PLAIN
    assert str(found.warning).startswith("confirmation program not used: ")


@pytest.mark.parametrize(
    "change",
    [
        {"signature": {"instructions": "Write.", "fields": [{"prefix": "Evil:", "description": "evil"}]}},
        {"signature": {}},
        {"demos": [{"greeting": {"evil": "evil"}}]},
        {"demos": [{"greeting": "evil"}]},
    ],
)
def test_a_program_that_does_not_fit_is_a_warning(shop: Settings, change: dict[str, Any]) -> None:
    changed(shop, lambda write: {**write, **change})
    look_again()
    found = in_use(shop)
    assert found.version == PLAIN
    assert found.warning
    assert "evil" not in found.warning


def test_another_model_in_the_program_is_not_used(shop: Settings) -> None:
    lm = {"model": "openai/evil", "api_base": "http://evil.example", "model_type": "chat"}
    version = changed(shop, lambda write: {**write, "lm": lm})
    assert load(shop.database_url, version).writer.write.lm is None


def test_a_program_for_another_signature_is_refused(shop: Settings) -> None:
    content = program_versions.read_content(shop.database_url, saved(shop).version)
    version = stored(shop, content.replace("the language to write in", "another field"))
    with pytest.raises(UnusableProgram, match="another signature"):
        load(shop.database_url, version)


def test_a_local_model_is_shown_examples_from_the_start(shop: Settings) -> None:
    local = shop.with_values(DSPY_MODEL="local/smollm2-135m")
    assert in_use(local).writer.write.demos == demonstrations(shop)[:3]
    assert in_use(shop).writer.write.demos == []
