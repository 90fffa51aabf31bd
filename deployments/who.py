"""The user of this process."""

from __future__ import annotations

import getpass
import os
import socket


def user(through: str) -> str:
    """Returns the user's name on this machine. `through`: the program in use."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have only a number
        name = f"user {os.getuid()}"
    return f"{name} on {socket.gethostname()}, {through}"
