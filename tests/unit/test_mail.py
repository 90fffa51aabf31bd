"""Mails, read back by a mail parser."""

from __future__ import annotations

import email
import json
import mailbox
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from email.message import EmailMessage
from email.policy import default
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.confirmation.writer import template_confirmation
from shop.notifications import language as language_module
from shop.notifications import message as message_module
from shop.notifications.kinds import Kind
from shop.notifications.language import language, language_of, words
from shop.notifications.layout import order_table, wrapped
from shop.notifications.mail import (
    MailContext,
    awaiting_payment_mail,
    confirmation_mail,
    incomplete_mail,
    mail,
    message_id,
    out_of_stock_mail,
    payment_failed_mail,
    refund_mail,
)
from shop.notifications.maildir import Maildir, mail_name
from shop.notifications.settings import LANGUAGES
from shop.orders.order import EXAMPLE, Order
from shop.payments.errors import PaymentLapsed
from shop.settings import Settings
from shop.text.sanitize import paragraphs

ENGLISH = language("en")
relaxed = hypothesis_settings(deadline=None)  # a busy machine is not a failure
SETTINGS = Settings(_env_file=None, DSPY_MODEL=None)
DATE = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)
TRACKING = "CA473124829US"
HEADERS = {
    "From",
    "Reply-To",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "Content-Type",
    "MIME-Version",
}
ABOUT = MailContext(SETTINGS, DATE)
OURS = "0123456789abcdef"
SHORTAGES = [{"product_id": "PROD-002", "requested": 2, "available": 1}]


def an_order(**changes: Any) -> Order:
    return Order.model_validate({**EXAMPLE, **changes})


ORDER = an_order()
HOSTILE = [
    "Eve\r\nBcc: all@evil.example",
    "Eve\nSubject: other\n\nbody",
    "Eve\x00\x0b\x0c\x1c\x85\u2028Bcc: x@evil.example",
    "=?utf-8?q?Eve=0D=0ABcc:_x=40evil.example?=",
    "Ünal, evil@evil.example",
    '"Eve" <evil@evil.example>, John',
    "Eve (comment) \\",
    "Ü" * 300,
    "王" * 120 + ",;:<>@",
    "a" * 998,
    "\u202egnp.exe",
    "",
    " ",
]


def confirmation_of(order: Order, settings: Settings = SETTINGS, **fields: str) -> dict[str, Any]:
    return {**template_confirmation(order, settings).model_dump(mode="json"), **fields}


def sent(order: Order = ORDER, about: MailContext = ABOUT, **fields: str) -> EmailMessage:
    return parsed(
        confirmation_mail(order, confirmation_of(order, about.settings, **fields), TRACKING, about).data
    )


def refund(order: Order = ORDER, amount: str = "1059.97", **options: Any) -> EmailMessage:
    return parsed(refund_mail(order, Decimal(amount), order.currency, ABOUT, **options).data)


def every(order: Order, about: MailContext = ABOUT) -> list[EmailMessage]:
    """One mail of each kind."""
    short = [{"product_id": order.items[0].product_id, "requested": 1, "available": 0}] if order.items else []
    made = [
        confirmation_mail(order, confirmation_of(order, about.settings), TRACKING, about),
        refund_mail(order, Decimal(1), order.currency, about),
        payment_failed_mail(order, about, why="payment_declined"),
        incomplete_mail(order, about, why="no_delivery_address"),
        out_of_stock_mail(order, short, about),
        awaiting_payment_mail(order, Decimal(1), order.currency, about),
    ]
    return [parsed(each.data) for each in made]


def parsed(data: bytes) -> EmailMessage:
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert b"\r" not in data.replace(b"\r\n", b"")
    assert b"\x00" not in data
    message = email.message_from_bytes(data, policy=default)
    assert not message.defects
    assert set(message.keys()) == HEADERS
    assert len(message.keys()) == len(HEADERS)
    parts = [part.get_content_type() for part in message.iter_parts()]  # type: ignore[attr-defined]
    assert parts == ["text/plain", "text/html"], "the last is what mail programs prefer"
    return message


