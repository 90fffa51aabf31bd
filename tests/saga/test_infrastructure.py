"""Which errors are the infrastructure's: recognised by SQLSTATE,
and the same whether psycopg or SQLAlchemy raises them."""

from __future__ import annotations

import errno
import string

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from saga.database import connect_args, is_database_error, is_schema_mismatch, sqlstate
from saga.infrastructure import is_infrastructure_error

OUTAGE_CLASSES = ("08", "28", "40", "53", "55", "57", "58", "72", "F0", "XX")
"""Classes that say something about the server only."""
SINGLE = {"25006", "25P03", "25P04", "26000", "42P05", "3D000"}
SCHEMA = {"3F000", "42501", "42703", "42704", "42883", "42P01"}
CODES = st.text(string.digits + string.ascii_uppercase, min_size=3, max_size=3)
CLASSES = st.sampled_from(
    ["00", "02", "0A", "20", "21", "22", "23", "25", "26", "38", "3D", "42", "44", "54", "P0", "ZZ"]
)
KNOWN = sorted(
    {
        each.sqlstate
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, psycopg.Error) and isinstance(each.sqlstate, str)
    }
)


def raised(state: str) -> psycopg.Error:
    """The error as psycopg makes it of a server's answer with this code."""
    try:
        return errors.lookup(state)("it says so")
    except KeyError:
        error = errors.get_base_exception(state)("it says so")
        error.sqlstate = state
        return error


def wrapped(error: psycopg.Error) -> Exception:
    """The same as SQLAlchemy passes it on."""
    made = DBAPIError.instance("SELECT 1", {}, error, psycopg.Error)
    assert isinstance(made, Exception)
    return made


def is_outage(state: str) -> bool:
    return state[:2] in OUTAGE_CLASSES or state in SINGLE


def test_psycopg_knows_enough_codes_for_the_tests_below() -> None:
    assert len(KNOWN) > 200
    assert {*SINGLE, *SCHEMA} <= set(KNOWN)


@pytest.mark.parametrize("state", KNOWN)
def test_every_code_that_postgresql_has_is_judged_by_its_code(state: str) -> None:
    for error in (raised(state), wrapped(raised(state))):
        assert sqlstate(error) == state
        assert is_database_error(error) == is_outage(state)
        assert is_schema_mismatch(error) == (state in SCHEMA)
        assert is_infrastructure_error(error) == (is_outage(state) or state in SCHEMA)


@given(st.one_of(st.sampled_from(OUTAGE_CLASSES), CLASSES), CODES)
def test_codes_that_are_yet_to_come_are_judged_by_their_class(sqlclass: str, rest: str) -> None:
    state = sqlclass + rest
    assert is_database_error(wrapped(raised(state))) == is_outage(state)


@given(st.sampled_from([state for state in KNOWN if state[:2] in {"22", "23", "21"}]))
def test_bad_data_is_never_the_infrastructures(state: str) -> None:
    assert not is_infrastructure_error(wrapped(raised(state)))


@pytest.mark.parametrize("base", [psycopg.OperationalError, psycopg.InterfaceError, psycopg.DatabaseError])
def test_without_a_code_the_server_was_not_reached_or_was_lost(base: type[psycopg.Error]) -> None:
    error = base("server closed the connection unexpectedly")
    assert is_database_error(error)
    assert is_database_error(wrapped(error))


def test_unrelated_errors_are_no_server_errors() -> None:
    assert not is_database_error(ValueError("57P01"))
    assert not is_database_error(
        psycopg.ProgrammingError("the query has 1 placeholders but 0 parameters were passed")
    )
    assert is_database_error(OperationalError("SELECT 1", {}, Exception("server closed the connection")))
    assert is_database_error(PoolTimeout("QueuePool limit reached"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EROFS, "Read-only file system"), True),
        (PermissionError(errno.EACCES, "Permission denied"), True),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), True),
        (MemoryError(), True),
        (httpx.ConnectError("no route"), True),
        (httpx.ReadTimeout("silent"), True),
        (OSError(errno.ENAMETOOLONG, "File name too long"), False),
        (
            httpx.HTTPStatusError(
                "400", request=httpx.Request("GET", "http://x"), response=httpx.Response(400)
            ),
            False,
        ),
        (ZeroDivisionError(), False),
        (KeyError("step"), False),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_machine_and_network_errors_are_distinguished_from_step_errors(
    error: Exception, expected: bool
) -> None:
    assert is_infrastructure_error(error) is expected


@pytest.mark.parametrize(
    ("url", "attribute"),
    [
        ("postgresql+psycopg://shop@one/shop", None),
        ("postgresql+psycopg://shop@/shop?host=/run/postgresql&port=5433", None),
        ("postgresql+psycopg://shop@/shop?host=one&host=two", "read-write"),
        ("postgresql+psycopg://shop@/shop?host=one,two&port=5432,5433", "read-write"),
        ("postgresql+psycopg://shop@/shop?host=one,two&target_session_attrs=primary", None),
    ],
)
def test_of_several_hosts_the_one_that_takes_writes_is_asked_for(url: str, attribute: str | None) -> None:
    assert connect_args(url).get("target_session_attrs") == attribute
    assert connect_args(url)["prepare_threshold"] is None
