"""The fact check: all checks over one text.

Strict on purpose: a text wrongly refused costs nothing, for the template takes over. Numbers and names are compared exactly; promises, dates and
extras are known by words, so one in words of no list gets through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from shop.confirmation import template
from shop.confirmation.check.amounts import amounts, says_the_total
from shop.confirmation.check.contacts import contacts
from shop.confirmation.check.currencies import other_currencies
from shop.confirmation.check.delivery import other_times
from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.check.lines import Lines
from shop.confirmation.check.order_numbers import order_numbers
from shop.confirmation.check.own_words import gaps, notes_quoted, other_languages
from shop.confirmation.check.payment_methods import other_payment_methods
from shop.confirmation.check.places import other_names, other_places
from shop.confirmation.check.promises import promises
from shop.confirmation.check.quantities import left_over, quantities
from shop.confirmation.check.quoting import quoted
from shop.confirmation.check.tracking import later_tracking
from shop.confirmation.confirmation import ELEMENTS
from shop.confirmation.facts import ConfirmationFacts
from shop.order import Order
from shop.settings import Settings

_MAX_LENGTH = 10_000
_ENDLESS_WORD = re.compile(r"\S{150}")


def fact_check(texts: Mapping[str, str], order: Order, facts: ConfirmationFacts, settings: Settings) -> list[Finding]:
    """What is wrong with the texts; empty if they may leave. What the template says word for word is true."""
    if all(texts.get(name) == text for name, text in template.write(facts).items()):
        return []
    return check_words("\n\n".join(texts.get(name, "").strip() for name in ELEMENTS), order, facts, settings)


def check_words(whole: str, order: Order, facts: ConfirmationFacts, settings: Settings) -> list[Finding]:
    """The same for a text in one piece, whoever wrote it; an empty line parts its elements."""
    if len(whole) > _MAX_LENGTH:
        return [Finding(Kind.LENGTH, "", "too long")]
    text, lines = quoted(whole, order, facts, settings), Lines(facts.items)
    if _ENDLESS_WORD.search(text.text):
        return [Finding(Kind.LENGTH, "", "a word without end")]
    of_amounts, where_amounts = amounts(text, order, lines)
    of_items, where_counts = quantities(text, lines, where_amounts)
    found = [*of_amounts, *of_items, *order_numbers(text.text), *other_currencies(text.text, order.currency)]
    if not says_the_total(text, order):
        found.append(Finding(Kind.AMOUNT, "", "the order's total is missing"))
    if text.foreign:
        found.append(Finding(Kind.LANGUAGE, "", "letters of another script, which cannot be checked"))
    found += [
        *contacts(text.text),
        *promises(text.text),
        *later_tracking(text.text),
        *other_times(text.text),
        *other_places(text.text, facts),
    ]
    found += [*other_names(text.text, facts), *other_payment_methods(text.text, facts)]
    found += [*gaps(text.text), *other_languages(text.text), *notes_quoted(text.text, order)]
    found += left_over(text.text, [*where_amounts, *where_counts])
    return list(dict.fromkeys(found))
