"""Settings that are wrong are refused at once, in words, and without showing a secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

import shop.settings
from deployments.diagrams.settings_page import PAGE, settings_page, stale_page
from shop.alerts.settings import split_urls
from shop.runtime.setting_groups import settings_in
from shop.settings import Settings, settings, what_is_wrong

SECRET = "sk_test_PLANTED"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"PAYMENT_GATEWAY": "stripe"}, "STRIPE_API_KEY"),
        ({"PAYMENT_GATEWAY": "stripe", "STRIPE_API_KEY": "pk_test_PLANTED"}, "pk_"),
        ({"STRIPE_API_KEY": f"{SECRET}\n"}, "STRIPE_API_KEY"),
        ({"STRIPE_API_KEY": f" {SECRET}"}, "STRIPE_API_KEY"),
        (
            {
                "PAYMENT_GATEWAY": "stripe",
                "STRIPE_API_KEY": "sk_live_PLANTED",
                "PAYMENT_GATEWAY_URL": "http://gateway.example",
            },
            "PAYMENT_GATEWAY_URL",
        ),
        ({"ORDERS_API_KEY": "PLANTED"}, "ORDERS_API_KEY"),
        ({"ORDERS_API_KEY": "a-key-that-is-PLANTED, "}, "ORDERS_API_KEY"),
        ({"STRIPE_WEBHOOK_SECRET": f"whsec_12345678,{SECRET}"}, "STRIPE_WEBHOOK_SECRET"),
        ({"PAYMENT_GATEWAY": "paypal", "STRIPE_API_KEY": SECRET}, "PAYMENT_GATEWAY"),
        ({"CARRIER": "easypost"}, "EASYPOST_API_KEY"),
        ({"CARRIER": "easypost", "EASYPOST_API_KEY": "EZTK_PLANTED"}, "CARRIER_SENDER"),
        ({"EASYPOST_API_KEY": "sk_PLANTED"}, "EASYPOST_API_KEY"),
        ({"CARRIER_SENDER": {"street1": "PLANTED", "city": "X", "country": "usa"}}, "CARRIER_SENDER.country"),
        ({"CARRIER_SENDER": {"street1": "PLANTED", "city": "X", "country": "UK"}}, "CARRIER_SENDER.country"),
        ({"CARRIER_REFUSES": ["AQ", "ZZ"]}, "CARRIER_REFUSES"),
        ({"MAIL_LANGUAGE_BY_COUNTRY": {"UK": "en"}}, "MAIL_LANGUAGE_BY_COUNTRY"),
        ({"MAX_ORDER_TOTAL": 0}, "MAX_ORDER_TOTAL"),
        ({"ALERT_URLS": "PLANTED json://user:PLANTED@hook.example"}, "ALERT_URLS: entry 1"),
        ({"ALERT_URLS": "json://user:PLANTED@hook.example, PLANTED"}, "ALERT_URLS: entry 1"),
        ({"ALERT_EMAIL": "PLANTED@shop.example"}, "ALERT_EMAIL is no longer a setting: set ALERT_URLS"),
        (
            {"ALERT_WEBHOOK_URL": "https://hook.example/PLANTED"},
            "ALERT_WEBHOOK_URL is no longer a setting: set ALERT_URLS",
        ),
        ({"MAX_ORDER_TOTAL_BY_CURRENCY": {"USD": 0}}, "MAX_ORDER_TOTAL_BY_CURRENCY"),
        (
            {
                "CARRIER": "easypost",
                "EASYPOST_API_KEY": "EZAK_PLANTED",
                "CARRIER_SENDER": {"street1": "1 Street", "city": "X", "country": "US"},
                "CARRIER_URL": "http://carrier.example",
            },
            "CARRIER_URL",
        ),
    ],
)
def test_what_is_wrong_is_named_and_secrets_are_not_shown(given: dict[str, str], named: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        Settings(**given)  # type: ignore[arg-type]
    assert named in str(wrong.value)
    assert "PLANTED" not in str(wrong.value)
    assert "PLANTED" not in repr(wrong.value)


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("ALERT_EMAIL", "ALERT_URLS"),
        ("ALERT_WEBHOOK_URL", "ALERT_URLS"),
        ("ALERT_WEBHOOK_URL_FILE", "ALERT_URLS"),
        ("ALERT_WEBHOOK_URL_BLOCK", "ALERT_URLS"),
        ("DESK_RETRY_SECONDS", "REVIEW_RETRY_SECONDS"),
        ("DRAIN_SECONDS", "CONSUMER_SECONDS"),
    ],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_a_former_setting_is_refused_wherever_it_is_set(
    name: str, replacement: str, in_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text(f"{name}=PLANTED\n" if in_file else "")
    if not in_file:
        monkeypatch.setenv(name, "PLANTED")
    with pytest.raises(ValidationError, match=f"is no longer a setting: set {replacement}") as refused:
        Settings(_env_file=file)
    assert "PLANTED" not in repr(refused.value)


def test_alert_urls_are_separated_by_blanks_line_breaks_and_commas() -> None:
    urls = ("mailto://a:b@mail.example?to=x@y.example,z@y.example", "slack://A/B/C", "json://h.example/p")
    for separator in (" ", "\n", ",", ", ", ",\n  "):
        assert split_urls(separator.join(urls)) == urls


def test_a_file_of_settings_may_begin_with_a_byte_order_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_NAME", raising=False)
    file = tmp_path / ".env"
    file.write_bytes(b'\xef\xbb\xbfSHOP_NAME=First\nMAX_ORDER_TOTAL_BY_CURRENCY={"jpy": 5}\n')
    read = Settings(_env_file=file)  # type: ignore[call-arg]
    assert read.shop.name == "First"
    assert read.orders.max_total("JPY") == 5


def test_each_gateway_has_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAYMENT_GATEWAY_URL", raising=False)
    assert Settings(PAYMENT_GATEWAY="sandbox").payments.url == "http://127.0.0.1:8420"
    stripe = Settings(PAYMENT_GATEWAY="stripe", STRIPE_API_KEY=SECRET)  # type: ignore[arg-type]
    assert stripe.payments.url == "https://api.stripe.com"
    assert "PLANTED" not in repr(stripe)
    own = Settings(PAYMENT_GATEWAY="stripe", STRIPE_API_KEY=SECRET, PAYMENT_GATEWAY_URL="http://127.0.0.1:1")  # type: ignore[arg-type]
    assert own.payments.url == "http://127.0.0.1:1"


def test_several_secrets_hold_while_one_replaces_another() -> None:
    made = Settings(
        ORDERS_API_KEY="first-key-of-this-shop, second-key-of-this-shop",  # type: ignore[arg-type]
        STRIPE_WEBHOOK_SECRET="whsec_12345678",  # type: ignore[arg-type]
    )
    assert made.web.orders_api_keys == ("first-key-of-this-shop", "second-key-of-this-shop")
    assert made.stripe.webhook_secrets == ("whsec_12345678",)
    assert "of-this-shop" not in repr(made)
    assert "whsec" not in repr(made)
    assert Settings(ORDERS_API_KEY=None).web.orders_api_keys == ()


def test_a_read_that_began_before_the_settings_changed_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may be reading them, for a line of its log,
    at the moment at which the environment changes."""
    real = shop.settings.Settings

    def slow() -> Settings:
        read = real()
        monkeypatch.setattr(shop.settings, "Settings", real)
        monkeypatch.setenv("SHOP_NAME", "Another")
        settings.cache_clear()
        return read

    monkeypatch.setattr(shop.settings, "Settings", slow)
    settings.cache_clear()
    before = settings()
    assert settings().shop.name == "Another" != before.shop.name
    settings.cache_clear()


