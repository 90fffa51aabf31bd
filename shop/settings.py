"""Every setting, typed, in one place.

Read from the environment, then `.env`, then `var/run.env` (written by `make run`, so that other shells in the same clone
find the running system). README has the same list as a table.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from saga.configuration import LARGEST as _LARGEST
from saga.configuration import EngineSettings, Seconds, provide, psycopg_url
from shop.alerts.urls import split_urls
from shop.notifications.smtp_url import smtp_server
from shop.notifications.webhook_key import webhook_key
from shop.runtime.secrets import Elsewhere, Replaced, Unreadable
from shop.text.domains import ascii_mail_domain, ascii_url_host
from shop.values.countries import is_country
from shop.values.money import is_currency, units_per_dollar

HOME = Path(__file__).resolve().parent.parent
"""The project's folder."""
ENV_FILES = (HOME / "var" / "run.env", HOME / ".env")
"""Later ones go before earlier ones, and the environment before both."""


def _psycopg_url(url: str) -> str:
    """Accepts the usual spellings, and hosts beyond ASCII."""
    return psycopg_url(_with_ascii_host(psycopg_url(url)))


def _with_ascii_host(url: str) -> str:
    """Not every client encodes a host beyond ASCII in the same way."""
    try:
        return ascii_url_host(url)
    except UnicodeError:
        raise ValueError("its host is no domain name that can exist") from None


LANGUAGES = HOME / "shop" / "notifications" / "languages"
"""What mails can be written in: a file for each language."""
_STRIPE_KEY = re.compile(r"[sr]k_[A-Za-z0-9_]{4,250}")
_WEB_ADDRESS = re.compile(r"https?://[^\s/]+")
_SERVICE_ADDRESS = re.compile(r"https?://[^\s/@?#]+(/[^\s@?#]*)?")  # it is noted with each order, so nothing secret may be in it
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,500}")
_EASYPOST_KEY = re.compile(r"EZ[A-Za-z0-9_-]{4,250}")
_WEBHOOK_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]{8,250}")
_API_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,250}")
_GATEWAY_URLS = {"sandbox": "http://127.0.0.1:8420", "stripe": "https://api.stripe.com"}


def _country(code: str) -> str:
    """The code in capitals."""
    code = code.strip().upper()
    if not is_country(code):
        raise ValueError("a country must be a code of two letters, as ISO 3166 has it")
    return code


