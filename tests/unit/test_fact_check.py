"""The fact check, rule by rule. What it makes of whole texts is measured in `test_confirmation_texts.py`."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.confirmation import template
from shop.confirmation.check.contacts import CONTACT
from shop.confirmation.check.fact_check import check_words, fact_check
from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.check.normal import normal
from shop.confirmation.check.numbers import value_of
from shop.confirmation.facts import facts_of
from shop.money import show
from shop.order import EXAMPLE, Order
from shop.settings import Settings

relaxed = hypothesis_settings(deadline=None)  # a busy machine is not a failure
SETTINGS = Settings(_env_file=None, dspy_model=None)
ORDER = Order.model_validate(EXAMPLE)
GOOD = {
    "greeting": "Dear John Doe, thank you so much for your order! Feel free to reach us at support@shop.example.",
    "order_summary": (
        "Order ORDER-1001: 1 x Laptop (999.99 USD) and 2 x Mouse at $29.99, $59.98 together. Your total is 1,059.97 USD, by credit card."
    ),
    "next_steps": "We will send your 3 items to 123 Main St, Anytown CA 90210 within 3–5 business days.",
    "tracking_info": "Your tracking number is below.",
}


def an_order(**changes: Any) -> Order:
    return Order.model_validate({**EXAMPLE, **changes})


def found(order: Order = ORDER, settings: Settings = SETTINGS, **changes: str) -> list[Finding]:
    return fact_check({**GOOD, **changes}, order, facts_of(order, settings), settings)


def kinds(order: Order = ORDER, settings: Settings = SETTINGS, **changes: str) -> set[Kind]:
    return {finding.kind for finding in found(order, settings, **changes)}


class TestAmounts:
    def test_a_good_text_may_leave(self) -> None:
        assert found() == []

    @pytest.mark.parametrize(
        "text",
        [
            "Your total of $1,059.97 was charged.",
            "Your total of US$1059.97 was charged.",
            "In total 1059.97 dollars.",
            "Your total is 1.059,97 USD.",
            "Your total is 1 059,97 USD.",
            "Your total is 1\u202f059,97 USD.",
            "Your total is 1'059.97 USD.",
            "Your total is １,０５９.９７ USD.",
            "Estimated delivery: 3 to 5 business days.",
            "Your order #ORDER-1001 is on its way to Anytown, CA 90210.",
            "Write to support@shop.example.",
            "Please do not hesitate, and feel free to ask. We are here 24/7.",
            "Tax and shipping: 0.00 USD.",
        ],
    )
    def test_the_truth_may_leave(self, text: str) -> None:
        assert found(next_steps=text) == []

    @pytest.mark.parametrize(
        "text",
        [
            "Your total is 1,059.79 USD.",
            "Your total is $1,059.",
            "Your total is $1060.",
            "Your total is 10.599,7 USD.",
            "Your total is 1 060 dollars.",
            "You pay 99.",
            "Your total: 45",
            "Your total: 999.99",
            "The price is 10.59.",
            "We charged 97 cents.",
            "We charged one thousand dollars.",
            "We charged ￥１０５９.",
        ],
    )
    def test_other_amounts_may_not(self, text: str) -> None:
        assert Kind.AMOUNT in kinds(next_steps=text)

    @pytest.mark.parametrize("amount", ["€1,059.97", "1,059.97 EUR", "CA$1,059.97", "1059.97 pounds", "₿1059.97"])
    def test_other_currencies_may_not(self, amount: str) -> None:
        assert Kind.CURRENCY in kinds(next_steps=f"We charged {amount}.")

    def test_a_card_number_is_no_number_of_the_order(self) -> None:
        assert Kind.NUMBER in kinds(next_steps="Your card ending in 4242.")

    def test_a_wrong_amount_is_named(self) -> None:
        assert [str(finding) for finding in found(next_steps="The total is 999.00 USD.")] == ["amount: 999.00 is not the order's total"]

    def test_an_order_id_made_of_digits_is_no_amount(self) -> None:
        order = an_order(id="5000")
        text = "Order 5000: 1 x Laptop, 2 x Mouse, 1,059.97 USD."
        assert found(order, order_summary=text) == []
        assert Kind.AMOUNT in kinds(order, order_summary=text.replace("1,059.97 USD", "$5000"))

    def test_currencies_without_decimals(self) -> None:
        order = an_order(currency="JPY", items=[{"product_id": "P", "quantity": 2, "price": "1500"}], total_amount="3000")
        rest = {"next_steps": "Soon."}
        assert found(order, order_summary="ORDER-1001: 2 x P, 3,000 JPY, that is ¥3000.", **rest) == []
        assert Kind.CURRENCY in kinds(order, order_summary="ORDER-1001: 2 x P, $3,000.", **rest)

    @pytest.mark.parametrize(
        ("said", "currency", "value"),
        [
            ("1,059.97", "USD", "1059.97"),
            ("1.059,97", "EUR", "1059.97"),
            ("1 059,97", "EUR", "1059.97"),
            ("1'059.97", "CHF", "1059.97"),
            ("10,59,997.00", "INR", "1059997"),
            ("59,-", "EUR", "59"),
            ("1,059", "USD", "1059"),
            ("1.059", "KWD", "1.059"),
            ("1,059.970", "KWD", "1059.970"),
            ("3.000", "JPY", "3000"),
            ("9.9", "USD", "9.9"),
            ("1.05997", "USD", None),
            ("1,05.97", "USD", None),
            ("1.059.97", "USD", None),
        ],
    )
    def test_amounts_are_read_as_countries_write_them(self, said: str, currency: str, value: str | None) -> None:
        assert value_of(said, currency) == (None if value is None else Decimal(value))

    @relaxed
    @given(st.decimals(min_value="0.01", max_value=10**6, places=2))
    def test_no_other_total_gets_through(self, amount: Decimal) -> None:
        assert bool(found(next_steps=f"The total is {amount:,} USD.")) == (amount != Decimal("1059.97"))


class TestItems:
    @pytest.mark.parametrize(
        "text",
        [
            "2 x Laptop and 2 x Mouse",
            "1 x Laptop, three Mouse",
            "1 x Laptop and Mouse (x4)",
            "one Laptop and a Mouse",
            "Laptop x 1; Mouse, quantity: 7",
        ],
    )
    def test_other_quantities_may_not(self, text: str) -> None:
        assert kinds(order_summary=f"ORDER-1001: {text}. Total: 1,059.97 USD.") == {Kind.QUANTITY}

    @pytest.mark.parametrize(
        "text", ["1 x Laptop, 2 x Mice", "1 Laptop and a desk", "1 x Laptop Pro, 2 x Mouse", "1 x Laptop, 2 x Mouse and a bag"]
    )
    def test_other_items_may_not(self, text: str) -> None:
        assert {Kind.ITEM, Kind.NUMBER} & kinds(order_summary=f"ORDER-1001: {text}. Total: 1,059.97 USD.")

    def test_small_numbers(self) -> None:
        assert found(next_steps="We pack your 3 items in 1 box.") == []
        assert kinds(next_steps="That makes $3.") == {Kind.AMOUNT}
        assert kinds(next_steps="We pack your 4 items.") == {Kind.QUANTITY}

    def test_lines_of_the_same_name_belong_together(self) -> None:
        items = [
            {"product_id": "A", "quantity": 1, "price": 1, "name": "Pen"},
            {"product_id": "B", "quantity": 2, "price": 2, "name": "Pen"},
        ]
        order = an_order(items=items, total_amount=5)
        for right in ("1 x Pen, 2 x Pen", "2 x Pen, 1 x Pen", "3 x Pen"):
            assert found(order, order_summary=f"ORDER-1001: {right}. Total: 5.00 USD.") == []
        for wrong in ("2 x Pen, 2 x Pen", "1 x Pen, 3 x Pen", "4 x Pen"):
            assert kinds(order, order_summary=f"ORDER-1001: {wrong}. Total: 5.00 USD.") == {Kind.QUANTITY}


class TestNumbersAndContacts:
    @pytest.mark.parametrize("word", ["", "ORDER-10012", "XORDER-1001", "ORDER-1001-2", "order-1001", "1001"])
    def test_the_order_id_must_be_there_as_it_is(self, word: str) -> None:
        assert Kind.ORDER_NUMBER in kinds(order_summary=GOOD["order_summary"].replace("ORDER-1001", word))

    @pytest.mark.parametrize(
        "text",
        ["See ORDER-1002.", "See order number 42.", "See #7.", "Invoice INV2026-001", "Tracking: CA473124829US", "1Z999AA10123456784"],
    )
    def test_other_numbers_may_not_be_there(self, text: str) -> None:
        assert {Kind.NUMBER, Kind.ORDER_NUMBER} & kinds(tracking_info=text)

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("Track it at https://evil.example/x", Kind.LINK),
            ("Track it at www.evil.example", Kind.LINK),
            ("Track it at evil.com/track", Kind.LINK),
            ("[here](http://10.0.0.1)", Kind.LINK),
            ("Write to help@evil.example", Kind.E_MAIL),
            ("Write to support@shop.example.evil.com", Kind.E_MAIL),
            ("Call +1 (555) 010-9999", Kind.PHONE),
            ("Call 555.010.9999", Kind.PHONE),
            ("Call five five five zero one two three", Kind.PHONE),
        ],
    )
    def test_contacts_that_are_not_ours(self, text: str, kind: Kind) -> None:
        assert kind in kinds(next_steps=text)


class TestPromises:
    @pytest.mark.parametrize(
        "text",
        [
            "You can get a refund at any time.",
            "We will REFUND you.",
            "Enjoy a discount next time!",
            "Shipping is free.",
            "Feel free shipping!",
            "at no additional cost",
            "We guarantee delivery.",
            "It comes with a warranty.",
            "Money-back if unhappy.",
            "10% off your next order.",
            "ｒｅｆｕｎｄ",
            "rе\u0066und",
            "re\u200bfund",
            "re-fund",
            "r e f u n d",
            "It arrives in 2 business days.",
            "It arrives tomorrow.",
            "It arrives within a week.",
            "It arrives in 13-5 business days.",
            "It arrives in 3-5 days.",
        ],
    )
    def test_may_not_be_made(self, text: str) -> None:
        assert found(next_steps=text)

    def test_a_name_may_hold_what_would_be_a_promise(self) -> None:
        items = [{"product_id": "P", "quantity": 1, "price": "5", "name": "Sugar-Free Gum 250 g, 100% natural"}]
        order = an_order(items=items, total_amount="5")
        text = "Order ORDER-1001: 1 x Sugar-Free Gum 250 g, 100% natural, 5.00 USD."
        assert found(order, order_summary=text, next_steps="Soon.") == []
        assert [str(finding) for finding in found(order, order_summary=text, next_steps="The gum is free.")] == [
            "promise: free is not ours to promise"
        ]

    @pytest.mark.parametrize("name", ["refund", "free", "say free refund", "full refund"])
    def test_a_name_that_is_a_promise_is_a_name_only_where_names_stand(self, name: str) -> None:
        order = an_order(customer_name=name)
        assert found(order, greeting=f"Dear {name},") == []
        assert found(order, greeting=f"Dear {name}", next_steps=f"You get {name}.")

    @pytest.mark.parametrize("name", ["refund", "free", "$5"])
    def test_and_an_item_only_beside_its_quantity(self, name: str) -> None:
        order = an_order(items=[{"product_id": "P", "quantity": 2, "price": "5", "name": name}], total_amount="10")
        text = f"Order ORDER-1001: 2 x {name}. Total: 10.00 USD."
        assert found(order, order_summary=text, next_steps="Soon.") == []
        assert found(order, order_summary=text, next_steps=f"You get {name}.")

    def test_the_customer_s_notes_are_not_quoted(self) -> None:
        order = an_order(notes="leave it in the shed behind the house")
        assert kinds(order, next_steps="The carrier will leave it in the shed.") == {Kind.NOTES}


class TestFinding:
    def test_says_nothing_of_strangers(self) -> None:
        findings = found(next_steps="Write to jane@evil.example about ORDER-2002.")
        assert {finding.kind for finding in findings} >= {Kind.E_MAIL, Kind.NUMBER}
        assert not [finding for finding in findings if "jane" in str(finding) or "2002" in str(finding)]
        assert [finding for finding in findings if "jane@evil.example" in finding.told]

    def test_endless_text_may_not_leave(self) -> None:
        assert kinds(next_steps="word " * 10_000) == {Kind.LENGTH}

    @relaxed
    @given(st.text())
    def test_any_text_can_be_read(self, text: str) -> None:
        assert isinstance(found(next_steps=text), list)

    @given(st.text())
    def test_one_spelling_stays_as_it_is(self, text: str) -> None:
        assert normal(normal(text)) == normal(text)

    @pytest.mark.alone
    @pytest.mark.parametrize(
        "part", ["a", "1", "1 ", "1,", "a-", "a.", "- ", "two ", "Mouse ", "2 x Mouse ", "$1 ", "[", "a@", "é", "\n", "to A", "refund "]
    )
    def test_no_text_takes_long(self, part: str) -> None:
        began = time.process_time()
        found(next_steps=part * (9_000 // len(part)))
        assert time.process_time() - began < 5


words = st.text("ABCDEFGHabcdefghäöüéñ ", min_size=3, max_size=20).map(str.strip).filter(lambda word: len(word) >= 3)
names = st.one_of(
    words,
    words.map(lambda word: f"{word} 3000"),
    st.sampled_from(["Gluten-free bread", "say free refund", "Free gift card", "USB-C cable 2 m", "1984"]),
)
currencies = st.sampled_from(["USD", "EUR", "JPY", "KWD", "CHF", "INR"])


@st.composite
def orders(draw: st.DrawFn, text: st.SearchStrategy[str] = names) -> Order:
    """Valid ones. Amounts are whole numbers of the currency's smallest units."""
    currency = draw(currencies)
    places = {"JPY": 0, "KWD": 3}.get(currency, 2)
    cents = st.integers(1, 10**6)
    items = [
        {"product_id": f"P{at}", "quantity": draw(st.integers(1, 50)), "price": Decimal(draw(cents)).scaleb(-places), "name": draw(text)}
        for at in range(draw(st.integers(1, 5)))
    ]
    total = sum((item["price"] * item["quantity"] for item in items), Decimal(0))  # type: ignore[operator, misc]
    address = {"address": f"{draw(st.integers(1, 999))} {draw(text)}", "city": draw(text), "zip": str(draw(st.integers(10000, 99999)))}
    address |= {"country": "US", "address2": draw(st.one_of(st.none(), text))}
    return an_order(
        id=f"ORDER-{draw(st.integers(1, 10**6))}",
        items=items,
        total_amount=total,
        currency=currency,
        customer_name=draw(text),
        shipping_info=address,
    )


