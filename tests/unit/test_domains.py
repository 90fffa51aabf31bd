"""Domains beyond ASCII become the domain that was meant, everywhere one is encoded."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shop.notifications.smtp_url import smtp_server
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
IMPOSSIBLE = ["ü" * 80 + ".com", "ü..com", "a\u200d.com", "a_ü.com", "a b\u00a0ü.com", "xn--ü.com", "-ü.com", "\ud800.com"]


@pytest.mark.parametrize(("domain", "expected"), MEANT.items())
def test_the_domain_that_was_meant(domain: str, expected: str) -> None:
    assert ascii_domain(domain) == expected
    assert ascii_mail_domain(f"jörg@{domain}") == f"jörg@{expected}"
    assert ascii_url_host(f"https://ü:ß@{domain}:8443/ß?ü=@#ß") == f"https://ü:ß@{expected}:8443/ß?ü=@#ß"


@pytest.mark.parametrize("domain", IMPOSSIBLE, ids=ascii)
def test_a_domain_that_cannot_exist_is_refused(domain: str) -> None:
    for encode, given in ((ascii_domain, domain), (ascii_mail_domain, f"a@{domain}"), (ascii_url_host, f"https://{domain}/")):
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
    "payment_gateway_url": "http://straße.example:8420",
    "carrier_url": "https://straße.example",
    "inventory_service_url": "https://straße.example/stock",
    "dspy_api_base": "https://straße.example/v1",
    "dspy_reflection_api_base": "https://straße.example/v1",
    "tracking_url": "https://straße.example/{tracking_number}",
    "web_url": "https://straße.example",
    "otel_exporter_otlp_endpoint": "http://straße.example:4318",
    "database_url": "postgresql://shop:secret@straße.example/shop",
}


@pytest.mark.parametrize(("name", "url"), URLS.items())
def test_every_address_in_the_settings(name: str, url: str) -> None:
    made = getattr(Settings.model_validate({name: url}), name)
    assert made.partition("://")[2] == url.partition("://")[2].replace("straße", "xn--strae-oqa")
    with pytest.raises(ValidationError, match="no domain name that can exist"):
        Settings.model_validate({name: url.replace("straße", "straße.")})


def test_webhooks() -> None:
    url = "https://straße.example/hook"
    made = Settings.model_validate({"crm_webhook_url": url, "crm_webhook_secret": "whsec_" + "A" * 32})
    assert made.crm_webhook_url == "https://xn--strae-oqa.example/hook"


@pytest.mark.parametrize("name", ["shop_email", "support_email", "report_email"])
def test_mail_addresses_in_the_settings(name: str) -> None:
    assert getattr(Settings.model_validate({name: "shop@straße.example"}), name) == "shop@xn--strae-oqa.example"
    with pytest.raises(ValidationError, match="no domain name that can exist"):
        Settings.model_validate({name: "shop@ü..example"})
