"""Reads request bodies with limits on size and time, and JSON strictly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import Request

from deployments.web.problems import ProblemError, Wrong, pointer
from shop.orders import exact_json
from shop.orders.intake_content import MAX_DEPTH
from shop.settings import settings

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
        return exact_json.loads(
            body.decode("utf-8-sig"), parse_constant=_reject_constant, object_pairs_hook=_object
        )
    except UnicodeDecodeError as error:
        raise _not_json(f"not UTF-8, at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg}, in line {error.lineno}, column {error.colno}") from None
    except (_Refused, exact_json.NumberOutOfRange) as error:
        raise _not_json(str(error)) from None
    except RecursionError:
        raise _not_json("nested too deeply") from None


class _Refused(Exception):
    """JSON that parsers may interpret differently."""


def _reject_constant(text: str) -> None:
    raise _Refused(f"{text} is not a number in JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _Refused("an object has a name twice")
    return made


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
