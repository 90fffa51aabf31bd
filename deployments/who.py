"""Who runs this process."""

from __future__ import annotations

import getpass
import os
import socket


def user(through: str) -> str:
    """As the machine knows it. `through`: what they use."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        name = f"user {os.getuid()}"
    return f"{name} on {socket.gethostname()}, {through}"
