"""Who may send orders and ask about them: whoever has one of the keys in `ORDERS_API_KEY`."""

from __future__ import annotations

import hashlib
import hmac
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from deployments.web.problems import ProblemError
from shop.settings import settings

_bearer = HTTPBearer(auto_error=False, description="one of the keys in ORDERS_API_KEY")


async def require_key(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
    """Raises 401, and 503 while no key is set: then nobody is let in."""
    keys = settings().orders_api_keys
    if not keys:
        how = "set ORDERS_API_KEY to a key of at least 16 characters (`make run` makes one), and start the web app anew"
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, f"nobody may send orders yet: {how}", kind="no-key-set", title="No key is set")
    if given is None or not _is_one_of(given.credentials, keys):
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED, "send a key of ORDERS_API_KEY as Authorization: Bearer ...", headers={"WWW-Authenticate": "Bearer"}
        )


def _is_one_of(given: str, keys: tuple[str, ...]) -> bool:
    """In the same time, whatever is given: how much of a key was right cannot be measured."""
    digest = _digest(given)
    found = False
    for key in keys:
        found |= hmac.compare_digest(_digest(key), digest)
    return found


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
