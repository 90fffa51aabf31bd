"""Domains beyond ASCII become the domain that was meant, everywhere one is encoded."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shop.notifications.settings import smtp_server
from shop.runtime.setting_groups import settings_in, value_of
from shop.settings import Settings
from shop.text.domains import ascii_domain, ascii_mail_domain, ascii_url_host

MEANT = {
    "straße.example": "xn--strae-oqa.example",  # IDNA 2003: strasse.example
    "Straße.Example": "xn--strae-oqa.example",
    "fußball.faß.example": "xn--fuball-cta.xn--fa-hia.example",
    "βόλος.example": "xn--nxasmm1c.example",  # with a final sigma; IDNA 2003: that of βόλοσ
    "βόλοσ.example": "xn--nxasmq6b.example",
    "نامه\u200cای.example": "xn--mgba3gch31f060k.example",  # with a zero width non-joiner; IDNA 2003 drops it
    "exämple.com": "xn--exmple-cua.com",
    "exa\u0308mple.com": "xn--exmple-cua.com",
    "ＥＸＡＭＰＬＥ.com": "example.com",
    "Shop.Example": "Shop.Example",
    "a_b.example": "a_b.example",
    "localhost": "localhost",
}
IMPOSSIBLE = [
    "ü" * 80 + ".com",
    "ü..com",
    "a\u200d.com",
    "a_ü.com",
    "a b\u00a0ü.com",
    "xn--ü.com",
    "-ü.com",
    "\ud800.com",
]


@pytest.mark.parametrize(("domain", "expected"), MEANT.items())
def test_the_domain_that_was_meant(domain: str, expected: str) -> None:
    assert ascii_domain(domain) == expected
    assert ascii_mail_domain(f"jörg@{domain}") == f"jörg@{expected}"
    assert ascii_url_host(f"https://ü:ß@{domain}:8443/ß?ü=@#ß") == f"https://ü:ß@{expected}:8443/ß?ü=@#ß"


@pytest.mark.parametrize("domain", IMPOSSIBLE, ids=ascii)
def test_a_domain_that_cannot_exist_is_refused(domain: str) -> None:
    for encode, given in (
        (ascii_domain, domain),
        (ascii_mail_domain, f"a@{domain}"),
        (ascii_url_host, f"https://{domain}/"),
    ):
        with pytest.raises(UnicodeError):
            encode(given)


def test_several_hosts() -> None:
    assert ascii_url_host("postgresql://u:p@straße.example:5432,db.example/shop") == (
        "postgresql://u:p@xn--strae-oqa.example:5432,db.example/shop"
    )


def test_the_mail_server() -> None:
    assert smtp_server("smtps://user:pässword@mail.straße.example").host == "mail.xn--strae-oqa.example"
    with pytest.raises(ValueError, match="SMTP_URL"):
        smtp_server("smtp://ü..example")


URLS = {
    "PAYMENT_GATEWAY_URL": "http://straße.example:8420",
    "CARRIER_URL": "https://straße.example",
    "INVENTORY_SERVICE_URL": "https://straße.example/stock",
    "DSPY_API_BASE": "https://straße.example/v1",
    "DSPY_REFLECTION_API_BASE": "https://straße.example/v1",
    "TRACKING_URL": "https://straße.example/{tracking_number}",
    "WEB_URL": "https://straße.example",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://straße.example:4318",
    "DATABASE_URL": "postgresql://shop:secret@straße.example/shop",
}


@pytest.mark.parametrize(("name", "url"), URLS.items())
def test_every_address_in_the_settings(name: str, url: str) -> None:
    made = value_of(Settings(**{name: url}), settings_in(Settings)[name])
    assert made.partition("://")[2] == url.partition("://")[2].replace("straße", "xn--strae-oqa")
    with pytest.raises(ValidationError, match="not a valid domain name"):
        Settings(**{name: url.replace("straße", "straße.")})


def test_webhooks() -> None:
    url = "https://straße.example/hook"
    made = Settings(CRM_WEBHOOK_URL=url, CRM_WEBHOOK_SECRET="whsec_" + "A" * 32)
    assert made.crm.webhook_url == "https://xn--strae-oqa.example/hook"


@pytest.mark.parametrize("name", ["SHOP_EMAIL", "SUPPORT_EMAIL", "REPORT_EMAIL"])
def test_mail_addresses_in_the_settings(name: str) -> None:
    made = Settings(**{name: "shop@straße.example"})
    assert value_of(made, settings_in(Settings)[name]) == "shop@xn--strae-oqa.example"
    with pytest.raises(ValidationError, match="not a valid domain name"):
        Settings(**{name: "shop@ü..example"})
