"""Mails, read back by a mail parser."""

from __future__ import annotations

import email
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.confirmation.template import template_confirmation
from shop.notifications import mail
from shop.notifications.layout import order_table, wrapped
from shop.notifications.mail import MailKind, mail_path, render_confirmation_mail, render_refund_mail, write_mail
from shop.order import EXAMPLE, Order
from shop.settings import Settings

relaxed = hypothesis_settings(deadline=None)  # a busy machine is not a failure
SETTINGS = Settings(_env_file=None, dspy_model=None)
DATE = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)
TRACKING = "CA473124829US"
HEADERS = {
    *("From", "Reply-To", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"),
    *("Content-Type", "Content-Transfer-Encoding", "MIME-Version"),
}


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


def confirmation_of(order: Order, **fields: str) -> dict[str, Any]:
    return {**template_confirmation(order, SETTINGS).model_dump(mode="json"), **fields}


def sent(order: Order = ORDER, **fields: str) -> EmailMessage:
    return parsed(render_confirmation_mail(order, confirmation_of(order, **fields), TRACKING, SETTINGS, DATE))


def refund(order: Order = ORDER, amount: str = "1059.97") -> EmailMessage:
    return parsed(render_refund_mail(order, Decimal(amount), order.currency, SETTINGS, DATE))


def parsed(data: bytes) -> EmailMessage:
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert b"\r" not in data.replace(b"\r\n", b"")
    assert b"\x00" not in data
    message = email.message_from_bytes(data, policy=default)
    assert not message.defects
    assert set(message.keys()) == HEADERS
    assert len(message.keys()) == len(HEADERS)
    return message


def text_of(message: EmailMessage) -> str:
    return str(message.get_content()).replace("\r\n", "\n")


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
        assert message.get_content_type() == "text/plain"

    def test_text(self) -> None:
        text = text_of(sent(greeting="Dear John,\n\nthank you!", order_summary="Thanks.", next_steps="We pack."))
        assert text.startswith("Dear John,\n\nthank you!\n\n")
        places = [text.index(part) for part in ("Dear John", "Qty", "Laptop", "Total", "We pack.", f"Tracking number: {TRACKING}")]
        assert places == sorted(places)
        assert all(len(line) <= 78 for line in text.splitlines())

    def test_takes_a_confirmation_as_it_is(self) -> None:
        confirmation = template_confirmation(ORDER, SETTINGS)
        of_model = render_confirmation_mail(ORDER, confirmation, TRACKING, SETTINGS, DATE)
        assert of_model == render_confirmation_mail(ORDER, confirmation.model_dump(), TRACKING, SETTINGS, DATE)

    def test_missing_texts_leave_no_hole(self) -> None:
        text = text_of(parsed(render_confirmation_mail(ORDER, {"greeting": "Hello", "next_steps": None}, TRACKING, SETTINGS, DATE)))
        assert text.startswith("Hello\n\nQty")
        assert "None" not in text
        assert "\n\n\n" not in text

    def test_is_the_same_again(self) -> None:
        fields = confirmation_of(ORDER)
        assert render_confirmation_mail(ORDER, fields, TRACKING, SETTINGS, DATE) == render_confirmation_mail(
            ORDER, fields, TRACKING, SETTINGS, DATE
        )

    def test_a_date_has_a_zone(self) -> None:
        with pytest.raises(ValueError, match="time zone"):
            render_confirmation_mail(ORDER, {}, TRACKING, SETTINGS, datetime(2031, 1, 1))  # noqa: DTZ001
        berlin = DATE.astimezone(timezone(timedelta(hours=1)))
        message = parsed(render_confirmation_mail(ORDER, {}, TRACKING, SETTINGS, berlin))
        assert message["Date"].datetime == DATE
        assert str(message["Date"]).endswith("+0100")

    def test_never_prints_notes_or_card(self) -> None:
        order = an_order(notes="ring twice", payment_info={"method": "paypal", "card_last4": "4242", "token": "tok_secret"})
        data = render_confirmation_mail(order, confirmation_of(order), TRACKING, SETTINGS, DATE)
        data += render_refund_mail(order, Decimal(1), "USD", SETTINGS, DATE)
        assert not [secret for secret in (b"ring twice", b"4242", b"tok_secret") if secret in data]


class TestRefundMail:
    def test_names_what_came_back(self) -> None:
        message = refund()
        assert message["Subject"] == "Your order ORDER-1001 was refunded"
        assert "We have refunded 1,059.97 USD to you." in text_of(message)
        assert "John Doe" in text_of(message)

    def test_nothing_came_back_when_nothing_was_charged(self) -> None:
        message = refund(amount="0")
        assert "refund" not in f"{message['Subject']} {text_of(message)}"
        assert "You have not been charged." in text_of(message)

    def test_in_the_currency_s_decimals(self) -> None:
        text = text_of(parsed(render_refund_mail(ORDER, Decimal(5000), "JPY", SETTINGS, DATE)))
        assert "5,000 JPY" in text


class TestHostileText:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_adds_no_header_and_no_recipient(self, text: str) -> None:
        order = an_order(id=text, customer_name=text, items=[{"product_id": text, "quantity": 1, "price": 1, "name": text}])
        for message in (sent(order), refund(order)):
            assert recipients(message) == ["john.doe@example.com"]
            assert "\n" not in message["Subject"]
            assert "\n" not in message["To"].addresses[0].display_name

    @relaxed
    @given(st.text(), st.text())
    def test_any_text(self, order_id: str, name: str) -> None:
        order = an_order(id=order_id, customer_name=name)
        assert recipients(sent(order)) == ["john.doe@example.com"]
        assert recipients(refund(order)) == ["john.doe@example.com"]

    @relaxed
    @given(st.text())
    def test_any_text_of_a_model(self, text: str) -> None:
        message = sent(greeting=text, order_summary=text, next_steps=text, tracking_info=text)
        assert f"Tracking number: {TRACKING}" in text_of(message).splitlines()

    @pytest.mark.parametrize(
        "given_address",
        [
            *(None, "", "nobody", "a@b", "a@b.com, c@d.com", "a@b.com\r\nBcc: c@d.com", "a@b.com\n", "<a@b.com>", "a b@c.com", "a@b..com"),
            *("a@@b.com", '"a,b"@c.com', "a@b.com;c@d.com", "a" * 300 + "@b.com", "a@" + "ü" * 80 + ".com", "John <a@b.com>"),
        ],
    )
    def test_without_a_usable_address_it_goes_to_support(self, given_address: str | None) -> None:
        for message in (sent(an_order(customer_email=given_address)), refund(an_order(customer_email=given_address))):
            if given_address == "a@b.com\n":  # the order's model strips it
                assert recipients(message) == ["a@b.com"]
                continue
            assert recipients(message) == ["support@shop.example"]
            assert message["Subject"].startswith("[customer has no e-mail address] Your order ORDER-1001")

    def test_names_beyond_ascii(self) -> None:
        message = sent(an_order(customer_name="Zoë Łukasz 王小明"))
        assert message["To"].addresses[0].display_name == "Zoë Łukasz 王小明"
        assert "Zoë Łukasz 王小明" in text_of(message)

    def test_is_plain_ascii_on_the_wire(self) -> None:
        order = an_order(customer_name="Zoë 王小明", items=[{"product_id": "P", "quantity": 1, "price": 1, "name": "Schlüssel"}])
        assert render_confirmation_mail(order, confirmation_of(order), TRACKING, SETTINGS, DATE).isascii()

    def test_domains_beyond_ascii(self) -> None:
        assert recipients(sent(an_order(customer_email="info@exämple.com"))) == ["info@xn--exmple-cua.com"]

    def test_mailboxes_beyond_ascii(self) -> None:
        data = render_confirmation_mail(an_order(customer_email="jörg@exämple.com"), {}, TRACKING, SETTINGS, DATE)
        assert b"To: John Doe <" + "jörg@xn--exmple-cua.com".encode() + b">\r\n" in data

    def test_special_but_valid_mailboxes(self) -> None:
        for address in ("john+shop@example.com", "o'brien@sub.example.co.uk", "a..b@example.com"):
            assert [a.replace('"', "") for a in recipients(sent(an_order(customer_email=address)))] == [address]


class TestEncoding:
    @pytest.mark.parametrize("name", ["John Doe", "Dr. John Q. Doe", "O'Brien", None])
    def test_the_quick_way_gives_the_same_bytes(self, monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
        order = an_order(customer_name=name)
        quick = render_confirmation_mail(order, confirmation_of(order), TRACKING, SETTINGS, DATE)
        monkeypatch.setattr(mail, "_as_it_is", lambda _: None)
        assert render_confirmation_mail(order, confirmation_of(order), TRACKING, SETTINGS, DATE) == quick


class TestTable:
    def test_is_aligned(self) -> None:
        order = an_order(tax_amount="3", shipping_amount="4.50", discount_amount="7.50", total_amount="1059.97")
        assert order_table(order).splitlines() == [
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
        assert order_table(order).replace("王小明", "abcdef") == order_table(plain)

    def test_long_names_are_folded(self) -> None:
        order = an_order(items=[{"product_id": "P", "quantity": 100, "price": 1, "name": "a long name " * 16}])
        lines = order_table(order).splitlines()
        assert max(map(len, lines)) <= 72
        assert sum(line.count("a long name") for line in lines) >= 12

    def test_an_empty_order_has_a_total(self) -> None:
        assert "1,059.97 USD" in order_table(an_order(items=[]))

    @relaxed
    @given(st.text())
    def test_wrapping_keeps_every_word(self, text: str) -> None:
        assert wrapped(text).split() == text.split()


class TestPath:
    def test_of_a_plain_id(self, tmp_path: Path) -> None:
        assert mail_path(tmp_path, "ORDER-1001", MailKind.CONFIRMATION) == tmp_path / "ORDER-1001.eml"
        assert mail_path(tmp_path, "ORDER-1001", "refund") == tmp_path / "ORDER-1001-refund.eml"

    def test_no_two_mails_share_a_file_or_an_id(self, tmp_path: Path) -> None:
        ids = ["A", "A-refund", "A-refund-refund", "A-refund~confirmation", "a/b", "a/b-refund", "..", "", "x" * 500]
        mails = [(order_id, kind) for order_id in ids for kind in MailKind]
        assert len({mail_path(tmp_path, *mail_) for mail_ in mails}) == len(mails)
        assert len({mail.message_id(*mail_, SETTINGS) for mail_ in mails}) == len(mails)
        assert {mail_path(tmp_path, *mail_).resolve().parent for mail_ in mails} == {tmp_path.resolve()}

    def test_is_written_wholly(self, tmp_path: Path) -> None:
        path = mail_path(tmp_path / "mail", "ORDER-1001", MailKind.REFUND)
        data = render_refund_mail(ORDER, Decimal(1), "USD", SETTINGS, DATE)
        write_mail(path, data)
        write_mail(path, data, durable=True)
        assert path.read_bytes() == data
        assert list(path.parent.iterdir()) == [path]