class TestTemplate:
    @hypothesis_settings(deadline=None, max_examples=200)
    @given(orders(st.text(min_size=1)))
    def test_of_any_order_passes(self, order: Order) -> None:
        facts = facts_of(order, SETTINGS)
        assert fact_check(template.write(facts), order, facts, SETTINGS) == []

    @hypothesis_settings(deadline=None, max_examples=200)
    @given(orders())
    def test_passes_also_when_read_word_by_word(self, order: Order) -> None:
        facts = facts_of(order, SETTINGS)
        assert check_words("\n\n".join(template.write(facts).values()), order, facts, SETTINGS) == []

    @hypothesis_settings(deadline=None, max_examples=200)
    @given(orders(), st.integers(1, 10**6))
    def test_with_another_total_is_stopped(self, order: Order, more: int) -> None:
        facts = facts_of(order, SETTINGS)
        texts = template.write(facts)
        unit = order.total_amount + Decimal(more).scaleb({"JPY": 0, "KWD": -3}.get(order.currency, -2))
        texts["order_summary"] = texts["order_summary"].replace(f"total is {facts.total}", f"total is {show(unit, order.currency)}")
        assert Kind.AMOUNT in {finding.kind for finding in fact_check(texts, order, facts, SETTINGS)}

    @hypothesis_settings(deadline=None, max_examples=200)
    @given(orders(), st.integers(0, 4), st.integers(1, 60))
    def test_with_another_quantity_is_stopped(self, order: Order, line: int, more: int) -> None:
        facts = facts_of(order, SETTINGS)
        texts = template.write(facts)
        item = facts.items[line % len(facts.items)]
        right, wrong = f"{item.quantity} x {item.name}", f"{item.quantity + more} x {item.name}"
        texts["order_summary"] = texts["order_summary"].replace(right, wrong, 1)
        assert fact_check(texts, order, facts, SETTINGS)

    @hypothesis_settings(deadline=None, max_examples=100)
    @given(orders(), st.integers(1, 60))
    def test_with_another_sum_of_pieces_is_stopped(self, order: Order, more: int) -> None:
        facts = facts_of(order, SETTINGS)
        texts = template.write(facts)
        said = "1 item:" if facts.item_count == 1 else f"{facts.item_count} items:"
        texts["order_summary"] = texts["order_summary"].replace(f"has {said}", f"has {facts.item_count + more + 5} items:")
        assert fact_check(texts, order, facts, SETTINGS)


def test_a_number_to_text_to_is_somebody_elses() -> None:
    assert [match.group() for match in CONTACT.finditer("Text STOP to opt out.")] == ["Text STOP"]
    assert not CONTACT.search("You get a text message once it has left.")
