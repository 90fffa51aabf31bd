"""What Prefect runs."""

from shop.logs import configure

configure()
