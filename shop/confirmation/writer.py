"""Writes an order's confirmation within a time limit. Always succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from shop.confirmation.confirmation import ELEMENTS, TEMPLATE, Confirmation, missing
from shop.confirmation.facts import inputs_of, slot_values
from shop.confirmation.language_model import Answer, LocalModelUnavailable, ask
from shop.confirmation.slots import can_check, clean, fill, problems
from shop.notifications.language import Language, language_of
from shop.orders.order import Order
from shop.runtime.extras import MissingExtra
from shop.settings import Settings

_MOST = 20
"""Limits the reasons that are stored per text and passed to the model."""


async def write_confirmation(order: Order, settings: Settings) -> Confirmation:
    """Returns the language model's text if a model is set, answers in time and passes the checks; else the
    template's.

    A text that fails the checks is requested once more, with the reasons, within the same time limit. Never
    raises an error of the model: `validation_warnings` says why its text was not used.
    """
    if (model := settings.language_model.model) is None:
        return template_confirmation(order, settings)
    language, reasons, answer = language_of(order, settings), list[str](), None
    try:
        async with asyncio.timeout(settings.confirmation.timeout_seconds):
            answer = await _attempt(order, settings, language, reasons)
    except Exception as error:  # noqa: BLE001 - no error of the model may fail a paid order
        reasons.append(
            str(error) if isinstance(error, (LocalModelUnavailable, MissingExtra)) else type(error).__name__
        )
    if answer is None:
        return template_confirmation(order, settings, _warnings("language model not used", reasons))
    warnings = [answer.warning] if answer.warning else []
    warnings += _warnings("language model asked again", reasons)
    texts = fill(answer.texts, slot_values(order, settings, language))
    return finished(order, language, texts, model, warnings, answer.program)


def template_confirmation(order: Order, settings: Settings, warnings: Sequence[str] = ()) -> Confirmation:
    """Makes the confirmation from the template, which is always available: no language model, no network. The
    mail is sent after the parcel is booked and shows the tracking number below the texts."""
    language = language_of(order, settings)
    values = slot_values(order, settings, language)
    texts = {name: language.say(f"confirmation.{name}", **values) for name in ELEMENTS}
    return finished(order, language, texts, TEMPLATE, warnings)


def finished(  # noqa: PLR0917
    order: Order,
    language: Language,
    texts: Mapping[str, str],
    writer: str,
    warnings: Sequence[str] = (),
    program: str | None = None,
) -> Confirmation:
    """Makes the order's confirmation of these texts: without a delivery and a tracking number if nothing is
    shipped. Adds a warning for each missing element."""
    found = {name: texts.get(name, "").strip() for name in ELEMENTS}
    if not order.needs_shipment:
        found |= {"next_steps": language.say("confirmation.digital"), "tracking_info": ""}
    return Confirmation(
        **found,
        generated_at=datetime.now(UTC),
        generation_model=writer,
        program_version=program,
        personalization_level="high" if order.addressee else "standard",
        content_length=sum(map(len, found.values())),
        includes_tracking=bool(found["tracking_info"]),
        validation_warnings=[*warnings, *missing(found, tracked=order.needs_shipment)],
    )


async def _attempt(order: Order, settings: Settings, language: Language, reasons: list[str]) -> Answer | None:
    """Returns an answer with slots that may be sent; None if two attempts failed the checks. Adds the
    reasons to `reasons`."""
    if not can_check(language.code):
        reasons.append(f"the language {language.code} has no word lists")
        return None
    mistakes: list[str] = []
    for _ in range(2):
        answer = await ask(inputs_of(order, settings, language, mistakes), settings)
        texts = {name: clean(text) for name, text in answer.texts.items()}
        mistakes = problems(texts, language.code)[:_MOST]
        if not mistakes:
            return replace(answer, texts=texts)
        reasons += mistakes
    return None


def _warnings(what: str, reasons: Sequence[str]) -> list[str]:
    return [f"{what}: {reason}" for reason in list(dict.fromkeys(reasons))[:_MOST]]
