"""Slots: what a language model's text must have and must not have, and how facts get into it."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.confirmation import writer
from shop.confirmation.confirmation import ELEMENTS, Confirmation
from shop.confirmation.facts import inputs_of, slot_values
from shop.confirmation.language_model import Answer
from shop.confirmation.slots import LONGEST, SLOTS, can_check, clean, fill, problems
from shop.confirmation.writer import template_confirmation
from shop.notifications import language as language_module
from shop.notifications.language import language, words
from shop.notifications.settings import LANGUAGES
from shop.orders.order import EXAMPLE, Order
from shop.settings import Settings

relaxed = hypothesis_settings(deadline=None)  # a busy machine is not a failure
SETTINGS = Settings(_env_file=None, DSPY_MODEL="openai/test-model")
ENGLISH = language("en")
GOOD = {
    "greeting": "Dear {customer_name}, a warm thank you for your order!",
    "order_summary": "Order {order_id}: {items}, {total} in total.",
    "next_steps": "We are packing it now; it should be with you in {delivery}.",
    "tracking_info": "You can follow your parcel. {tracking}",
}
ORDER = Order.model_validate(EXAMPLE)


def found(**changes: str) -> list[str]:
    return problems({**GOOD, **changes}, "en")


def greeted(words: str) -> list[str]:
    return found(greeting=f"Dear {{customer_name}}, {words}")


class TestProblems:
    def test_a_good_text_has_none(self) -> None:
        assert found() == []

    @pytest.mark.parametrize("code", sorted(file.stem for file in LANGUAGES.glob("*.toml")))
    def test_the_template_of_every_language_has_none(self, code: str) -> None:
        assert can_check(code)
        assert problems({name: words(code)[f"confirmation.{name}"] for name in ELEMENTS}, code) == []

    def test_every_slot_has_a_value_and_every_required_one_is_missed(self) -> None:
        values = slot_values(ORDER, SETTINGS, ENGLISH)
        for name, (required, optional) in SLOTS.items():
            assert set(required + optional) <= set(values)
            for slot in required:
                assert found(**{name: GOOD[name].replace(f"{{{slot}}}", "it")}) == [
                    f"{name}: {{{slot}}} is missing"
                ]

    @pytest.mark.parametrize(
        "text",
        [
            "Dear {customer_name}, thanks. {secret}",
            "Dear {customer_name}, thanks. {total}",
            "Dear {customer_name}, thanks. {customer_name.__class__}",
            "Dear {customer_name}, thanks. {0}",
            "Dear {customer_name}, thanks. {",
            "Dear {customer_name:>9}, thanks.",
            "Dear {{customer_name}}, thanks.",
            "Dear {customer_name}{order_id}, thanks.",
            "Dear {customer_name}, thanks, {customer_name}.",
            "Dear {Customer_Name}, thanks.",
            "Dear {customer_name}, thanks for {order_id}-B.",
            "Dear {customer_name}, thanks for X{order_id}.",
            "Dear {customer_name}, thanks for -{order_id}.",
            "Dear {customer_name}, thanks for .{order_id}.",
        ],
    )
    def test_slots_that_are_unknown_broken_twice_or_joined_to_something(self, text: str) -> None:
        assert found(greeting=text)

    @pytest.mark.parametrize(
        "after", ["'s order", ", thanks", ".", "!", ") hello", "… hello", "\nhello", "” hello"]
    )
    def test_punctuation_may_follow_a_slot(self, after: str) -> None:
        assert found(greeting=f"Hello {{customer_name}}{after}") == []

    @pytest.mark.parametrize(
        "sign",
        [
            *"0５٣३²½①Ⅻ一億",
            *"$€£¥₿",
            *"@/\\#%*_<>[]|~^=+&`",
            "🆓",
            "1\ufe0f\u20e3",
            "💰",
            "е",
            "ｆ",
            "𝐟",
            "\u0301\u0301",
        ],
    )
    def test_digits_numerals_currency_signs_markup_and_letters_of_other_scripts(self, sign: str) -> None:
        assert any("character" in problem for problem in greeted(f"we like {sign} a lot."))

    @pytest.mark.parametrize("sign", ["\u200b", "\u202e", "\x00", "\x1b", "\u2066", "\xad", "\ufeff"])
    def test_nothing_hides_in_invisible_characters(self, sign: str) -> None:
        text = clean(f"Dear {{customer_name}}, it is fr{sign}ee.")
        assert found(greeting=text) == ["greeting: promises: free"]
        assert sign not in text

    @pytest.mark.parametrize("text", ["ﬁve of them", "𝐟𝐢𝐯𝐞 of them", "ｆｉｖｅ of them"])
    def test_nothing_hides_in_other_forms_of_letters(self, text: str) -> None:
        assert greeted(clean(text)) == ["greeting: numbers: five"]

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("you get a refund.", "promises"),
            ("it is FREE.", "promises"),
            ("your money-back guarantee.", "promises"),
            ("es ist kostenlos.", "promises"),
            ("wir erstatten alles.", "promises"),
            ("Sie erhalten eine Rückerstattung.", "promises"),
            ("it costs twenty-nine of them.", "numbers"),
            ("a hundred thanks.", "numbers"),
            ("zweihundert Dank.", "numbers"),
            ("a few dollars.", "currencies"),
            ("that is in EUR.", "capitals"),
            ("part XII.", "capitals"),
            ("it arrives tomorrow.", "times"),
            ("it arrives on Monday.", "times"),
            ("within weeks.", "times"),
            ("am Dienstag.", "times"),
            ("see our website.", "contacts"),
            ("see shop.example for more.", "contacts"),
            ("click here.", "contacts"),
        ],
    )
    def test_words_of_the_lists_in_whatever_language(self, text: str, kind: str) -> None:
        assert any(f"greeting: {kind}: " in problem for problem in greeted(text))

    @pytest.mark.parametrize(
        "text",
        [
            "feel free to answer.",
            "one of us is packing it.",
            "greetings from the Café!",
            "have a lovely day.",
        ],
    )
    def test_harmless_words(self, text: str) -> None:
        assert greeted(text) == []

    @pytest.mark.parametrize(
        "text", ["Your number is {tracking}", "Follow it with {tracking} or not.", "Follow it. {tracking}."]
    )
    def test_the_tracking_sentence_stands_alone(self, text: str) -> None:
        assert found(tracking_info=text) == ["tracking_info: {tracking} is not a sentence of its own"]

    def test_another_language_than_the_mail_s(self) -> None:
        german = {name: words("de")[f"confirmation.{name}"] for name in ELEMENTS}
        assert problems(german, "de") == []
        assert len(problems(german, "en")) >= len(ELEMENTS) - 1
        assert "greeting: not in the language of the mail" in found(
            greeting="Bonjour {customer_name}, nous vous remercions beaucoup!"
        )
        assert "greeting: not in the language of the mail" in found(
            greeting="Guten Tag {customer_name}, vielen Dank!"
        )

    def test_a_long_text(self) -> None:
        assert greeted("so " * LONGEST) == [f"greeting: longer than {LONGEST} characters"]

    def test_an_element_that_is_missing(self) -> None:
        assert problems({**GOOD, "next_steps": " "}, "en") == ["missing element: next_steps"]
        assert len(problems({}, "en")) == len(ELEMENTS)


def an_order(
    name: str = "John Doe", item: str = "Laptop", order_id: str = "ORDER-1001", street: str = "123 Main St"
) -> Order:
    items = [{"product_id": "P-1", "quantity": 2, "price": "5.00", "name": item}]
    address = {"address": street, "city": "Anytown", "country": "US"}
    return Order.model_validate(
        {
            **EXAMPLE,
            "id": order_id,
            "customer_name": name,
            "items": items,
            "total_amount": "10.00",
            "shipping_info": address,
        }
    )


def written(
    texts: dict[str, str], order: Order, monkeypatch: pytest.MonkeyPatch, settings: Settings = SETTINGS
) -> Confirmation:
    async def ask(*_: object) -> Answer:
        return Answer(texts, "plain")

    monkeypatch.setattr(writer, "ask", ask)
    return asyncio.run(writer.write_confirmation(order, settings))


class TestFilling:
    @pytest.mark.parametrize(
        "name",
        [
            "{total}",
            "{order_id}{items}",
            "\\g<0>",
            "%s {0} {}",
            "<b>Eve</b> & {{ 7*7 }}",
            "$(id)",
            "٣ Eve",
            "Eve refund 5 EUR",
        ],
    )
    def test_what_a_customer_typed_is_never_read_as_a_slot(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        confirmation = written(GOOD, an_order(name, name), monkeypatch)
        assert confirmation.generation_model == "openai/test-model"
        assert confirmation.greeting == f"Dear {name}, a warm thank you for your order!"
        assert f"2 x {name}, 10.00 USD in total." in confirmation.order_summary

    def test_control_and_bidirectional_characters_of_a_name_are_removed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        confirmation = written(GOOD, an_order("Eve\r\n\n\x00\u202eevil\u200b"), monkeypatch)
        assert confirmation.greeting == "Dear Eve evil, a warm thank you for your order!"

    def test_values_are_in_the_language_and_format_of_the_mail(self, monkeypatch: pytest.MonkeyPatch) -> None:
        german = SETTINGS.with_values(MAIL_LANGUAGE="de")
        confirmation = written(
            {name: words("de")[f"confirmation.{name}"] for name in ELEMENTS}, ORDER, monkeypatch, german
        )
        assert confirmation.generation_model == "openai/test-model"
        assert "1.059,97 USD" in confirmation.order_summary
        assert "3-5 Werktage" in confirmation.next_steps
        assert "Ihre Sendungsnummer" in confirmation.tracking_info

    def test_a_slot_without_a_value_is_an_error(self) -> None:
        with pytest.raises(KeyError):
            fill({"greeting": "{nothing}"}, {"customer_name": "x"})

    def test_a_language_without_word_lists_gets_the_template(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("languages")
        for name, text in {
            "en": (LANGUAGES / "en.toml").read_text(encoding="utf-8"),
            "fr": 'total = "Somme"',
        }.items():
            (folder / f"{name}.toml").write_text(text, encoding="utf-8")
        monkeypatch.setattr(language_module, "LANGUAGES", folder)
        for cache in (words, language):
            cache.cache_clear()
        try:
            french = SETTINGS.with_values(MAIL_LANGUAGE="fr")
            confirmation = written(GOOD, ORDER, monkeypatch, french)
        finally:
            for cache in (words, language):
                cache.cache_clear()
        assert confirmation.generation_model == "template"
        assert confirmation.validation_warnings == [
            "language model not used: the language fr has no word lists"
        ]


class TestWhatAModelIsGiven:
    @relaxed
    @given(st.text(), st.text(), st.text(min_size=1), st.text())
    def test_is_the_same_whatever_is_in_the_order(
        self, name: str, item: str, order_id: str, street: str
    ) -> None:
        given = inputs_of(an_order(name, item, order_id, street), SETTINGS, ENGLISH)
        assert given == inputs_of(an_order(), SETTINGS, ENGLISH)
        assert given == {
            "language": "English",
            "tone": "professional_friendly",
            "order_size": "several items",
            "mistakes": "none",
        }

    def test_one_item(self) -> None:
        one = Order.model_validate(
            {**EXAMPLE, "items": [{"product_id": "P-1", "quantity": 1, "price": "5.00"}]}
        )
        assert inputs_of(one, SETTINGS, ENGLISH)["order_size"] == "one item"


_SLOT_NAMES = sorted({slot for slots in SLOTS.values() for slot in slots.required + slots.optional})
_FRAGMENTS = st.one_of(
    st.sampled_from([f"{{{name}}}" for name in [*_SLOT_NAMES, "secret", "0", "total.real", ""]]),
    st.sampled_from(
        ["thank you", "your order", "Ihr Paket", ",", ".", "!", "\n", " - ", "'s", "„so“", "e\u0301"]
    ),
    st.sampled_from(["1", "٣", "½", "三", "€", "USD", "five", "refund", "free"]),
    st.sampled_from(
        ["a@b.example", "https://evil.example", "www.evil", "<b>", "{", "}", "{{", "\u202e", "\u200b"]
    ),
    st.text(max_size=8),
)


@st.composite
def _answers(draw: st.DrawFn) -> dict[str, Any]:
    """Good texts with something added, or anything at all."""
    texts: dict[str, Any] = {}
    for name in ELEMENTS:
        start = draw(st.sampled_from([GOOD[name], GOOD[name], GOOD[name], ""]))
        added = draw(st.one_of(st.just([]), st.just([]), st.lists(_FRAGMENTS, max_size=3)))
        texts[name] = draw(st.sampled_from(["", " "])).join([start, *added])
    return texts


_LITERAL = re.compile(r"\{\w+\}")
_VALUE = re.compile(r"\{(\w+)\}")


@hypothesis_settings(deadline=None, max_examples=300)
@given(_answers(), st.text(), st.text(), st.text(min_size=1))
def test_whatever_a_model_answers_only_the_order_s_facts_are_sent(
    texts: dict[str, str], name: str, item: str, order_id: str
) -> None:
    order = an_order(name, item, order_id)
    with pytest.MonkeyPatch.context() as patch:
        confirmation = written(texts, order, patch)
    sent = {element: getattr(confirmation, element) for element in ELEMENTS}
    if confirmation.generation_model == "template":
        expected = template_confirmation(order, SETTINGS)
        assert sent == {element: getattr(expected, element) for element in ELEMENTS}
        assert confirmation.validation_warnings
        return
    values = slot_values(order, SETTINGS, ENGLISH)
    for element, text in sent.items():
        answer = clean(texts[element])
        own, facts = _LITERAL.split(answer), _VALUE.findall(answer)
        assert (
            text
            == "".join(
                part
                for pair in zip(own, [*[values[fact] for fact in facts], ""], strict=True)
                for part in pair
            ).strip()
        )
        assert {values[slot] for slot in SLOTS[element].required} <= {values[fact] for fact in facts}
        for sign in "".join(own):
            category = unicodedata.category(sign)
            assert category[0] not in "NSC" or sign == "\n", (sign, category)
            assert not sign.isnumeric()
            assert sign not in "@/{}<>[]%#&*"
