"""Finding the world that `make run` has started in this clone."""

from __future__ import annotations

import os

from dotenv import dotenv_values

from shop.settings import ENV_FILES

_URL, _PASSWORD = "PREFECT_API_URL", "PREFECT_API_AUTH_STRING"


def use_running_world() -> None:
    """Makes Prefect's client use the server that `.env` or a running `make run` names, unless the environment names one.

    A server's password is taken only from where its address stands. To be called before Prefect is imported; the shop's own
    settings look in the same places by themselves.
    """
    for file in reversed(ENV_FILES):
        values = dotenv_values(file, encoding="utf-8-sig")
        if (url := values.get(_URL)) and os.environ.setdefault(_URL, url) == url:
            if (password := values.get(_PASSWORD)) and "PREFECT_API_KEY" not in os.environ:
                os.environ.setdefault(_PASSWORD, password)
            return
