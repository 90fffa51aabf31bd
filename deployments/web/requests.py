"""Reads requests: authorizes them by the keys in `ORDERS_API_KEY`, reads bodies with limits on size and
time, and JSON strictly."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials, HTTPBearer

from deployments.web.problems import ProblemError, Wrong, pointer
from shop.orders import exact_json
from shop.orders.intake_content import MAX_DEPTH
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


_SECONDS = 20
"""Limits the transfer of the whole body, in seconds, so that slow senders do not hold resources."""
_MOST_REPORTED = 20
_CLOSE = {"Connection": "close"}


async def read_body(request: Request) -> bytes:
    """Returns the body. Raises 413 for more than `WEB_MAX_BYTES`, whatever its headers say, and 408 after
    the time limit."""
    most = settings().web.max_bytes
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise ProblemError(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body did not arrive within {_SECONDS} s",
            headers={"Connection": "close"},
        ) from None
    return bytes(body)


def _too_large(most: int) -> ProblemError:
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body may have at most {most} bytes (WEB_MAX_BYTES)",
        headers=_CLOSE,
    )


async def read_json(request: Request) -> Any:
    """Returns the body's JSON with exact numbers. Raises 415, 413, 408, 400 and 422 with the reason."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (
        kind != "application/json"
        or request.headers.get("content-encoding", "identity").lower() != "identity"
    ):
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send uncompressed JSON as Content-Type: application/json"
        )
    parsed = parse_json(await read_body(request))
    if deep := list(_too_deep(parsed)):
        detail = f"lists and objects may be nested {MAX_DEPTH} deep"
        errors = [Wrong(detail="nested too deeply", pointer=pointer(*place)) for place in deep]
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            detail,
            kind="unusable-order",
            title="Unusable order",
            errors=errors,
        )
    return parsed


def parse_json(body: bytes) -> Any:
    """Returns the JSON with exact numbers. Raises 400 with the reason."""
    try:
        return exact_json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _not_json(f"not UTF-8, at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg}, in line {error.lineno}, column {error.colno}") from None
    except exact_json.UnusableJson as error:
        raise _not_json(str(error)) from None
    except RecursionError:
        raise _not_json("nested too deeply") from None


def _not_json(why: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.BAD_REQUEST, f"the body is not JSON: {why}", kind="not-json", title="Not JSON"
    )


def _too_deep(parsed: Any) -> Iterator[tuple[str | int, ...]]:
    """Yields the first few places that are nested too deeply."""
    left: list[tuple[Any, tuple[str | int, ...]]] = [(parsed, ())]
    found = 0
    while left and found < _MOST_REPORTED:
        value, place = left.pop()
        if not isinstance(value, dict | list):
            continue
        if len(place) >= MAX_DEPTH:
            found += 1
            yield place
            continue
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        left += [(each, (*place, key)) for key, each in entries if isinstance(each, dict | list)]
