"""What runs needs no extra; where a library of an extra is needed and missing, the error names the extra."""

from __future__ import annotations

import asyncio
import builtins
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deployments import watched
from deployments.check import parts
from deployments.check.parts import Known, State, check_part
from deployments.cli.trouble import explanation
from shop.confirmation import language_model
from shop.payments import gateways
from shop.runtime.extras import EXTRAS, MissingExtra, needs_extra
from shop.settings import settings
from shop.shipping import carriers
from shop.shipping.embedded import render
from shop.shipping.labels.content import LabelFormat, Parcel

HOME = Path(__file__).resolve().parents[2]
SENDER = '{"street1": "1 Street", "city": "X", "country": "US"}'
_WITHOUT = """
import importlib, pkgutil, sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if any(f"{name}.".startswith(f"{module}.") for module in sys.argv[1].split(",")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Forbidden())
import flows, tasks
for package in (flows, tasks):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
import deployments.worker, deployments.web.app, deployments.cli, shop.notifications.outbox
deployments.web.app.create_app()
"""


def test_worker_flows_and_web_app_are_imported_without_any_extra() -> None:
    forbidden = sorted(set().union(*EXTRAS.values()) - {"requests"})  # apprise and Prefect bring requests
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, ",".join(forbidden)],
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_extras_are_those_of_the_package() -> None:
    declared = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert declared.keys() == EXTRAS.keys()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes the libraries of an extra, and our modules that import them,
    check_part as if they were not installed."""
    real = builtins.__import__
    kept = dict(sys.modules)
    forbidden: set[str] = set()

    def importing(name: str, *arguments: Any, **options: Any) -> ModuleType:
        if any(f"{name}.".startswith(f"{module}.") for module in forbidden):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **options)

    def take(extra: str) -> None:
        forbidden.update(EXTRAS[extra] - {"requests"})
        ours = (
            *(
                "shop.payments.stripe",
                "shop.shipping.labels.l",
                "shop.shipping.labels.pdf",
                "shop.shipping.labels.zpl",
                "shop.shipping.easypost",
                "shop.monitoring.traces",
            ),
            *("shop.confirmation.optimising", "shop.confirmation.signature", "shop.confirmation.program"),
        )
        for name in [each for each in sys.modules if each.startswith(ours)]:
            del sys.modules[name]

    monkeypatch.setattr(builtins, "__import__", importing)
    language_model.configured_dspy.cache_clear()
    yield take
    monkeypatch.undo()
    for name in sys.modules.keys() - kept.keys():
        if name.startswith("shop."):
            del sys.modules[name]
    sys.modules.update(kept)
    for name, module in kept.items():  # a package that was imported again has other modules as attributes
        package, _, last = name.rpartition(".")
        if package.startswith("shop") and package in kept:
            setattr(kept[package], last, module)
    language_model.configured_dspy.cache_clear()
    settings.cache_clear()


def set_variables(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()


PARCEL = Parcel("ORDER-1", "CA473124829US", "Carrier", "Standard", ("The Shop",), ("John Doe",), 1)


def test_labels(without: Callable[[str], None]) -> None:
    without("labels")
    with pytest.raises(
        MissingExtra, match=r"CARRIER=embedded needs the extra `labels`: pip install 'order-saga\[labels\]'"
    ):
        render(PARCEL, LabelFormat.PDF)


def test_stripe(without: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, PAYMENT_GATEWAY="stripe", STRIPE_API_KEY="sk_test_key")
    without("stripe")
    with pytest.raises(MissingExtra, match=r"PAYMENT_GATEWAY=stripe needs the extra `stripe`"):
        gateways._stripe()


def test_easypost(without: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, CARRIER="easypost", EASYPOST_API_KEY="EZTK_key", CARRIER_SENDER=SENDER)
    without("easypost")
    with pytest.raises(MissingExtra, match=r"CARRIER=easypost needs the extra `easypost`"):
        carriers._easypost()


def test_language_model(without: Callable[[str], None]) -> None:
    without("llm")
    with pytest.raises(MissingExtra, match=r"DSPY_MODEL needs the extra `llm`"):
        language_model.configured_dspy()


def test_traces(without: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, OTEL_TRACES="1")
    without("otel")
    with (
        pytest.raises(MissingExtra, match=r"OTEL_EXPORTER_OTLP_ENDPOINT needs the extra `otel`"),
        watched.ExitStack() as stack,
    ):
        watched._send_traces(stack, None)


@pytest.mark.parametrize(
    ("extra", "part", "ask", "chosen"),
    [
        ("labels", "carrier", parts.shipping, {}),
        (
            "easypost",
            "carrier",
            parts.shipping,
            {"CARRIER": "easypost", "EASYPOST_API_KEY": "EZTK_key", "CARRIER_SENDER": SENDER},
        ),
        (
            "stripe",
            "payments",
            parts.payments,
            {"PAYMENT_GATEWAY": "stripe", "STRIPE_API_KEY": "sk_test_key"},
        ),
        ("llm", "language model", parts.language_model, {"DSPY_MODEL": "openai/a"}),
        ("otel", "traces", parts.traces, {"OTEL_TRACES": "1"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_check_reports_it(
    extra: str,
    part: str,
    ask: parts.Check,
    chosen: dict[str, str],
    without: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_variables(monkeypatch, **chosen)
    without(extra)
    found = asyncio.run(check_part(part, ask, Known(settings(), lambda _: True, None)))
    assert found.state is State.WRONG
    assert f"needs the extra `{extra}`: pip install 'order-saga[{extra}]'" in found.what


def test_other_modules_that_are_missing_are_no_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("stripe", "PAYMENT_GATEWAY=stripe"):
        import no_such_module_at_all  # noqa: F401


def test_the_command_prints_it_in_a_line_and_an_order_is_postponed() -> None:
    error = MissingExtra("stripe", "PAYMENT_GATEWAY=stripe")
    assert explanation(error) == str(error)
    assert error.retry_after
    assert not error.refusal