def test_every_mistake_is_reported_at_once_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PAYMENT_CONCURRENCY", "PLANTED")
    monkeypatch.setenv("CARRIER_REFUSES", "[PLANTED")
    monkeypatch.setenv("DATABASE_URL", "mysql://PLANTED")
    monkeypatch.setenv("CARRIER_SENDER", '{"street1": "PLANTED", "city": "X"}')
    monkeypatch.setenv("CRM_WEBHOOK_URL", "https://crm.example/PLANTED")
    with pytest.raises(ValidationError) as wrong:
        Settings(_env_file=None)  # type: ignore[call-arg]
    reported = what_is_wrong(wrong.value)
    for name in (
        "PAYMENT_CONCURRENCY: ",
        "CARRIER_REFUSES: must be JSON",
        "CARRIER_SENDER: country: ",
        "DATABASE_URL: ",
        "CRM_WEBHOOK_URL: ",
    ):
        assert name in reported
    assert "PLANTED" not in reported


def test_everything_that_a_choice_lacks_is_reported_at_once() -> None:
    with pytest.raises(ValidationError) as wrong:
        Settings(_env_file=None, PAYMENT_GATEWAY="stripe", CARRIER="easypost")  # type: ignore[call-arg]
    reported = what_is_wrong(wrong.value)
    assert all(name in reported for name in ("STRIPE_API_KEY", "EASYPOST_API_KEY", "CARRIER_SENDER"))


def test_a_variable_with_the_name_of_a_group_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOP", "MAIL", "WEB", "STRIPE", "METRICS"):
        monkeypatch.setenv(name, "something of another program")
    assert Settings(_env_file=None).shop.name == "The Shop"  # type: ignore[call-arg]


def test_a_name_that_is_no_setting_is_refused_in_code() -> None:
    with pytest.raises(TypeError, match="STRIPE_KEY"):
        Settings(STRIPE_KEY="x")


def test_values_are_replaced_by_their_names() -> None:
    changed = Settings(_env_file=None).with_values(SHOP_NAME="Another", LEASE_SECONDS=3, MAIL_LANGUAGE="de")  # type: ignore[call-arg]
    assert (changed.shop.name, changed.lease_seconds, changed.mail.language) == ("Another", 3, "de")


def test_the_reference_is_up_to_date_and_describes_every_setting() -> None:
    assert stale_page() == {}, "run `make diagrams`"
    assert [name for name, setting in settings_in(Settings).items() if not setting.info.description] == []
    assert [name for name in settings_in(Settings) if f"| `{name}` |" not in settings_page()] == []


def test_a_stale_reference_is_found(tmp_path: Path) -> None:
    assert stale_page(tmp_path) == {tmp_path / PAGE: settings_page()}
    (tmp_path / PAGE).parent.mkdir(parents=True)
    (tmp_path / PAGE).write_text(settings_page(), encoding="utf-8")
    assert stale_page(tmp_path) == {}
