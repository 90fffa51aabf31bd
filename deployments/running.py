"""Selects the Prefect server that a command uses, and names its user."""

from __future__ import annotations

import getpass
import os
import socket

from dotenv import dotenv_values

from deployments.environment import CREDENTIALS, from_file, given, read_secret_files, set_environment
from shop.settings import ENV_FILES

_URL = "PREFECT_API_URL"


def use_running_world() -> None:
    """Makes Prefect's client use the server of `.env` or of a running `make run`, unless the environment
    names one.

    Otherwise the client reads the active Prefect profile. A server's credential is only taken from where its
    address is set, and the environment's takes precedence. Raises `UnreadableSecret`.
    """
    read_secret_files()
    for file in reversed(ENV_FILES):
        values = dotenv_values(file, encoding="utf-8-sig")
        if (url := values.get(_URL)) and (os.environ.get(_URL) or url) == url:
            found = {_URL: url}
            if not any(name in os.environ for name in CREDENTIALS):
                login = {name: from_file(name, values) or values.get(name) for name in CREDENTIALS}
                found |= {name: value for name, value in login.items() if value} or _without_login_of_profile(
                    url
                )
            set_environment(found)
            return


def _without_login_of_profile(url: str) -> dict[str, str]:
    """Returns an environment in which the active profile's credentials are not sent to this address, unless
    the profile names it, or no address at all."""
    from prefect.settings import Settings
    from prefect.settings.sources import ProfileSettingsTomlLoader

    profile = ProfileSettingsTomlLoader(Settings).profile_settings
    if profile.get(_URL) in {None, url}:
        return {}
    return {name: "" for name in CREDENTIALS if name in profile}


def configured_prefect_api_url() -> str | None:
    """Returns the address of the Prefect server that a person has configured: in the environment, in
    `.env`, or in Prefect's own configuration, such as the active profile. An empty `PREFECT_API_URL` in
    the environment means none."""
    if (url := given(_URL, ENV_FILES[-1])) or _URL in os.environ:
        return url
    from prefect.settings import Settings

    return Settings().api.url


def user(through: str) -> str:
    """Returns the user's name on this machine. `through`: the program in use."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have only a number
        name = f"user {os.getuid()}"
    return f"{name} on {socket.gethostname()}, {through}"
