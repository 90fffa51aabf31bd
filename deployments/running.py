"""Finding the world that `make run` has started in this clone."""

from __future__ import annotations

import os

from dotenv import dotenv_values

from shop.settings import ENV_FILES


def use_running_world() -> None:
    """Makes Prefect's client use the server that `.env` or a running `make run` names, unless the environment names one.

    To be called before Prefect is imported; the shop's own settings look in the same places by themselves.
    """
    for file in reversed(ENV_FILES):
        if (url := dotenv_values(file, encoding="utf-8-sig").get("PREFECT_API_URL")) and "PREFECT_API_URL" not in os.environ:
            os.environ["PREFECT_API_URL"] = url
