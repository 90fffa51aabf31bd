"""The Prefect flows."""

import tasks as tasks  # first: it registers the reader of `..._BLOCK` secrets, and configure() reads settings
from flows.log_lines import configure

configure()
