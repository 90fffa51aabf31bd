"""Log lines show no secret, card or customer's name."""

from __future__ import annotations

import pytest

from shop.monitoring.masking import MASKED, mask, masked
from shop.settings import Settings

SECRET = Settings(
    DATABASE_URL="postgresql://shop:pa%24sword-9@db/shop",
    STRIPE_API_KEY="sk_test_PLANTED",  # type: ignore[arg-type]
    SMTP_URL="smtp://mailer:PLANTED-pw@mail.example:587",  # type: ignore[arg-type]
    ALERT_URLS=(  # type: ignore[arg-type]
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ, "
        "json://me:pw-PLANTED@h.example/hook-0123456?to=me"
    ),
    ORDERS_API_KEY="first-key-of-this-shop, second-key-of-this-shop",  # type: ignore[arg-type]
)


@pytest.mark.parametrize(
    "secret",
    [
        *(
            "pa%24sword-9",
            "pa$sword-9",
            "sk_test_PLANTED",
            "PLANTED-pw",
            "smtp://mailer:PLANTED-pw@mail.example:587",
        ),
        *(
            "second-key-of-this-shop",
            "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
            "TIiajkdnlazkcOXrIdevi7FQ",
        ),
        *("pw-PLANTED", "hook-0123456"),
    ],
)
def test_secrets_of_the_settings_are_masked(secret: str) -> None:
    assert mask(f"it said {secret} there", SECRET) == f"it said {MASKED} there"


def test_what_looks_like_a_key_is_masked_without_being_known() -> None:
    shown = mask(
        "sk_live_51Habcdef whsec_abcdefgh EZTKabcdefgh12 Authorization: Bearer abcdefghij", Settings()
    )
    assert all(part not in shown for part in ("51H", "abcdefgh", "Bearer"))


@pytest.mark.parametrize(
    "card", ["4242424242424242", "4242 4242 4242 4242", "5555-5555-5555-4444", "378282246310005"]
)
def test_cards_are_masked(card: str) -> None:
    assert mask(f"paid with {card}.", Settings()) == "paid with [card number]."


def test_mail_addresses_are_masked_and_what_is_no_secret_stays() -> None:
    assert mask("to jane.doe+x@shop.example now", Settings()) == "to [mail address] now"
    for harmless in (
        "order ORDER-1001 took 1234567890123 ns",
        "4242424242424241",
        "2031-02-03 09:30:00",
        "user@ host",
        "68907177-7003-4b6d-a67d-12ebf10cc048 x",
    ):
        assert mask(harmless, Settings()) == harmless


def test_a_long_text_is_cut_and_nothing_of_it_shows_that_would_be_masked() -> None:
    """Whatever is at the place where it is cut."""
    for before in (49_990, 50_000, 50_980, 50_990, 50_999):
        shown = mask("x" * before + "4242424242424242" + " sk_test_PLANTED" * 10_000, SECRET)
        assert len(shown) < 51_000
        assert "4242" not in shown
        assert "PLANTED" not in shown
        assert shown.endswith(f"... ({before + 16 + 160_000} characters)")


def test_fields_that_name_a_person_are_masked_however_deep() -> None:
    given = {
        "order_id": "O-1",
        "shipping_info": {"street": "x"},
        "more": [{"Name": "Jane", "n": 2, "why": ("a@b.example",)}],
        "cvv": 123,
    }
    assert masked(given, Settings()) == {
        "order_id": "O-1",
        "shipping_info": MASKED,
        "more": [{"Name": MASKED, "n": 2, "why": ["[mail address]"]}],
        "cvv": MASKED,
    }
