"""What Prefect runs."""

from flows.log_lines import configure

configure()
