"""Writes an order's confirmation within a time limit. Always succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from shop.confirmation import template
from shop.confirmation.confirmation import TEMPLATE, Confirmation, finish
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
    language = language_of(order, settings)
    values, personal = slot_values(order, settings, language), bool(order.addressee)
    if settings.language_model.model is None:
        return template.template_confirmation(order, settings)
    reasons: list[str] = []
    answer = None
    try:
        async with asyncio.timeout(settings.confirmation.timeout_seconds):
            answer = await _attempt(order, settings, language, reasons)
    except Exception as error:  # noqa: BLE001 - no error of the model may fail a paid order
        reasons.append(
            str(error) if isinstance(error, (LocalModelUnavailable, MissingExtra)) else type(error).__name__
        )
    if answer is None:
        warnings = _warnings("language model not used", reasons)
        written = template.order_texts(order, template.write(values, language), language)
        return finish(written, TEMPLATE, personal=personal, warnings=warnings, tracked=order.needs_shipment)
    warnings = [
        *([answer.warning] if answer.warning else []),
        *_warnings("language model asked again", reasons),
    ]
    texts = template.order_texts(order, fill(answer.texts, values), language)
    return finish(
        texts,
        settings.language_model.model,
        personal=personal,
        warnings=warnings,
        program_version=answer.program,
        tracked=order.needs_shipment,
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
