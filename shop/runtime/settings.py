"""Settings of the processes: the shop's identity, the web app, the workers."""

from __future__ import annotations

import re
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, field_validator

from saga.configuration import Seconds
from shop.runtime.setting_groups import Group, MailAddress, Url, is_plain_address, prefixed, separated

_API_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,250}")


class ShopSettings(Group):
    """The shop"""

    model_config = prefixed("SHOP_")

    name: str = "The Shop"
    """Name of the shop, on mails and labels."""
    email: MailAddress = "orders@shop.example"
    """Sender of mails."""
    support_email: MailAddress = Field(default="support@shop.example", alias="SUPPORT_EMAIL")
    """Address for customers' replies."""
    report_email: MailAddress | None = Field(default=None, alias="REPORT_EMAIL")
    """Recipient of the daily report. Default: `SUPPORT_EMAIL`."""
    address: str = "1 Warehouse Way, Anytown CA 90210, US"
    """Address of the shop, on labels."""
    bank_details: str | None = Field(default=None, max_length=1_000)
    """The shop's bank account, for mails to customers who pay by transfer. It may have several lines.
    Default: the mails name `SUPPORT_EMAIL`."""
    timezone: str = "UTC"
    """Time zone of the shop, such as `Europe/Vienna` (IANA): of the daily report's day, of times that people
    read, and of the nightly schedules. What is stored, and what programs read, is in UTC."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        value = value.strip()
        if value != "UTC":
            try:
                ZoneInfo(value)
            except (ValueError, OSError, KeyError):
                raise ValueError(
                    "SHOP_TIMEZONE must be the name of a time zone of the IANA database, such as "
                    "Europe/Vienna or America/New_York"
                ) from None
        return value


class WebSettings(Group):
    """Web app"""

    model_config = prefixed("WEB_")

    host: str = "127.0.0.1"
    """Address on which the web app listens."""
    port: int = Field(default=8430, ge=0, le=65_535)
    """Port on which the web app listens. `make run` takes another one if it is taken."""
    url: Url | None = None
    """Public address of the web app, for the links to label and mails on an order's page. `make run` sets
    it."""
    max_bytes: int = Field(default=1_000_000, ge=1_000, le=50_000_000)
    """Maximum size of a request body, in bytes."""
    orders_api_key: SecretStr | None = Field(default=None, alias="ORDERS_API_KEY")
    """Key for submitting orders over HTTP. Several, separated by commas, while one replaces another.
    `make run` generates one."""

    @field_validator("url")
    @classmethod
    def _where_people_reach_it(cls, value: str | None) -> str | None:
        if value is not None and not is_plain_address(value):
            raise ValueError(
                "WEB_URL must be a web address without user, password and query, "
                "such as https://orders.shop.example"
            )
        return value

    @field_validator("orders_api_key")
    @classmethod
    def _strong_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if not all(_API_KEY.fullmatch(key) for key in separated(value)):
            raise ValueError(
                "ORDERS_API_KEY must be one or several keys, separated by commas, of 16 to 250 of the "
                "characters A-Z a-z 0-9 . _ ~ + / = -"
            )
        return value

    @property
    def orders_api_keys(self) -> tuple[str, ...]:
        """The accepted keys; several, while one replaces another."""
        return separated(self.orders_api_key)


class WorkerSettings(Group):
    """Workers"""

    model_config = prefixed("WORKER_")

    pool: str = Field(default="orders", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$")
    """Work pool of the deployments and of the workers. After changing it, run `order-saga setup`."""
    home: Path | None = None
    """Folder of the clone on the workers' machines. Default: the folder of the clone in which
    `order-saga setup` runs. Where the package is installed, as in an image, none is needed."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of concurrent runs of one worker; at least 6 (four are reserved for other flows than
    `process-order`). Default: by memory and connections. `--limit` overrides it."""
    most_order_runs: int = Field(default=8, alias="MOST_ORDER_RUNS", ge=1, le=1_000)
    """Limits the runs of `process-order` of all workers together. Each is a process of about 150 MB with
    three database connections. The others wait, and are shown as Late."""
    standby: int = Field(default=1, ge=0, le=16)
    """How many processes of a worker have loaded the code and wait for a run, which then starts seconds
    earlier. Each takes about 130 MB."""
    consumer_seconds: Seconds = Field(default=930, alias="CONSUMER_SECONDS")
    """How long a consumer keeps claiming orders."""
    most_consumers: int = Field(default=4, alias="MOST_CONSUMERS", ge=1, le=1_000)
    """Limits the consumers of all workers together. While orders wait for longer than a second, more are
    started, and end when there is nothing to do. Each is a process of about 200 MB."""
