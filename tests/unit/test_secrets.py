"""Secrets from files and blocks, and what is said when they cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from shop.runtime import secrets
from shop.settings import Settings
from tests.conftest import HOME

KEY = "sk_test_PLANTED"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "stripe"
    file.write_text(f"{KEY}\n")
    return file


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STRIPE_API_KEY", "STRIPE_API_KEY_FILE", "STRIPE_API_KEY_BLOCK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def blocks() -> Iterator[dict[str, str]]:
    kept, known = secrets._block, dict[str, str]()
    secrets.blocks_from(known.__getitem__)
    yield known
    secrets._block = kept


def test_a_file_may_begin_with_a_byte_order_mark(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_file.write_bytes(b"\xef\xbb\xbf" + KEY.encode())
    monkeypatch.setenv("STRIPE_API_KEY_FILE", str(key_file))
    assert stripe_key() == KEY


def stripe_key() -> str:
    key = Settings(_env_file=None).stripe.api_key  # type: ignore[call-arg]
    assert key is not None
    return key.get_secret_value()


def wrong() -> str:
    with pytest.raises(ValidationError) as error:
        Settings(_env_file=None)  # type: ignore[call-arg]
    assert "PLANTED" not in str(error.value)
    return str(error.value)


def test_from_a_file(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_API_KEY_FILE", str(key_file))
    assert stripe_key() == KEY


def test_from_a_file_that_the_env_file_names(key_file: Path, tmp_path: Path) -> None:
    (tmp_path / "env").write_text(f"STRIPE_API_KEY_FILE={key_file}\n")
    settings = Settings(_env_file=tmp_path / "env")  # type: ignore[call-arg]
    assert settings.stripe.api_key is not None
    assert settings.stripe.api_key.get_secret_value() == KEY


def test_from_a_block(blocks: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    blocks["stripe-key"] = KEY
    monkeypatch.setenv("STRIPE_API_KEY_BLOCK", "stripe-key")
    assert stripe_key() == KEY


def test_what_cannot_be_read_is_named(
    tmp_path: Path, blocks: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_API_KEY_FILE", str(tmp_path / "nowhere"))
    assert f"STRIPE_API_KEY_FILE={tmp_path / 'nowhere'} cannot be read: No such file" in wrong()
    (tmp_path / "empty").write_text("\n")
    monkeypatch.setenv("STRIPE_API_KEY_FILE", str(tmp_path / "empty"))
    assert "is empty" in wrong()
    monkeypatch.delenv("STRIPE_API_KEY_FILE")
    monkeypatch.setenv("STRIPE_API_KEY_BLOCK", "unknown")
    assert "STRIPE_API_KEY_BLOCK=unknown cannot be read from the Prefect server" in wrong()


def test_two_that_differ_are_refused(
    key_file: Path, blocks: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_API_KEY_FILE", str(key_file))
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_other_PLANTED")
    assert "STRIPE_API_KEY and STRIPE_API_KEY_FILE have different values" in wrong()
    monkeypatch.setenv("STRIPE_API_KEY", KEY)
    assert stripe_key() == KEY
    monkeypatch.setenv("STRIPE_API_KEY_BLOCK", "stripe-key")
    assert "both set" in wrong()


def test_a_program_without_prefect_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_block", None)
    monkeypatch.setenv("STRIPE_API_KEY_BLOCK", "stripe-key")
    assert "cannot read" in wrong()


def test_flows_can_be_imported_with_a_secret_in_a_block() -> None:
    """As a Prefect worker, `prefect deploy` and the engine of a run do: they import nothing else before."""
    program = (
        "from prefect.blocks.system import Secret\n"
        f"Secret.load = classmethod(lambda cls, name: cls(value={KEY!r}))\n"
        "import flows.process_order\n"
        "from shop.settings import settings\n"
        "print(settings().stripe.api_key.get_secret_value())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=HOME,
        env={**os.environ, "STRIPE_API_KEY_BLOCK": "stripe-key"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.stdout.split() == [KEY], ran.stderr
