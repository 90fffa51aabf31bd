"""Settings of logs, metrics and traces."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from shop.runtime.setting_groups import Group, Url, is_plain_address, prefixed

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,250}")


class MonitoringSettings(Group):
    """Monitoring"""

    model_config = prefixed("")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Level of the shop's own log lines, unless `MONITORING_CONFIG` sets another."""
    config: Path | None = Field(default=None, alias="MONITORING_CONFIG")
    """Configuration of the monitoring, a YAML file. Default: the values in
    `deployments/monitoring/monitoring.yaml`."""


class MetricsSettings(Group):
    """Metrics"""

    model_config = prefixed("METRICS_")

    host: str = "127.0.0.1"
    """Address on which the worker serves metrics to Prometheus."""
    port: int | None = Field(default=None, ge=0, le=65_535)
    """Port on which the worker serves metrics to Prometheus. Default: none; with `make run` 8431, or another
    one if that is taken."""
    token: SecretStr | None = None
    """Bearer token that Prometheus must send; without it, the web app serves no metrics. `make run` generates
    one."""

    @field_validator("token")
    @classmethod
    def _strong(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("METRICS_TOKEN must be 16 to 250 of the characters A-Z a-z 0-9 . _ ~ + / = -")
        return value


class TracesSettings(Group):
    """Traces"""

    model_config = prefixed("OTEL_")

    exporter_otlp_endpoint: Url | None = None
    """Address of the collector of traces (OTLP over HTTP), such as `http://127.0.0.1:4318`. Default: no
    traces are created."""
    enabled: bool | None = Field(default=None, alias="OTEL_TRACES")
    """`1` sends traces to a collector on this machine if there is no endpoint; `0` disables traces. Default:
    enabled if there is an endpoint."""
    sampled_share: float = Field(default=1, ge=0, le=1, alias="OTEL_TRACES_SAMPLER_ARG")
    """Share of the orders whose traces are sent."""

    @field_validator("exporter_otlp_endpoint")
    @classmethod
    def _collector(cls, value: str | None) -> str | None:
        if value is not None and not is_plain_address(value):
            raise ValueError(
                "OTEL_EXPORTER_OTLP_ENDPOINT must be a web address (OTLP over HTTP), "
                "such as http://127.0.0.1:4318"
            )
        return value.rstrip("/") if value else None

    @property
    def endpoint(self) -> str | None:
        """The URL to which traces are sent; None: traces are disabled. `OTEL_TRACES` without an endpoint
        sends them to a collector on this machine."""
        if self.enabled is False or not (self.enabled or self.exporter_otlp_endpoint):
            return None
        return f"{self.exporter_otlp_endpoint or 'http://127.0.0.1:4318'}/v1/traces"