def text_of(message: EmailMessage) -> str:
    return str(message.get_body(("plain",)).get_content()).replace("\r\n", "\n")  # type: ignore[union-attr]


def html_of(message: EmailMessage) -> str:
    return str(message.get_body(("html",)).get_content())  # type: ignore[union-attr]


class Page(HTMLParser):
    """What a mail program makes of the HTML: its elements, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    @property
    def shape(self) -> list[str]:
        return [tag for tag, _ in self.elements]


def recipients(message: EmailMessage) -> list[str]:
    return [address.addr_spec for address in message["To"].addresses]


class TestConfirmationMail:
    def test_headers(self) -> None:
        message = sent()
        assert str(message["To"]) == "John Doe <john.doe@example.com>"
        assert str(message["From"]) == "The Shop <orders@shop.example>"
        assert message["Subject"] == "Your order ORDER-1001 is confirmed"
        assert message["Date"].datetime == DATE
        assert message["Message-ID"].startswith("<confirmation-ORDER-1001-")
        assert message["Message-ID"].endswith("@shop.example>")
        assert message.get_content_type() == "multipart/alternative"

    def test_text(self) -> None:
        text = text_of(
            sent(greeting="Dear John,\n\nthank you!", order_summary="Thanks.", next_steps="We pack.")
        )
        assert text.startswith("Dear John,\n\nthank you!\n\n")
        places = [
            text.index(part)
            for part in ("Dear John", "Qty", "Laptop", "Total", "We pack.", f"Tracking number: {TRACKING}")
        ]
        assert places == sorted(places)
        assert all(len(line) <= 78 for line in text.splitlines())

    def test_both_parts_have_the_same_content(self) -> None:
        message = sent(an_order(tax_amount="3", shipping_amount="4.50", discount_amount="7.50"))
        page = Page(html_of(message)).text
        for expected in (
            "Laptop",
            "999.99",
            "59.98",
            "Tax",
            "3.00",
            "-7.50",
            "1,059.97 USD",
            TRACKING,
            "thank you for your order!",
        ):
            assert expected in page
            assert expected in text_of(message)

    def test_missing_texts_leave_no_hole(self) -> None:
        message = parsed(
            confirmation_mail(ORDER, {"greeting": "Hello", "next_steps": None}, TRACKING, ABOUT).data
        )
        text = text_of(message)
        assert text.startswith("Hello\n\nQty")
        assert "None" not in text + html_of(message)
        assert "\n\n\n" not in text

    def test_lines_of_the_writer_stay_lines(self) -> None:
        message = sent(next_steps="First:\n- pack\n- ship")
        assert "First:\n- pack\n- ship" in text_of(message)
        assert Page(html_of(message)).shape.count("br") >= 2

    def test_is_the_same_again(self) -> None:
        fields = confirmation_of(ORDER)
        assert confirmation_mail(ORDER, fields, TRACKING, ABOUT) == confirmation_mail(
            ORDER, fields, TRACKING, ABOUT
        )

    def test_a_date_has_a_zone(self) -> None:
        with pytest.raises(ValueError, match="time zone"):
            confirmation_mail(ORDER, {}, TRACKING, MailContext(SETTINGS, datetime(2031, 1, 1)))  # noqa: DTZ001
        berlin = DATE.astimezone(timezone(timedelta(hours=1)))
        message = parsed(confirmation_mail(ORDER, {}, TRACKING, MailContext(SETTINGS, berlin)).data)
        assert message["Date"].datetime == DATE
        assert str(message["Date"]).endswith("+0100")

    def test_never_prints_notes_or_card(self) -> None:
        order = an_order(
            notes="ring twice", payment_info={"method": "paypal", "card_last4": "4242", "token": "tok_secret"}
        )
        for message in every(order):
            assert not [
                secret
                for secret in ("ring twice", "4242", "tok_secret")
                if secret in text_of(message) + html_of(message)
            ]

    def test_a_link_to_follow_the_parcel(self) -> None:
        about = MailContext(
            Settings(_env_file=None, TRACKING_URL="https://carrier.example/t?n={tracking_number}&l=en"), DATE
        )
        message = parsed(confirmation_mail(ORDER, confirmation_of(ORDER), "A B&1", about).data)
        link = "https://carrier.example/t?n=A%20B%261&l=en"
        assert f"Follow your parcel: {link}" in text_of(message)
        assert (
            next(attributes["href"] for tag, attributes in Page(html_of(message)).elements if tag == "a")
            == link
        )
        assert "Tracking number: A B&1" in text_of(message)

    def test_without_a_link_there_is_the_number(self) -> None:
        assert "http" not in text_of(sent())
        assert [
            tag
            for tag, attributes in Page(html_of(sent())).elements
            if (attributes.get("href") or "").startswith("http")
        ] == []


class TestNotices:
    def test_a_refund_names_what_came_back(self) -> None:
        message = refund()
        assert message["Subject"] == "Your order ORDER-1001 was refunded"
        assert "We have refunded 1,059.97 USD to you." in text_of(message)
        assert "We have refunded 1,059.97 USD to you." in Page(html_of(message)).text
        assert "John Doe" in text_of(message)

    @pytest.mark.parametrize(
        ("why", "says"),
        [
            (None, "could not be completed"),
            ("carrier_refused", "could not be completed"),
            ("cancelled", "was cancelled and will not"),
            ("returned", "counts as returned"),
            ("out_of_stock", "because not all of it is in stock"),
        ],
    )
    def test_a_refund_states_its_reason(self, why: str | None, says: str) -> None:
        assert says in " ".join(text_of(refund(why=why)).split())

    def test_in_the_currency_s_decimals(self) -> None:
        text = text_of(parsed(refund_mail(ORDER, Decimal(5000), "JPY", ABOUT).data))
        assert "5,000 JPY" in text

    def test_a_declined_payment(self) -> None:
        message = parsed(payment_failed_mail(ORDER, ABOUT, why="payment_declined").data)
        text = " ".join(text_of(message).split())
        assert message["Subject"] == "The payment for your order ORDER-1001 did not go through"
        for expected in ("was declined by your bank", "You have not been charged", "You can order again"):
            assert expected in text
            assert expected in Page(html_of(message)).text
        assert "refund" not in text

    def test_an_unconfirmed_payment_was_not_declined(self) -> None:
        text = " ".join(text_of(parsed(payment_failed_mail(ORDER, ABOUT, why="payment_lapsed").data)).split())
        assert "was cancelled, because it had not been confirmed" in text
        assert "declined" not in text

    @pytest.mark.parametrize(
        ("why", "lacking", "to_do"),
        [
            ("no_delivery_address", "without a delivery address", "with a delivery address"),
            ("payment_refused", "without a means of payment", "with a means of payment"),
        ],
    )
    def test_an_incomplete_order_is_not_reported_as_a_failed_payment(
        self, why: str, lacking: str, to_do: str
    ) -> None:
        message = parsed(incomplete_mail(an_order(shipping_info=None), ABOUT, why=why).data)
        assert message["Subject"] == "Your order ORDER-1001 could not be accepted"
        for shown in (" ".join(text_of(message).split()), Page(html_of(message)).text):
            for expected in (lacking, "You have not been charged", to_do):
                assert expected in shown
            assert "go through" not in shown
            assert "declined" not in shown

    @pytest.mark.parametrize("code", sorted(file.stem for file in LANGUAGES.glob("*.toml")))
    def test_the_confirmation_states_that_its_number_is_here(self, code: str) -> None:
        """It leaves when the parcel is booked: nothing in it is still to follow."""
        about = MailContext(Settings(_env_file=None, DSPY_MODEL=None, MAIL_LANGUAGE=code), DATE)
        text = text_of(sent(about=about))
        above, number = text.split(TRACKING)[0], language(code).say("confirmation.tracking_number")
        assert above.endswith(f"{number}: ")
        assert not re.search(r"follows|folgt|on its way|auf dem weg", text, re.IGNORECASE)

    @pytest.mark.parametrize("code", sorted(file.stem for file in LANGUAGES.glob("*.toml")))
    def test_a_recipient_is_addressed_where_no_customer_is_named(self, code: str) -> None:
        about = MailContext(Settings(_env_file=None, DSPY_MODEL=None, MAIL_LANGUAGE=code), DATE)
        pat = an_order(customer_name=None, shipping_info={**EXAMPLE["shipping_info"], "name": "Pat Example"})
        for message in every(pat, about):
            assert " Pat Example," in text_of(message)
            assert words(code)["nobody"] not in text_of(message)
            assert message["To"].addresses[0].display_name == "Pat Example"

    def test_a_payment_that_failed_otherwise_is_not_called_declined(self) -> None:
        text = text_of(parsed(payment_failed_mail(ORDER, ABOUT, why="payment_gateway_error").data))
        assert "declined" not in text
        assert "could not be completed" in text

    @pytest.mark.parametrize("code", sorted(file.stem for file in LANGUAGES.glob("*.toml")))
    def test_what_is_to_be_transferred_and_where_to(self, code: str) -> None:
        account = {"SHOP_BANK_DETAILS": "First Bank\nIBAN XX00 0000", "MAIL_LANGUAGE": code}
        given = Settings(_env_file=None, DSPY_MODEL=None, **account)
        order = an_order(payment_info={"method": "bank_transfer"}, order_number="#1071")
        for s, where in ((given, "First Bank\nIBAN XX00 0000"), (SETTINGS, SETTINGS.shop.support_email)):
            message = parsed(
                awaiting_payment_mail(order, Decimal("1059.97"), "USD", MailContext(s, DATE)).data
            )
            text = text_of(message)
            assert where in text
            assert "#1071" in text
            assert language_of(order, s).money(Decimal("1059.97"), "USD") in text

    @pytest.mark.parametrize("method", ["bank_transfer", "cash_on_delivery"])
    def test_a_confirmation_states_what_is_still_to_be_paid(self, method: str) -> None:
        first = json.dumps(["bank_transfer", "cash_on_delivery"])
        account = {"SHOP_BANK_DETAILS": "IBAN XX00 0000", "PAYMENT_SHIP_BEFORE_PAYMENT": first}
        about = MailContext(Settings(_env_file=None, DSPY_MODEL=None, **account), DATE)
        parts = [{"method": "gift_card", "amount": "59.97"}]
        order = an_order(payment_info={"method": method}, part_payments=parts)
        text = text_of(sent(order, about))
        due = [line for line in text.splitlines() if line.endswith("1,000.00 USD")]
        assert [line.strip().startswith(words("en")[f"to_pay.{method}"]) for line in due] == [True]
        assert ("IBAN XX00 0000" in text) == (method == "bank_transfer")
        assert words("en")[f"to_pay.{method}"] not in text_of(sent(an_order(part_payments=parts), about))

    def test_a_transfer_that_did_not_come_is_no_declined_payment(self) -> None:
        order = an_order(payment_info={"method": "bank_transfer"})
        mail = payment_failed_mail(order, ABOUT, why=PaymentLapsed.code)
        text = " ".join(text_of(parsed(mail.data)).split())
        phrases = words("en")
        assert phrases["payment_failed.do_not_pay"] in text
        assert phrases["payment_failed.not_charged"] not in text
        assert phrases["payment_failed.lapsed"].format(order_id=order.id) not in text

    def test_what_is_short_is_named(self) -> None:
        message = parsed(out_of_stock_mail(ORDER, SHORTAGES, ABOUT).data)
        assert "- Mouse\n  Ordered: 2, In stock: 1" in text_of(message)
        assert "Mouse 2 1" in Page(html_of(message)).text
        assert "Laptop" not in text_of(message)
        assert "You have not been charged." in text_of(message)

    def test_a_kind_is_made_of_what_the_outbox_keeps(self) -> None:
        payloads: dict[Kind, dict[str, Any]] = {
            Kind.CONFIRMATION: {"tracking_number": TRACKING, "confirmation": confirmation_of(ORDER)},
            Kind.REFUND: {"amount": "1.00", "currency": "USD"},
            Kind.PAYMENT_FAILED: {"why": "payment_declined"},
            Kind.INCOMPLETE: {"why": "no_delivery_address"},
            Kind.OUT_OF_STOCK: {"shortages": SHORTAGES},
            Kind.AWAITING_PAYMENT: {"amount": "1.00", "currency": "USD"},
        }
        ids = {parsed(mail(ORDER, kind, payloads[kind], ABOUT).data)["Message-ID"] for kind in Kind}
        assert ids == {message_id(ORDER.id, kind, SETTINGS, "") for kind in Kind}


class TestMailPrograms:
    """What mail programs need, and what they forbid."""

    def test_nothing_comes_from_outside_and_nothing_runs(self) -> None:
        for message in every(ORDER):
            page = Page(html_of(message))
            assert not {"img", "script", "link", "iframe", "form", "object", "svg"} & set(page.shape)
            assert not [
                name
                for _, attributes in page.elements
                for name in attributes
                if name.startswith("on") or name == "src"
            ]
            assert "url(" not in html_of(message)
            assert "@import" not in html_of(message)

    def test_laid_out_with_tables_in_600_pixels(self) -> None:
        elements = Page(html_of(sent())).elements
        assert ("table", "600") in [(tag, attributes.get("width")) for tag, attributes in elements]
        assert not {"div"} & {
            tag for tag, _ in elements[elements.index(next(e for e in elements if e[0] == "table")) :]
        }

    def test_every_element_that_is_opened_is_closed(self) -> None:
        for message in every(ORDER):
            open_tags: list[str] = []
            for close, tag in re.findall(r"<(/?)([a-z0-9]+)[^>]*>", html_of(message)):
                if tag in {"meta", "br"}:
                    continue
                if close:
                    assert open_tags.pop() == tag
                else:
                    open_tags.append(tag)
            assert open_tags == []

    def test_a_preview_that_is_not_shown(self) -> None:
        html = html_of(sent())
        hidden = html[html.index("<body") :].split("</div>")[0]
        assert "display:none" in hidden
        assert "1,059.97 USD. Your tracking number is in this mail." in hidden

    def test_dark_colours(self) -> None:
        assert "prefers-color-scheme: dark" in html_of(sent())

    def test_the_longest_order_is_not_clipped(self) -> None:
        """Gmail shows the first 102 kB."""
        items = [
            {"product_id": f"P{i}", "quantity": 1, "price": "1.00", "name": "A fairly long name of a product"}
            for i in range(200)
        ]
        assert len(html_of(sent(an_order(items=items, total_amount="200.00")))) < 102_000


class TestLanguages:
    GERMAN = MailContext(Settings(_env_file=None, MAIL_LANGUAGE="de"), DATE)

    def test_german(self) -> None:
        message = sent(about=self.GERMAN)
        assert message["Subject"] == "Ihre Bestellung ORDER-1001 ist bestätigt"
        text = text_of(message)
        for expected in ("Guten Tag John Doe,", "1.059,97 USD", "Menge", "Sendungsnummer", "3-5 Werktage"):
            assert expected in text
        assert '<html lang="de">' in html_of(message)
        assert "3. Februar 2031" in html_of(message)
        assert "Total" not in text
        assert "thank you" not in text

    def test_what_a_model_wrote_stays_as_it_was_checked(self) -> None:
        message = sent(about=self.GERMAN, greeting="Dear John, checked.", generation_model="openai/x")
        assert "Dear John, checked." in text_of(message)
        assert "Menge" in text_of(message)

    def test_every_kind_is_german_throughout(self) -> None:
        for message in every(ORDER, self.GERMAN):
            english = {"your", "order", "the", "You", "have", "Total", "Item"}
            assert not english & set(re.findall(r"[A-Za-z]+", text_of(message)))
            assert not english & set(re.findall(r"[A-Za-z]+", Page(html_of(message).split("<body")[1]).text))

    def test_by_the_country(self) -> None:
        about = MailContext(Settings(_env_file=None, MAIL_LANGUAGE_BY_COUNTRY={"de": "de", "AT": "de"}), DATE)
        german = an_order(shipping_info={**EXAMPLE["shipping_info"], "country": "at"})
        assert sent(german, about)["Subject"].startswith("Ihre Bestellung")
        assert sent(ORDER, about)["Subject"].startswith("Your order")
        assert sent(an_order(shipping_info=None), about)["Subject"].startswith("Your order")

    @pytest.mark.parametrize("code", sorted(file.stem for file in LANGUAGES.glob("*.toml")))
    def test_is_complete(self, code: str) -> None:
        """A changed text fails with what else has to be changed."""
        english, other = words("en"), words(code)
        assert set(other) == set(english)
        for key, expected in english.items():
            assert set(re.findall(r"{\w+}", other[key])) == set(re.findall(r"{\w+}", expected)), key

    def test_words_that_are_missing_are_english(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, text in {
            "en": (LANGUAGES / "en.toml").read_text(encoding="utf-8"),
            "fr": 'total = "Somme"',
        }.items():
            (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
        monkeypatch.setattr(language_module, "LANGUAGES", tmp_path)
        words.cache_clear()
        language.cache_clear()
        try:
            french = language("fr")
            assert (french.say("total"), french.say("tax")) == ("Somme", "Tax")
            assert (
                french.number(Decimal("1059.97"), "EUR").replace("\u202f", " ").replace("\xa0", " ")
                == "1 059,97"
            )
        finally:
            words.cache_clear()
            language.cache_clear()

    @pytest.mark.parametrize(
        ("amount", "currency", "shown"),
        [
            ("1059.97", "EUR", "1.059,97 EUR"),
            ("-7.5", "EUR", "-7,50 EUR"),
            ("5000", "JPY", "5.000 JPY"),
            ("1.2345", "KWD", "1,235 KWD"),
        ],
    )
    def test_amounts(self, amount: str, currency: str, shown: str) -> None:
        assert language("de").money(Decimal(amount), currency) == shown


class TestHostileText:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_adds_no_header_and_no_recipient(self, text: str) -> None:
        order = an_order(
            id=text, customer_name=text, items=[{"product_id": text, "quantity": 1, "price": 1, "name": text}]
        )
        for message in every(order):
            assert recipients(message) == ["john.doe@example.com"]
            assert "\n" not in message["Subject"]
            assert "\n" not in message["To"].addresses[0].display_name

    @relaxed
    @given(st.text(), st.text())
    def test_any_text(self, order_id: str, name: str) -> None:
        order = an_order(id=order_id, customer_name=name)
        for message in every(order):
            assert recipients(message) == ["john.doe@example.com"]

    @relaxed
    @given(st.text())
    def test_any_text_of_a_model(self, text: str) -> None:
        message = sent(greeting=text, order_summary=text, next_steps=text, tracking_info=text)
        assert f"Tracking number: {TRACKING}" in text_of(message).splitlines()

    @pytest.mark.parametrize(
        "given_address",
        [
            *(
                None,
                "",
                "nobody",
                "a@b",
                "a@b.com, c@d.com",
                "a@b.com\r\nBcc: c@d.com",
                "a@b.com\n",
                "<a@b.com>",
                "a b@c.com",
                "a@b..com",
            ),
            *(
                "a@@b.com",
                '"a,b"@c.com',
                "a@b.com;c@d.com",
                "a" * 300 + "@b.com",
                "a@" + "ü" * 80 + ".com",
                "John <a@b.com>",
            ),
        ],
    )
    def test_without_a_usable_address_it_goes_to_support(self, given_address: str | None) -> None:
        for message in every(an_order(customer_email=given_address)):
            if given_address == "a@b.com\n":  # the order's model strips it
                assert recipients(message) == ["a@b.com"]
                continue
            assert recipients(message) == ["support@shop.example"]
            assert message["Subject"].lstrip().startswith("[customer has no e-mail address] ")
            assert "ORDER-1001" in message["Subject"]

    def test_names_beyond_ascii(self) -> None:
        message = sent(an_order(customer_name="Zoë Łukasz 王小明"))
        assert message["To"].addresses[0].display_name == "Zoë Łukasz 王小明"
        assert "Zoë Łukasz 王小明" in text_of(message)

    def test_is_plain_ascii_on_the_wire(self) -> None:
        order = an_order(
            customer_name="Zoë 王小明",
            items=[{"product_id": "P", "quantity": 1, "price": 1, "name": "Schlüssel"}],
        )
        assert confirmation_mail(order, confirmation_of(order), TRACKING, ABOUT).data.isascii()

    def test_domains_beyond_ascii(self) -> None:
        assert recipients(sent(an_order(customer_email="info@exämple.com"))) == ["info@xn--exmple-cua.com"]

    def test_no_domain_becomes_another_one(self) -> None:
        """The envelope and every mail's header; `strasse.example` may be somebody else's."""
        order = an_order(customer_email="pat@straße.example")
        assert (
            confirmation_mail(order, confirmation_of(order), TRACKING, ABOUT).recipient
            == "pat@xn--strae-oqa.example"
        )
        for message in every(order):
            assert recipients(message) == ["pat@xn--strae-oqa.example"]

    def test_mailboxes_beyond_ascii(self) -> None:
        made = confirmation_mail(an_order(customer_email="jörg@exämple.com"), {}, TRACKING, ABOUT)
        assert (made.recipient, made.international) == ("jörg@xn--exmple-cua.com", True)
        data = made.data
        assert b"To: John Doe <" + "jörg@xn--exmple-cua.com".encode() + b">\r\n" in data

    def test_special_but_valid_mailboxes(self) -> None:
        for address in ("john+shop@example.com", "o'brien@sub.example.co.uk", "a..b@example.com"):
            assert [a.replace('"', "") for a in recipients(sent(an_order(customer_email=address)))] == [
                address
            ]

    MARKUP = (
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        '" onmouseover="alert(1)',
        "</td></tr></table><a href=https://evil.example>Pay here</a>",
        "{{ 7*7 }} {% include 'base.html' %}",
        "{order_id} {0} {name.__class__}",
        "&lt;b&gt; &amp;",
        "<!-- -->]]>",
        "javascript:alert(1)",
    )

    @pytest.mark.parametrize("typed", MARKUP)
    def test_what_customers_type_is_text(self, typed: str) -> None:
        """The HTML has the elements and attributes that it has without it, and says it letter by letter."""
        item = {"product_id": "P", "quantity": 1, "price": 1, "name": "plain"}
        calm = an_order(customer_name="plain", items=[item])
        order = an_order(customer_name=typed, id=typed, items=[{**item, "name": typed}])
        for plain, message in zip(every(calm), every(order), strict=True):
            page = Page(html_of(message))
            assert page.elements == Page(html_of(plain)).elements
            assert typed in page.text
        model = sent(greeting=typed, order_summary=typed, next_steps=typed, tracking_info=typed)
        assert Page(html_of(model)).shape.count("script") == 0
        assert typed in Page(html_of(model)).text

    @relaxed
    @given(st.text())
    def test_any_text_of_a_model_adds_no_element(self, text: str) -> None:
        allowed = set(Page(html_of(sent())).shape) | {"br"}
        assert (
            set(
                Page(
                    html_of(sent(greeting=text, order_summary=text, next_steps=text, tracking_info=text))
                ).shape
            )
            <= allowed
        )


class TestEncoding:
    @pytest.mark.parametrize("name", ["John Doe", "Dr. John Q. Doe", "O'Brien", None])
    def test_the_quick_way_gives_the_same_bytes(
        self, monkeypatch: pytest.MonkeyPatch, name: str | None
    ) -> None:
        order = an_order(customer_name=name)
        quick = confirmation_mail(order, confirmation_of(order), TRACKING, ABOUT)
        monkeypatch.setattr(message_module, "_LINE", 0)
        assert confirmation_mail(order, confirmation_of(order), TRACKING, ABOUT) == quick

    @relaxed
    @given(st.text())
    def test_any_text_arrives(self, text: str) -> None:
        greeting = paragraphs(text)
        assert greeting.split() == text_of(sent(greeting=text)).split("Your order ORDER-1001:")[0].split()


class TestTable:
    def test_is_aligned(self) -> None:
        order = an_order(
            tax_amount="3", shipping_amount="4.50", discount_amount="7.50", total_amount="1059.97"
        )
        assert order_table(order, ENGLISH).text.splitlines() == [
            "Qty  Item                                            Price           Sum",
            "-" * 72,
            "  1  Laptop                                         999.99        999.99",
            "  2  Mouse                                           29.99         59.98",
            "-" * 72,
            "     Tax                                                            3.00",
            "     Shipping                                                       4.50",
            "     Discount                                                      -7.50",
            "     Total                                                  1,059.97 USD",
        ]

    def test_wide_letters_are_counted_as_two(self) -> None:
        order = an_order(items=[{"product_id": "P", "quantity": 1, "price": 1, "name": "王小明"}])
        plain = an_order(items=[{"product_id": "P", "quantity": 1, "price": 1, "name": "abcdef"}])
        assert (
            order_table(order, ENGLISH).text.replace("王小明", "abcdef") == order_table(plain, ENGLISH).text
        )

    def test_long_names_are_folded(self) -> None:
        order = an_order(
            items=[{"product_id": "P", "quantity": 100, "price": 1, "name": "a long name " * 16}]
        )
        lines = order_table(order, ENGLISH).text.splitlines()
        assert max(map(len, lines)) <= 72
        assert sum(line.count("a long name") for line in lines) >= 12

    def test_an_empty_order_has_a_total(self) -> None:
        assert "1,059.97 USD" in order_table(an_order(items=[]), ENGLISH).text

    @relaxed
    @given(st.text())
    def test_wrapping_keeps_every_word(self, text: str) -> None:
        assert wrapped(text).split() == text.split()


class TestMaildir:
    MAIL = refund_mail(ORDER, Decimal(1), "USD", ABOUT)

    def test_names(self) -> None:
        assert mail_name("ORDER-1001", Kind.CONFIRMATION) == "ORDER-1001.confirmation.eml"

    def test_no_two_mails_share_a_file_or_an_id(self, tmp_path: Path) -> None:
        ids = [
            "A",
            "A.refund",
            "A.refund.eml",
            "A-refund",
            "a/b",
            "a:2,S",
            "..",
            ".",
            "",
            ".hidden",
            "x" * 500,
            "A.confirmation",
        ]
        mails = [(order_id, kind) for order_id in ids for kind in Kind]
        names = [mail_name(*each) for each in mails]
        theirs = {message_id(*each, SETTINGS, "fedcba9876543210") for each in mails}
        assert not theirs & {message_id(*each, SETTINGS, OURS) for each in mails}, (
            "another shop's with the same order ids"
        )
        assert len(set(names)) == len({message_id(*each, SETTINGS, OURS) for each in mails}) == len(mails)
        assert {(tmp_path / "new" / name).resolve().parent for name in names} == {
            (tmp_path / "new").resolve()
        }
        assert not [
            name
            for name in names
            if name.startswith(".") or set(name) & {":", "/", "\\", " "} or len(name) > 120
        ]

    def test_a_mail_program_opens_it(self, tmp_path: Path) -> None:
        Maildir(tmp_path / "mail").write("A.refund.eml", self.MAIL)
        maildir = mailbox.Maildir(tmp_path / "mail", create=False)
        (key,) = maildir.keys()
        assert maildir.get_bytes(key) == self.MAIL.data
        assert maildir.get_message(key).get_subdir() == "new"
        assert not list((tmp_path / "mail" / "tmp").iterdir())

    def test_writing_again_changes_nothing(self, tmp_path: Path) -> None:
        for _ in range(3):
            Maildir(tmp_path).write("A.refund.eml", self.MAIL)
        assert [path.name for path in tmp_path.glob("*/*")] == ["A.refund.eml"]

    def test_also_not_once_it_was_read(self, tmp_path: Path) -> None:
        Maildir(tmp_path).write("A.refund.eml", self.MAIL)
        maildir = mailbox.Maildir(tmp_path, create=False)
        ((key, message),) = maildir.items()
        message.set_subdir("cur")
        message.set_flags("S")
        maildir[key] = message
        Maildir(tmp_path).write("A.refund.eml", self.MAIL)
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")] == ["cur/A.refund.eml:2,S"]

    def test_others_cannot_read_it(self, tmp_path: Path) -> None:
        Maildir(tmp_path / "mail").write("A.refund.eml", self.MAIL)
        assert (tmp_path / "mail" / "new" / "A.refund.eml").stat().st_mode & 0o077 == 0
