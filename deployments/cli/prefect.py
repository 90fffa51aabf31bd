"""`order-saga prefect`: Prefect's own command, with secrets from files."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

from cyclopts import Parameter


def prefect(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> NoReturn:
    """Run Prefect's own command, with secrets from files, such as PREFECT_SERVER_API_AUTH_STRING_FILE.

    Exit codes: those of Prefect's command; 2, a secret's file cannot be read.

    Args:
        arguments: Command and options of prefect, such as server start --no-services.
    """
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "prefect", *arguments])  # noqa: S606  (no shell is wanted)
