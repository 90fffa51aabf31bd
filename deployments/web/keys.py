"""Authorizes requests about orders by the keys in `ORDERS_API_KEY`."""

from __future__ import annotations

import hashlib
import hmac
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials, HTTPBearer

from deployments.web.problems import ProblemError
from shop.settings import settings

_bearer = HTTPBearer(auto_error=False, description="one of the keys in ORDERS_API_KEY")
_basic = HTTPBasic(
    auto_error=False,
    realm="orders",
    description="for browsers: any name, and one of the keys in ORDERS_API_KEY as the password",
)
_Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def require_key(given: _Bearer, response: Response) -> None:
    """Requires a key. Raises 401, and 503 if no key is set. What needs a key is not stored by caches."""
    response.headers["Cache-Control"] = "no-store"
    _require(
        given.credentials if given else None,
        "send a key of ORDERS_API_KEY as Authorization: Bearer ...",
        "Bearer",
    )


async def require_key_or_password(
    bearer: _Bearer, basic: Annotated[HTTPBasicCredentials | None, Depends(_basic)]
) -> None:
    """Requires a key or password, for what people open in a browser, which asks for a password."""
    given = bearer.credentials if bearer else basic.password if basic else None
    _require(
        given,
        "the password is a key of ORDERS_API_KEY; the name does not matter",
        'Basic realm="orders", charset="UTF-8"',
    )


def _require(given: str | None, how: str, challenge: str) -> None:
    keys = settings().web.orders_api_keys
    if not keys:
        wanted = (
            "set ORDERS_API_KEY to a key of at least 16 characters (`make run` creates one), "
            "and restart the web app"
        )
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"no key is set: {wanted}",
            kind="no-key-set",
            title="No key is set",
        )
    if given is None or not _is_one_of(given, keys):
        raise ProblemError(HTTPStatus.UNAUTHORIZED, how, headers={"WWW-Authenticate": challenge})


def _is_one_of(given: str, keys: tuple[str, ...]) -> bool:
    """Compares in constant time, so that the duration does not reveal how much of a key is right."""
    digest = _digest(given)
    found = False
    for key in keys:
        found |= hmac.compare_digest(_digest(key), digest)
    return found


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
