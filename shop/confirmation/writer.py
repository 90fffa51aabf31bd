"""Writes an order's confirmation, always, and within the time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shop.confirmation import template
from shop.confirmation.check import wrong_facts
from shop.confirmation.confirmation import TEMPLATE, Confirmation, finish, missing
from shop.confirmation.facts import ConfirmationFacts, facts_of
from shop.order import Order
from shop.plain import paragraphs
from shop.settings import Settings


async def write_confirmation(order: Order, settings: Settings) -> Confirmation:
    """The language model's text if one is set, answers in time, and writes nothing but the truth; else the template's.
    Never raises because of the model: `validation_warnings` says why its text was not used."""
    facts = facts_of(order, settings)
    if settings.dspy_model is None:
        return finish(template.write(facts), facts, TEMPLATE)
    try:
        texts = await _from_model(facts, settings)
        reasons = [*missing(texts), *wrong_facts(texts, order, facts, settings)]
    except Exception as error:  # noqa: BLE001 - whatever it is, a paid order goes on
        reasons = [type(error).__name__]
    if reasons:
        return _instead(facts, reasons)
    return finish(texts, facts, settings.dspy_model)


async def _from_model(facts: ConfirmationFacts, settings: Settings) -> dict[str, str]:
    from shop.confirmation.language_model import ask

    async with asyncio.timeout(settings.confirmation_timeout_seconds):
        texts = await ask(facts, settings)
    return {name: paragraphs(text) for name, text in texts.items()}


def _instead(facts: ConfirmationFacts, reasons: Sequence[str]) -> Confirmation:
    warnings = [f"language model not used: {reason}" for reason in reasons[:20]]
    return finish(template.write(facts), facts, TEMPLATE, warnings)