class Sender(BaseModel):
    """Where parcels come from, as a carrier outside asks for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    street1: str = Field(min_length=1)
    street2: str | None = None
    city: str = Field(min_length=1)
    state: str | None = None
    zip: str | None = None
    country: Annotated[str, AfterValidator(_country)]
    phone: str | None = None


_REPLACED = {
    "alert_email": "set ALERT_URLS, such as mailto://user:password@mail.example?to=oncall@shop.example",
    "alert_webhook_url": "set ALERT_URLS, such as jsons://hooks.example/path",
    "drain_seconds": "set CONSUMER_SECONDS",
}
"""Former settings, and what replaces them."""


def _each(secrets: SecretStr | None) -> tuple[str, ...]:
    return tuple(each.strip() for each in secrets.get_secret_value().split(",")) if secrets else ()


class Settings(EngineSettings):
    """What can be set, with its default. Names are those of the environment variables, in lower case."""

    # What was given is not shown when it is wrong: it may be a secret.
    model_config = SettingsConfigDict(
        env_file=ENV_FILES,
        env_file_encoding="utf-8-sig",  # with or without a byte order mark
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    # where things are
    database_url: Annotated[str, AfterValidator(_psycopg_url)] = "postgresql+psycopg://postgres@localhost/shop"
    var_dir: Path = HOME / "var"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    # the outside world
    payment_gateway: Literal["sandbox", "stripe"] = "sandbox"
    payment_gateway_url: str | None = None
    stripe_api_key: SecretStr | None = None
    payment_timeout_seconds: Seconds = 5
    payment_concurrency: int = Field(default=16, ge=1, le=500)
    payment_breaker_failures: int = Field(default=5, ge=1)
    payment_breaker_seconds: Seconds = 10
    payment_customer_minutes: Annotated[float, Field(gt=0, le=_LARGEST)] = 60
    carrier: Literal["embedded", "easypost"] = "embedded"
    carrier_url: str = "https://api.easypost.com"
    easypost_api_key: SecretStr | None = None
    carrier_timeout_seconds: Seconds = Field(default=15, le=30)  # a step has a time limit of its own: flows/order_saga.py
    carrier_concurrency: int = Field(default=16, ge=1, le=200)
    carrier_service: str | None = None
    carrier_sender: Sender | None = None
    carrier_label_hosts: frozenset[str] = frozenset(
        {
            "easypost-files.s3.amazonaws.com",
            "easypost-files.s3.us-west-2.amazonaws.com",
            "easypost-files.s3-us-west-2.amazonaws.com",
        }
    )
    carrier_piece_ounces: Annotated[float, Field(gt=0, le=_LARGEST)] = 16
    inventory_service_url: str | None = None
    inventory_service_token: SecretStr | None = None
    inventory_timeout_seconds: Seconds = Field(default=5, le=15)
    inventory_concurrency: int = Field(default=16, ge=1, le=200)
    inventory_breaker_failures: int = Field(default=3, ge=1)
    inventory_breaker_seconds: Seconds = 10
    monitoring_config: Path | None = None

    # the confirmation
    dspy_model: str | None = None
    dspy_api_base: str | None = None
    dspy_api_key: SecretStr | None = None
    dspy_max_tokens: int = Field(default=500, ge=50)
    dspy_temperature: float = Field(default=0.7, ge=0, le=2)
    confirmation_timeout_seconds: Seconds = Field(default=10, le=50)
    confirmation_concurrency: int = Field(default=8, ge=1)
    confirmation_program: Path = HOME / "var" / "confirmation" / "program.json"
    dspy_reflection_model: str | None = None
    dspy_reflection_api_base: str | None = None
    dspy_reflection_api_key: SecretStr | None = None
    confirmation_tone: str = "professional_friendly"

    # mails and the CRM
    smtp_url: SecretStr | None = None
    smtp_timeout_seconds: Seconds = 10
    smtp_connections: int = Field(default=4, ge=1, le=50)
    mail_language: str = "en"
    mail_language_by_country: dict[str, str] = Field(default_factory=dict)
    tracking_url: str | None = None
    crm_webhook_url: str | None = None
    crm_webhook_secret: SecretStr | None = None
    crm_timeout_seconds: Seconds = 10

    # the shop
    shop_name: str = "The Shop"
    shop_email: str = "orders@shop.example"
    support_email: str = "support@shop.example"
    report_email: str | None = None
    shop_address: str = "1 Warehouse Way, Anytown CA 90210, US"
    estimated_delivery: str = "3-5 business days"
    carrier_refuses: frozenset[str] = frozenset({"AQ"})

    # the web app
    web_host: str = "127.0.0.1"
    web_port: int = Field(default=8430, ge=0, le=65_535)
    web_url: str | None = None
    web_max_bytes: int = Field(default=1_000_000, ge=1_000, le=50_000_000)
    orders_api_key: SecretStr | None = None
    stripe_webhook_secret: SecretStr | None = None

    # what monitoring from outside reads, and where traces go
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(default=None, ge=0, le=65_535)
    metrics_token: SecretStr | None = None
    otel_exporter_otlp_endpoint: str | None = None
    otel_traces: bool | None = None
    otel_traces_sampler_arg: float = Field(default=1, ge=0, le=1)

    # limits of a sane order
    max_order_total: Decimal = Field(default=Decimal(1_000_000), gt=0, lt=10**12)
    max_order_total_by_currency: dict[str, Annotated[Decimal, Field(gt=0, lt=10**12)]] = Field(default_factory=dict)
    max_items: int = 200
    max_quantity: int = 100_000

    # how orders are worked on
    reservation_minutes: Annotated[float, Field(gt=0, le=_LARGEST)] = 30
    consumer_seconds: Seconds = 330
    worker_limit: int | None = Field(default=None, ge=1)
    reconciliation_grace_seconds: float = Field(default=600, ge=0, le=_LARGEST)

    # alerts, and what is kept for how long
    alert_urls: SecretStr | None = None
    alert_min_commands: int = Field(default=20, ge=1)
    alert_waiting_minutes: Annotated[float, Field(gt=0, le=_LARGEST)] = 15
    alert_recovery_seconds: Seconds = 180
    customer_data_days: float | None = Field(default=None, gt=0, le=_LARGEST)

    # the desk: a compensation that could not be done is tried again after a pause, which doubles each time
    desk_retry_seconds: Seconds = 60
    desk_retry_max_seconds: Seconds = 6 * 3600

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (pydantic's)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given outright, then files and blocks, the environment, `.env`, `var/run.env`."""
        assert isinstance(env_settings, EnvSettingsSource)
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        given = {**dotenv_settings.env_vars, **env_settings.env_vars}
        replaced = Replaced(settings_cls, given, _REPLACED)
        return init_settings, replaced, Elsewhere(settings_cls, given), env_settings, dotenv_settings

    @model_validator(mode="before")
    @classmethod
    def _no_replaced_setting(cls, values: Any) -> Any:
        for name in _REPLACED.keys() & values.keys() if isinstance(values, dict) else ():
            raise ValueError(f"{name.upper()} is no longer a setting: {_REPLACED[name]}")
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        if isinstance(value, Unreadable):
            raise ValueError(value.why)
        return value

    @field_validator(
        *("payment_gateway_url", "carrier_url", "inventory_service_url", "dspy_api_base", "dspy_reflection_api_base", "tracking_url"),
        *("crm_webhook_url", "web_url", "otel_exporter_otlp_endpoint"),
    )
    @classmethod
    def _hosts(cls, value: str | SecretStr | None) -> str | SecretStr | None:
        if isinstance(value, SecretStr):
            return SecretStr(_with_ascii_host(value.get_secret_value()))
        return value and _with_ascii_host(value)

    @field_validator("shop_email", "support_email", "report_email")
    @classmethod
    def _mail_domains(cls, value: str | None) -> str | None:
        try:
            return value and ascii_mail_domain(value)
        except UnicodeError:
            raise ValueError("its domain is no domain name that can exist") from None

    @field_validator("inventory_service_url")
    @classmethod
    def _service(cls, value: str | None) -> str | None:
        if value is not None and not _SERVICE_ADDRESS.fullmatch(value):
            raise ValueError(
                "INVENTORY_SERVICE_URL must be a web address without login or query, such as https://inventory.example; "
                "unset it to use the embedded stock"
            )
        return value.rstrip("/") if value else None

    @field_validator("inventory_service_token")
    @classmethod
    def _token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("INVENTORY_SERVICE_TOKEN must be 8 to 500 characters of those that a bearer token may have")
        return value

    @field_validator("stripe_api_key")
    @classmethod
    def _secret_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _STRIPE_KEY.fullmatch(value.get_secret_value()):
            raise ValueError("STRIPE_API_KEY must be a secret key (sk_...) or a restricted one (rk_...), not a publishable one (pk_...)")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            smtp_server(value.get_secret_value())
        return value

    @field_validator("mail_language")
    @classmethod
    def _language(cls, value: str) -> str:
        if value not in (known := sorted(file.stem for file in LANGUAGES.glob("*.toml"))):
            raise ValueError(f"there are no mails in this language: {', '.join(known)}")
        return value

    @field_validator("mail_language_by_country")
    @classmethod
    def _languages(cls, value: dict[str, str]) -> dict[str, str]:
        return {_country(country): cls._language(language) for country, language in value.items()}

    @field_validator("max_order_total_by_currency")
    @classmethod
    def _totals(cls, value: dict[str, Decimal]) -> dict[str, Decimal]:
        made = {currency.upper(): total for currency, total in value.items()}
        if unknown := [currency for currency in made if not is_currency(currency)]:
            raise ValueError(f"these are no currencies of ISO 4217: {', '.join(sorted(unknown))}")
        return made

    @field_validator("carrier_refuses")
    @classmethod
    def _countries(cls, value: frozenset[str]) -> frozenset[str]:
        return frozenset(map(_country, value))

    @field_validator("web_url")
    @classmethod
    def _where_people_reach_it(cls, value: str | None) -> str | None:
        if value is not None and not _SERVICE_ADDRESS.fullmatch(value):
            raise ValueError("WEB_URL must be a web address without user, password and query, such as https://orders.shop.example")
        return value

    @field_validator("tracking_url")
    @classmethod
    def _link(cls, value: str | None) -> str | None:
        if value is not None and not (_WEB_ADDRESS.match(value) and "{tracking_number}" in value):
            raise ValueError(
                "TRACKING_URL must be a web address with {tracking_number} in it, such as https://carrier.example/{tracking_number}"
            )
        return value

    @model_validator(mode="after")
    def _crm_is_complete(self) -> Self:
        if self.crm_webhook_url is None:
            return self
        if not _WEB_ADDRESS.match(self.crm_webhook_url):
            raise ValueError("CRM_WEBHOOK_URL must start with https:// or http://")
        if self.crm_webhook_secret is None:
            raise ValueError("CRM_WEBHOOK_URL needs CRM_WEBHOOK_SECRET (whsec_...), with which what is sent there is signed")
        webhook_key(self.crm_webhook_secret.get_secret_value())
        return self

    @field_validator("alert_urls")
    @classmethod
    def _alert_services(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            split_urls(value.get_secret_value())
        return value

    @field_validator("orders_api_key")
    @classmethod
    def _strong_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if not all(_API_KEY.fullmatch(key) for key in _each(value)):
            raise ValueError("ORDERS_API_KEY must be keys of 16 to 250 of A-Z a-z 0-9 . _ ~ + / = -, with commas between them")
        return value

    @field_validator("metrics_token")
    @classmethod
    def _strong_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _API_KEY.fullmatch(value.get_secret_value()):
            raise ValueError("METRICS_TOKEN must be 16 to 250 of A-Z a-z 0-9 . _ ~ + / = -")
        return value

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _collector(cls, value: str | None) -> str | None:
        if value is not None and not _SERVICE_ADDRESS.fullmatch(value):
            raise ValueError("OTEL_EXPORTER_OTLP_ENDPOINT must be a web address (OTLP over HTTP), such as http://127.0.0.1:4318")
        return value.rstrip("/") if value else None

    @field_validator("stripe_webhook_secret")
    @classmethod
    def _signing_secrets(cls, value: SecretStr | None) -> SecretStr | None:
        if not all(_WEBHOOK_SECRET.fullmatch(secret) for secret in _each(value)):
            raise ValueError("STRIPE_WEBHOOK_SECRET must be signing secrets (whsec_...), with commas between them")
        return value

    @model_validator(mode="after")
    def _stripe_is_complete(self) -> Self:
        if self.payment_gateway != "stripe":
            return self
        if self.stripe_api_key is None:
            raise ValueError("PAYMENT_GATEWAY=stripe needs STRIPE_API_KEY, a secret key of your Stripe account")
        if "_live_" in self.stripe_api_key.get_secret_value() and not self.gateway_url.startswith("https://"):
            raise ValueError("PAYMENT_GATEWAY_URL must start with https:// for a live STRIPE_API_KEY, or be unset, for Stripe's own")
        return self

    @field_validator("easypost_api_key")
    @classmethod
    def _one_word(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _EASYPOST_KEY.fullmatch(value.get_secret_value()):
            raise ValueError("EASYPOST_API_KEY must be a key of EasyPost (EZTK... for tests, EZAK... for real labels)")
        return value

    @model_validator(mode="after")
    def _easypost_is_complete(self) -> Self:
        if self.carrier != "easypost":
            return self
        if self.easypost_api_key is None:
            raise ValueError("CARRIER=easypost needs EASYPOST_API_KEY, a key of your EasyPost account")
        if self.carrier_sender is None:
            raise ValueError(
                'CARRIER=easypost needs CARRIER_SENDER, such as {"street1": "...", "city": "...", "zip": "...", "country": "US"}'
            )
        if self.easypost_api_key.get_secret_value().startswith("EZAK") and not self.carrier_url.startswith("https://"):
            raise ValueError("CARRIER_URL must start with https:// for an EASYPOST_API_KEY that buys real labels, or be unset")
        return self

    def max_total(self, currency: str) -> Decimal:
        """The largest total of an order in this currency. `MAX_ORDER_TOTAL` is in US dollars; others are
        counted by their magnitude."""
        return self.max_order_total_by_currency.get(currency) or self.max_order_total * units_per_dollar(currency)

    @property
    def gateway_url(self) -> str:
        """Where the payment gateway is."""
        return self.payment_gateway_url or _GATEWAY_URLS[self.payment_gateway]

    @property
    def traces_endpoint(self) -> str | None:
        """Where traces are sent; None: they are off. `OTEL_TRACES` alone sends them to a collector on this machine."""
        if self.otel_traces is False or not (self.otel_traces or self.otel_exporter_otlp_endpoint):
            return None
        return f"{self.otel_exporter_otlp_endpoint or 'http://127.0.0.1:4318'}/v1/traces"

    @property
    def orders_api_keys(self) -> tuple[str, ...]:
        """Any of them opens the intake; several, while one replaces another."""
        return _each(self.orders_api_key)

    @property
    def stripe_webhook_secrets(self) -> tuple[str, ...]:
        """A webhook may be signed with any of them."""
        return _each(self.stripe_webhook_secret)

    @property
    def label_dir(self) -> Path:
        return self.var_dir / "labels"

    @property
    def mail_dir(self) -> Path:
        return self.var_dir / "mail"


class _ReadOnce:
    """The settings of this process: read at the first call, and again after `cache_clear`."""

    def __init__(self) -> None:
        self._known: Settings | None = None
        self._clears = 0

    def __call__(self) -> Settings:
        if (known := self._known) is not None:
            return known
        clears, read = self._clears, Settings()
        if clears == self._clears:  # else another thread's read began before the environment changed
            self._known = read
        return read

    def cache_clear(self) -> None:
        """Makes the next call read again."""
        self._clears += 1
        self._known = None


settings = _ReadOnce()
provide(settings)


def at(database_url: str | None) -> Settings:
    """The same with another database; None: its own."""
    return settings() if database_url is None else settings().model_copy(update={"database_url": _psycopg_url(database_url)})


def what_is_wrong(error: ValidationError) -> str:
    """A settings' error as one line for a terminal: each setting by its name, and nothing of what was given."""
    errors = error.errors(include_input=False, include_url=False)
    return "the settings are wrong: " + "; ".join(f"{'.'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in errors)
