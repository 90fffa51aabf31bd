"""Writes an order's confirmation, always, and within the time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from shop.confirmation import template
from shop.confirmation.check.fact_check import fact_check
from shop.confirmation.check.finding import Finding
from shop.confirmation.confirmation import TEMPLATE, Confirmation, finish, missing
from shop.confirmation.facts import ConfirmationFacts, facts_of
from shop.confirmation.language_model import Answer, LocalModelMissing, ask
from shop.order import Order
from shop.plain import paragraphs
from shop.settings import Settings

_MOST = 20
"""Reasons that are told or stored of one text."""


async def write_confirmation(order: Order, settings: Settings) -> Confirmation:
    """The language model's text if one is set, answers in time, and writes nothing but the truth; else the template's. A text with
    mistakes is written once more, with the mistakes told, within the same time limit. Never raises because of the model:
    `validation_warnings` says why a text of its was not used."""
    facts = facts_of(order, settings)
    if settings.dspy_model is None:
        return finish(template.write(facts), facts, TEMPLATE)
    reasons: list[str] = []
    try:
        async with asyncio.timeout(settings.confirmation_timeout_seconds):
            answer = await _attempt(order, facts, settings, reasons)
    except Exception as error:  # noqa: BLE001 - whatever it is, a paid order goes on
        answer = None
        reasons.append(str(error) if isinstance(error, LocalModelMissing) else type(error).__name__)
    if answer is None:
        return finish(template.write(facts), facts, TEMPLATE, _warnings("language model not used", reasons))
    warnings = [*([answer.warning] if answer.warning else []), *_warnings("language model asked again", reasons)]
    return finish(answer.texts, facts, settings.dspy_model, warnings, answer.program)


async def _attempt(order: Order, facts: ConfirmationFacts, settings: Settings, reasons: list[str]) -> Answer | None:
    """A text that may leave; None if the second one may not, either. What was wrong with each is added to `reasons`."""
    told: list[str] = []
    for _ in range(2):
        answer = await ask(facts, settings, told)
        texts = {name: paragraphs(text) for name, text in answer.texts.items()}
        absent = missing(texts)
        findings: list[Finding] = await asyncio.to_thread(fact_check, texts, order, facts, settings)
        if not absent and not findings:
            return replace(answer, texts=texts)
        reasons += [*absent, *map(str, findings)]
        told = [*absent, *[finding.told for finding in findings]][:_MOST]
    return None


def _warnings(what: str, reasons: Sequence[str]) -> list[str]:
    return [f"{what}: {reason}" for reason in list(dict.fromkeys(reasons))[:_MOST]]
