"""The sandbox gateway's ledger of charges and refunds, for development and tests. It guarantees:

- a payment is charged at most once, and never after it was declined or cancelled;
- refunds never exceed what was charged;
- operations are atomic, and answered ones survive a `kill -9` of the process;
- no full card number is accepted or stored.

It misbehaves as gateways do, but only if configured: by test card (`TEST_CARDS`) or by switch (`Behaviour`).
Amounts are in the smallest unit of their currency.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from shop.payments.gateway import PaymentStatus
from shop.payments.sandbox.behaviour import (
    GOOD_CARD,
    TEST_CARDS,
    Behaviour,
    Card,
    Fate,
    FaultRule,
    Faults,
    Move,
)
from shop.payments.sandbox.records import (
    MAX_AMOUNT,
    MAX_TRY,
    AnswerLost,
    CurrencyTotals,
    Page,
    PaymentRecord,
    RefundRecord,
    Refusal,
)
from shop.runtime.files import PRIVATE_FILE, make_private
from shop.text.card_numbers import is_card_number_as_token
from shop.values.money import is_currency

MAX_ORDER_ID = 500
MAX_PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# Times are microseconds since 1970.
_TABLES = """
CREATE TABLE IF NOT EXISTS payments (
    number INTEGER PRIMARY KEY,
    order_id TEXT NOT NULL,
    status TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    method TEXT NOT NULL,
    card_last4 TEXT,
    failed_confirms INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    fee INTEGER NOT NULL,
    charged_at INTEGER,
    refunded INTEGER NOT NULL CHECK (refunded BETWEEN 0 AND amount),
    installation TEXT,
    try_number INTEGER NOT NULL DEFAULT 1,
    CHECK ((charged_at IS NOT NULL) = (status = 'succeeded')),
    CHECK (refunded = 0 OR charged_at IS NOT NULL)
);
CREATE INDEX IF NOT EXISTS payments_by_order ON payments (order_id);
CREATE TABLE IF NOT EXISTS refunds (
    number INTEGER PRIMARY KEY,
    payment INTEGER NOT NULL REFERENCES payments,
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS refunds_by_payment ON refunds (payment);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    request BLOB NOT NULL,
    payment TEXT,
    refusal TEXT
);
CREATE TABLE IF NOT EXISTS processing (payment INTEGER PRIMARY KEY, due_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ledger (name TEXT NOT NULL);
"""

_MOVED_SINCE = """
number < ? AND (
    created_at >= ? OR charged_at >= ? OR number IN (SELECT payment FROM refunds WHERE created_at >= ?))
ORDER BY number DESC LIMIT ?
"""


class _Row(NamedTuple):
    """A stored payment: the table's columns in their sequence."""

    number: int
    order_id: str
    status: str
    amount: int
    currency: str
    method: str
    card_last4: str | None
    failed_confirms: int
    created_at: int
    fee: int
    charged_at: int | None
    refunded: int
    installation: str | None
    try_number: int

    @property
    def card(self) -> Card:
        return TEST_CARDS.get(self.card_last4 or "", GOOD_CARD)


_CREATED, _SUCCEEDED = PaymentStatus.CREATED.value, PaymentStatus.SUCCEEDED.value
_DECLINED, _CANCELLED = PaymentStatus.DECLINED.value, PaymentStatus.CANCELLED.value

_ANSWER = TypeAdapter(PaymentRecord)
_FOUR_DIGITS = re.compile(r"[0-9]{4}")
_KEY = re.compile(r"[!-~]{1,255}")
_INSTALLATION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_METHOD = re.compile(r"[A-Za-z_ -]{1,40}")


class Ledger:
    """All payments, charges and refunds of the sandbox, to be used from one thread.

    Methods raise only `Refusal`, except for `confirm` and for database errors. Idempotency keys work like
    Stripe's: the same key with the same request gets the *first* answer again, even if the payment has
    changed since. Refusals that a retry may avoid (5xx, conflicts, no such payment) and invalid requests are
    not stored under their key.
    """

    def __init__(self, path: Path | None, behaviour: Behaviour | None = None) -> None:
        """Opens the ledger in that file, and creates it if needed. None keeps it in memory."""
        if path is not None:
            make_private(path.parent)
            # Created here, because SQLite's other files get the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE))
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._cursor = self._db.cursor()
        self._db.execute("PRAGMA journal_mode = WAL")
        # Data is written to the operating system before the answer: safe if the process dies. FULL would also
        # flush to the disk each time, which protects against a crash of the machine.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_TABLES)
        # An earlier version of the ledger lacks these columns.
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(payments)")}
        for name, kind in (("installation", "TEXT"), ("try_number", "INTEGER NOT NULL DEFAULT 1")):
            if name not in columns:
                self._db.execute(f"ALTER TABLE payments ADD COLUMN {name} {kind}")
        # Part of every id, so that an id from a deleted ledger never matches a payment in a new one.
        self._db.execute(
            "INSERT INTO ledger SELECT ? WHERE NOT EXISTS (SELECT * FROM ledger)", (secrets.token_hex(6),)
        )
        (self._name,) = self._db.execute("SELECT name FROM ledger").fetchone()
        self._payment_id = re.compile(rf"pay_{self._name}_([1-9][0-9]{{0,17}})")
        self._processing = self._db.execute("SELECT EXISTS (SELECT * FROM processing)").fetchone()[0] == 1
        self.behaviour = behaviour or Behaviour()

    def close(self) -> None:
        self._db.close()

    # -- misbehaviour --

    @property
    def behaviour(self) -> Behaviour:
        return self._behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        """Applies from now on, and restarts the random sequence from its seed."""
        self._behaviour = behaviour
        self._no_random_faults = behaviour.error_rate == behaviour.hang_rate == 0
        self._faults = Faults(behaviour.faults)
        self._random = random.Random(behaviour.seed)  # noqa: S311 # for reproducibility, not for security

    def next_fate(self) -> Fate:
        """Draws the treatment of the next request, which the server has to apply."""
        if self._no_random_faults:
            return Fate.ANSWERED
        errors, hangs = self._behaviour.error_rate, self._behaviour.hang_rate
        draw = self._random.random()
        if draw < errors:
            return Fate.FAILS_BEFORE if draw < errors / 2 else Fate.FAILS_AFTER
        return Fate.HANGS if draw < errors + hangs else Fate.ANSWERED

    def next_fault(
        self, move: Move, *, order_id: str | None = None, payment_id: str | None = None
    ) -> FaultRule | None:
        """Returns the fault rule for this request, if any, which the server has to apply."""
        if not self._faults:
            return None
        if payment_id is not None:
            with suppress(Refusal):
                order_id = self._load(payment_id).order_id
        return self._faults.next(move, order_id)

    def confirm_later(self, payment_id: str, milliseconds: float) -> PaymentRecord:
        """Accepts a confirmation that takes effect later. Returns the unchanged payment."""
        row = self._load(payment_id)
        if row.status == _CREATED:
            due = _now() + int(milliseconds * 1000)
            self._run("INSERT INTO processing VALUES (?, ?) ON CONFLICT DO NOTHING", row.number, due)
            self._processing = True
        return self._record(row)

    # -- payments --

    def create(
        self,
        *,
        order_id: str,
        amount: int,
        currency: str,
        method: str,
        card_last4: str | None,
        token: str | None,
        key: str | None,
        try_number: int = 1,
        installation: str | None = None,
    ) -> PaymentRecord:
        """Registers a payment; nothing is charged. The token is validated, never stored."""
        is_id = 1 <= len(order_id) <= MAX_ORDER_ID and _storable(order_id)
        _require(is_id, f"order_id is text of 1 to {MAX_ORDER_ID} characters")
        _require_money(amount, currency)
        _require(_METHOD.fullmatch(method), "method is a name such as credit_card")
        _require(
            card_last4 is None or _FOUR_DIGITS.fullmatch(card_last4), "card_last4 is exactly four digits"
        )
        if token is not None:
            _require(len(token) <= 255 and _storable(token), "token is text of at most 255 characters")
            is_card = is_card_number_as_token(token)
            _require(not is_card, "token holds a card number: those are never accepted")
        is_name = installation is None or _INSTALLATION.fullmatch(installation)
        _require(is_name, "installation is a name such as 3f9a")
        _require(1 <= try_number <= MAX_TRY, f"try_number is a number from 1 to {MAX_TRY}")

        def work() -> _Row:
            made = (order_id, _CREATED, amount, currency, method, card_last4, 0, _now(), 0, None, 0)
            row = (*made, installation, try_number)
            places = ", ".join("?" * len(row))
            number = self._run(f"INSERT INTO payments VALUES (NULL, {places})", *row).lastrowid  # noqa: S608
            return _Row(number or 0, *row)

        request = ("create", order_id, amount, currency, method, card_last4, token, installation)
        return self._once(key, request if try_number == 1 else (*request, try_number), work)

    def confirm(self, payment_id: str, *, key: str | None) -> PaymentRecord:
        """Charges the payment. Returns it unchanged if it has already succeeded; refuses it if it is declined
        or cancelled. Raises `AnswerLost` if it was charged and the caller must not get the answer."""
        answer_lost = False

        def work() -> _Row:
            nonlocal answer_lost
            row = self._load(payment_id)
            if row.status == _SUCCEEDED:
                return row
            self._require_not_processing(row)
            if row.status == _CANCELLED:
                raise _declined_as("payment_cancelled", "the payment was cancelled and cannot be charged")
            if row.status == _DECLINED:
                raise _declined(row.card)
            if row.failed_confirms < row.card.failing_confirms:
                self._run(
                    "UPDATE payments SET failed_confirms = failed_confirms + 1 WHERE number = ?", row.number
                )
                raise Refusal(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "processing_error",
                    "the card could not be processed at the moment",
                )
            if row.card.declined:
                self._end(row, _DECLINED)
                raise _declined(row.card)
            answer_lost = row.card.first_answer_lost
            return self._end(row, _SUCCEEDED, fee=_fee(row.amount), charged_at=_now())

        payment = self._once(key, ("confirm", payment_id), work)
        if answer_lost:
            raise AnswerLost(payment)
        return payment

    def cancel(self, payment_id: str, *, key: str | None) -> PaymentRecord:
        """Cancels the payment, so that it can never be charged. Returns a succeeded or declined one
        unchanged."""

        def work() -> _Row:
            row = self._load(payment_id)
            self._require_not_processing(row)
            return self._end(row, _CANCELLED) if row.status == _CREATED else row

        return self._once(key, ("cancel", payment_id), work)

    def refund(self, payment_id: str, *, amount: int, currency: str, key: str | None) -> RefundRecord:
        """Refunds `amount`, if at least that much of the charge is left."""
        _require_money(amount, currency)

        def work() -> _Row:
            row = self._load(payment_id)
            _require_refundable(
                row, amount, currency, refused=row.card.refunds_refused and not self._behaviour.take_refunds
            )
            self._run(
                "INSERT INTO refunds (payment, amount, currency, created_at) VALUES (?, ?, ?, ?)",
                row.number,
                amount,
                currency,
                _now(),
            )
            self._run("UPDATE payments SET refunded = refunded + ? WHERE number = ?", amount, row.number)
            return row._replace(refunded=row.refunded + amount)

        return self._once(key, ("refund", payment_id, amount, currency), work).refunds[-1]

    # -- looking things up --

    def get(self, payment_id: str) -> PaymentRecord:
        self._settle()
        return self._record(self._load(payment_id))

    def find(self, order_id: str, installation: str | None = None) -> tuple[PaymentRecord, ...]:
        """Returns every payment ever created for the order (by this installation; None: by any), oldest
        first."""
        self._settle()
        _require(_storable(order_id), "order_id is text")
        which = "order_id = ?1 AND (?2 IS NULL OR installation = ?2) ORDER BY number"
        return tuple(map(self._record, self._rows(which, order_id, installation)))

    def list(
        self, *, limit: int = 100, starting_after: str | None = None, since: datetime | None = None
    ) -> Page:
        """Returns a page of all payments, newest first: those older than the payment `starting_after`; with
        `since` only those created, charged or refunded since then."""
        self._settle()
        _require(1 <= limit <= MAX_PAGE, f"limit is a number from 1 to {MAX_PAGE}")
        _require(since is None or since.tzinfo is not None, "since is a time with its offset from UTC")
        before = self._load(starting_after).number if starting_after is not None else 2**63 - 1
        moment = _microseconds(since) if since is not None else 0
        rows = self._rows(_MOVED_SINCE, before, moment, moment, moment, limit + 1)
        return Page(tuple(map(self._record, rows[:limit])), has_more=len(rows) > limit)

    def totals(self) -> tuple[CurrencyTotals, ...]:
        """Returns the totals of charges and refunds for each currency with charges, summed from single
        movements."""
        self._settle()
        charged = self._run(
            "SELECT currency, SUM(amount) FROM payments WHERE charged_at IS NOT NULL GROUP BY currency"
        ).fetchall()
        refunded: dict[str, int] = dict(
            self._run("SELECT currency, SUM(amount) FROM refunds GROUP BY currency").fetchall()
        )
        return tuple(
            CurrencyTotals(currency, total, refunded.get(currency, 0)) for currency, total in charged
        )

    # -- internals --

    def _run(self, query: str, *values: str | int | bytes | None) -> sqlite3.Cursor:
        return self._cursor.execute(query, values)

    def _load(self, payment_id: str) -> _Row:
        known = self._payment_id.fullmatch(payment_id)
        rows = self._rows("number = ?", int(known[1])) if known else ()
        if not rows:
            raise Refusal(HTTPStatus.NOT_FOUND, "no_such_payment", "there is no payment with this id")
        return rows[0]

    def _rows(self, which: str, *values: str | int | None) -> tuple[_Row, ...]:
        """Returns the stored payments that the condition describes."""
        rows = self._run(f"SELECT * FROM payments WHERE {which}", *values).fetchall()  # noqa: S608
        return tuple(map(_Row._make, rows))

    def _end(self, row: _Row, status: str, *, fee: int = 0, charged_at: int | None = None) -> _Row:
        """Moves the payment from `created` to its final status."""
        self._run(
            "UPDATE payments SET status = ?, fee = ?, charged_at = ? WHERE number = ?",
            status,
            fee,
            charged_at,
            row.number,
        )
        return row._replace(status=status, fee=fee, charged_at=charged_at)

    def _settle(self) -> None:
        """Executes delayed confirmations that are due."""
        if not self._processing:
            return
        for (number,) in self._run("SELECT payment FROM processing WHERE due_at <= ?", _now()).fetchall():
            (row,) = self._rows("number = ?", number)
            if row.status == _CREATED and row.card.declined:
                self._end(row, _DECLINED)
            elif row.status == _CREATED:
                self._end(row, _SUCCEEDED, fee=_fee(row.amount), charged_at=_now())
            self._run("DELETE FROM processing WHERE payment = ?", number)
        self._processing = self._run("SELECT EXISTS (SELECT * FROM processing)").fetchone()[0] == 1

    def _require_not_processing(self, row: _Row) -> None:
        if (
            self._processing
            and self._run("SELECT 1 FROM processing WHERE payment = ?", row.number).fetchone()
        ):
            raise _conflict("request_in_progress", "a confirmation of this payment is in progress")

    def _record(self, row: _Row) -> PaymentRecord:
        id_ = f"pay_{self._name}_{row.number}"
        refunds = self._refunds(row.number, id_) if row.refunded else ()
        return PaymentRecord(
            id_,
            row.order_id,
            PaymentStatus(row.status),
            row.amount,
            row.currency,
            sum(refund.amount for refund in refunds) if refunds else 0,
            row.fee,
            row.method,
            row.card_last4,
            f"ch_{self._name}_{row.number}" if row.charged_at else None,
            _moment(row.created_at),
            _moment(row.charged_at) if row.charged_at else None,
            refunds,
            row.installation,
            row.try_number,
        )

    def _refunds(self, number: int, payment_id: str) -> tuple[RefundRecord, ...]:
        rows = self._run(
            "SELECT number, amount, currency, created_at FROM refunds WHERE payment = ? ORDER BY number",
            number,
        ).fetchall()
        return tuple(
            RefundRecord(f"ref_{self._name}_{refund}", payment_id, amount, currency, _moment(at))
            for refund, amount, currency, at in rows
        )

    # -- transactions and idempotency keys --

    def _once(
        self, key: str | None, request: tuple[str | int | None, ...], work: Callable[[], _Row]
    ) -> PaymentRecord:
        """Does the work in one transaction, or replays the key's stored answer. A refusal is an answer, too:
        what was written before it is committed."""
        is_key = key is None or _KEY.fullmatch(key)
        _require(is_key, "an idempotency key is 1 to 255 printable ASCII characters without spaces")
        self._settle()
        self._run("BEGIN IMMEDIATE")
        try:
            if key is None or self._behaviour.forget_keys:
                answer = self._record(work())
            else:
                answer = self._replay_or_execute(key, _fingerprint(request), work)
        except Refusal:
            self._run("COMMIT")
            raise
        else:
            self._run("COMMIT")
            return answer
        finally:
            if self._db.in_transaction:
                self._run("ROLLBACK")

    def _replay_or_execute(self, key: str, fingerprint: bytes, work: Callable[[], _Row]) -> PaymentRecord:
        known = self._run("SELECT request, payment, refusal FROM answers WHERE key = ?", key).fetchall()
        if known:
            request, payment, refusal = known[0]
            if request != fingerprint:
                raise _conflict(
                    "idempotency_conflict", "this idempotency key was used for a different request"
                )
            if refusal is not None:
                raise Refusal.from_json(refusal)
            return _ANSWER.validate_json(payment)
        try:
            answer = self._record(work())
        except Refusal as refusal:
            if refusal.final:
                self._run("INSERT INTO answers VALUES (?, ?, NULL, ?)", key, fingerprint, refusal.to_json())
            raise
        self._run("INSERT INTO answers VALUES (?, ?, ?, NULL)", key, fingerprint, _ANSWER.dump_json(answer))
        return answer


def _fingerprint(request: tuple[str | int | None, ...]) -> bytes:
    """Returns a hash that distinguishes requests without storing their content."""
    return hashlib.blake2b(repr(request).encode(), digest_size=16).digest()


def _fee(amount: int) -> int:
    """Returns 2.9 % (rounded half up) plus 30 smallest units."""
    return (amount * 29 + 500) // 1000 + 30


def _declined(card: Card) -> Refusal:
    code = card.declined or "card_declined"
    return _declined_as(code, f"the bank declined the card: {code.replace('_', ' ')}")


def _declined_as(code: str, message: str) -> Refusal:
    return Refusal(HTTPStatus.PAYMENT_REQUIRED, code, message)


def _conflict(code: str, message: str) -> Refusal:
    return Refusal(HTTPStatus.CONFLICT, code, message)


def _invalid(code: str, message: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, code, message)


def _require_refundable(row: _Row, amount: int, currency: str, *, refused: bool) -> None:
    if row.charged_at is None:
        raise _conflict("payment_not_charged", f"the payment is {row.status}: there is nothing to refund")
    if currency != row.currency:
        raise _invalid("currency_mismatch", f"it was charged in {row.currency}")
    if refused:
        raise _invalid("refund_refused", "the bank does not accept refunds to this card")
    if amount > (left := row.amount - row.refunded):
        # Two codes, because only the first says that money was refunded.
        code = "charge_already_refunded" if row.refunded else "amount_too_large"
        raise _invalid(code, f"{left} of {row.amount} smallest units are left to refund")


def _require(holds: object, rule: str) -> None:
    if not holds:
        raise _invalid("invalid_request", rule)


def _require_money(amount: int, currency: str) -> None:
    _require(0 < amount <= MAX_AMOUNT, f"amount is a number of smallest units from 1 to {MAX_AMOUNT}")
    _require(is_currency(currency), "currency is an ISO 4217 code such as USD")


def _storable(text: str) -> bool:
    """Returns whether the text can be encoded as UTF-8: lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _now() -> int:
    return time.time_ns() // 1000


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)
