"""The Prefect flows."""

from flows.log_lines import configure

configure()
