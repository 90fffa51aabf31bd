"""All settings: composes the groups that each part defines, and reads them from their sources.

A setting has the name of its environment variable. It is read from, in order of precedence: the environment,
`.env`, and `var/run.env` (written by `make run`, so that other shells in the same checkout find the running
system). Secrets can also be in files and Prefect blocks: `shop/runtime/secrets.py`.
docs/reference/settings.md lists all settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from saga.configuration import EngineSettings, provide, psycopg_url
from shop.alerts.settings import AlertSettings
from shop.confirmation.settings import ConfirmationSettings, LanguageModelSettings
from shop.inventory.settings import InventorySettings
from shop.monitoring.settings import MetricsSettings, MonitoringSettings, TracesSettings
from shop.notifications.settings import CrmSettings, MailSettings, SmtpSettings
from shop.orders.formats.settings import MedusaSettings, ShopifySettings, WooCommerceSettings
from shop.orders.settings import OrderSettings
from shop.payments.settings import PaymentSettings
from shop.payments.stripe.settings import StripeSettings
from shop.reconciliation.settings import ReconciliationSettings
from shop.retention.settings import RetentionSettings
from shop.review.settings import ReviewSettings
from shop.runtime.home import HOME
from shop.runtime.secrets import elsewhere, is_secret
from shop.runtime.setting_groups import readable, settings_in, with_ascii_host
from shop.runtime.settings import ShopSettings, WebSettings, WorkerSettings
from shop.shipping.easypost.settings import EasyPostSettings
from shop.shipping.settings import ShippingSettings
from shop.values.messages import in_words

ENV_FILES = (HOME / "var" / "run.env", HOME / ".env")
"""Files of settings: later ones take precedence over earlier ones, and the environment over both."""
_REPLACED = {
    "ALERT_EMAIL": "set ALERT_URLS, such as mailto://user:password@mail.example?to=oncall@shop.example",
    "ALERT_WEBHOOK_URL": "set ALERT_URLS, such as jsons://hooks.example/path",
    "CONFIRMATION_PROGRAM": "the program is in the database: see order-saga program",
    "DESK_RETRY_MAX_SECONDS": "set REVIEW_RETRY_MAX_SECONDS",
    "DESK_RETRY_SECONDS": "set REVIEW_RETRY_SECONDS",
    "DRAIN_SECONDS": "set CONSUMER_SECONDS",
}
"""Former settings, and what replaces them."""


def _psycopg_url(url: str) -> str:
    """Normalises a database URL. Accepts the usual schemes, and hosts with non-ASCII characters."""
    return psycopg_url(with_ascii_host(psycopg_url(url)))


class Settings(EngineSettings):
    """The settings of the engine and of every part of the shop. `Settings(SHOP_NAME="...")` overrides the
    environment."""

    # Validation errors do not show the given value: it may be a secret.
    model_config = SettingsConfigDict(
        env_file=ENV_FILES,
        env_file_encoding="utf-8-sig",  # with or without a byte order mark
        extra="ignore",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    database_url: Annotated[str, AfterValidator(_psycopg_url)] = (
        "postgresql+psycopg://postgres@localhost/shop"
    )
    """The shop's PostgreSQL. `make run` starts its own if this is unset."""
    var_dir: Path = HOME / "var"
    """Folder of labels, mails, logs and the embedded data. Only the user of the processes can read it."""

    payments: PaymentSettings = PaymentSettings()
    stripe: StripeSettings = StripeSettings()
    shipping: ShippingSettings = ShippingSettings()
    easypost: EasyPostSettings = EasyPostSettings()
    inventory: InventorySettings = InventorySettings()
    confirmation: ConfirmationSettings = ConfirmationSettings()
    language_model: LanguageModelSettings = LanguageModelSettings()
    mail: MailSettings = MailSettings()
    smtp: SmtpSettings = SmtpSettings()
    crm: CrmSettings = CrmSettings()
    shop: ShopSettings = ShopSettings()
    web: WebSettings = WebSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    metrics: MetricsSettings = MetricsSettings()
    traces: TracesSettings = TracesSettings()
    alerts: AlertSettings = AlertSettings()
    orders: OrderSettings = OrderSettings()
    shopify: ShopifySettings = ShopifySettings()
    woocommerce: WooCommerceSettings = WooCommerceSettings()
    medusa: MedusaSettings = MedusaSettings()
    workers: WorkerSettings = WorkerSettings()
    review: ReviewSettings = ReviewSettings()
    reconciliation: ReconciliationSettings = ReconciliationSettings()
    retention: RetentionSettings = RetentionSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (pydantic's)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Returns the sources, in order of precedence: arguments, secrets in files and blocks, the
        environment, `.env`, `var/run.env`."""
        assert isinstance(init_settings, InitSettingsSource)
        assert isinstance(env_settings, EnvSettingsSource)
        assert isinstance(dotenv_settings, EnvSettingsSource)
        environment = {**dotenv_settings.env_vars, **env_settings.env_vars}
        return (_Grouped(settings_cls, init_settings.init_kwargs, environment),)

    @model_validator(mode="before")
    @classmethod
    def _no_replaced_setting(cls, values: Any) -> Any:
        for name in sorted(_REPLACED.keys() & values.keys()) if isinstance(values, dict) else ():
            raise ValueError(f"{name} is no longer a setting: {_REPLACED[name]}")
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        return readable(value)

    @model_validator(mode="after")
    def _what_is_chosen_is_complete(self) -> Self:
        stripe = self.stripe.missing(self.payments.url) if self.payments.gateway == "stripe" else ()
        easypost = self.easypost.missing() if self.shipping.carrier == "easypost" else ()
        if missing := [*stripe, *easypost]:
            raise ValueError("; ".join(missing))
        return self

    def with_values(self, **values: Any) -> Self:
        """Returns a copy with other values, which are named like environment variables and not validated."""
        changes: dict[str | None, dict[str, Any]] = {None: {}}
        for name, value in values.items():
            setting = settings_in(type(self))[name]
            changes.setdefault(setting.group, {})[setting.field] = value
        groups = {
            group: getattr(self, group).model_copy(update=fields)
            for group, fields in changes.items()
            if group is not None
        }
        return self.model_copy(update={**changes[None], **groups})

    @property
    def label_dir(self) -> Path:
        return self.var_dir / "labels"

    @property
    def mail_dir(self) -> Path:
        return self.var_dir / "mail"


class _Grouped(PydanticBaseSettingsSource):
    """A source that reads values by environment variable and puts them into their groups."""

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        given: Mapping[str, Any],
        environment: Mapping[str, str | None],
    ) -> None:
        super().__init__(settings_cls)
        self._settings = settings_in(settings_cls)
        # pydantic passes names of fields in lower case
        self._given = {name.upper(): value for name, value in given.items()}
        if unknown := sorted(self._given.keys() - self._settings.keys() - _REPLACED.keys()):
            raise TypeError(f"unknown settings: {', '.join(unknown)}")
        self._environment = {name.upper(): value for name, value in environment.items() if value}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002  (pydantic's)
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = dict.fromkeys(self._replaced(), True)
        for name, setting in self._settings.items():
            group = values if setting.group is None else values.setdefault(setting.group, {})
            for value in self._values(name, setting.info):
                group[setting.field if setting.group is None else name] = value
        return values

    def _values(self, name: str, field: FieldInfo) -> Iterator[Any]:
        """Yields the setting's value; nothing if it is not set."""
        if name in self._given:
            yield self._given[name]
        elif is_secret(name, field) and (found := elsewhere(name, self._environment)) is not None:
            yield found
        elif name in self._environment:
            yield self._environment[name]

    def _replaced(self) -> Iterator[str]:
        given = self._given.keys() | self._environment.keys()
        return (name for name in _REPLACED if {name, f"{name}_FILE", f"{name}_BLOCK"} & given)


class _ReadOnce:
    """Returns the process's settings: read at the first call, and again after `cache_clear`."""

    def __init__(self) -> None:
        self._known: Settings | None = None
        self._clears = 0

    def __call__(self) -> Settings:
        if (known := self._known) is not None:
            return known
        clears, read = self._clears, Settings()
        if clears == self._clears:  # else the cache was cleared meanwhile: the values may be outdated
            self._known = read
        return read

    def cache_clear(self) -> None:
        """Makes the next call read the settings again."""
        self._clears += 1
        self._known = None


settings = _ReadOnce()
provide(settings)


def at(database_url: str | None) -> Settings:
    """Returns the settings with another database; None: unchanged."""
    return (
        settings()
        if database_url is None
        else settings().model_copy(update={"database_url": _psycopg_url(database_url)})
    )


def mistakes(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Yields each invalid setting's environment variable and the reason, without the given value."""
    for each in error.errors(include_input=False, include_url=False, include_context=False):
        place, what = [str(part) for part in each["loc"]], in_words(each)
        known = [position for position, part in enumerate(place) if part.upper() in settings_in(Settings)]
        if known:
            name, *within = place[known[0] :]
            yield name.upper(), f"{'.'.join(within)}: {what}" if within else what
        else:  # about several settings: each reason begins with the setting that requires the others
            yield from ((reason.split(" ", 1)[0].split("=", 1)[0], reason) for reason in what.split("; "))


def what_is_wrong(error: ValidationError) -> str:
    """Formats a settings' error as one line for a terminal: names and reasons, without the given values."""
    return "the settings are wrong: " + "; ".join(f"{name}: {what}" for name, what in mistakes(error))
