"""The tables. Migrations (`shop/migrations`) create them; the tests compare the two."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from shop.monitoring.buckets import bucket_sql


def _now(**options: Any) -> Any:
    return Column(DateTime(timezone=True), server_default=text("now()"), nullable=False, **options)


def _time() -> Any:
    return Column(DateTime(timezone=True), nullable=True)


def _json(*, default: str | None = None) -> Any:
    return Column(JSONB, nullable=default is None, server_default=text(f"'{default}'") if default else None)


def _money() -> Any:
    return Column(Numeric(20, 6), nullable=False, server_default=text("0"))


def _text(**options: Any) -> Any:
    return Column(Text, **options)


def _text_of(expression: str) -> Any:
    return Column(Text, Computed(expression, persisted=True))


def _cell(begun: str, ended: str) -> Any:
    return Column(SmallInteger, Computed(bucket_sql(begun, ended), persisted=True))


def _covering(name: str, time: str, *include: str) -> Index:
    """For metrics: what a window of time holds is read from the index alone."""
    return Index(name, time, postgresql_include=list(include), postgresql_where=text(f"{time} IS NOT NULL"))


class Lease(SQLModel, table=True):
    """The right of one worker to its orders until a time; renewed while it works. Orders point to their holder's lease."""

    __tablename__ = "lease"
    id: UUID = Field(primary_key=True)
    holder: str = Field(sa_column=_text(nullable=False))
    until: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    taken_from: bool = Field(sa_column_kwargs={"server_default": text("false"), "nullable": False})
    """Whether another worker has claimed orders of it since it ran out; then its holder has to look at each order's fence."""
    orders_left: int | None = None
    """How many open orders it had when it was first found run out; None while it is renewed."""


class CustomerOrder(SQLModel, table=True):
    """An order, who works on it, and where it ended."""

    __tablename__ = "customer_order"
    __table_args__ = (
        Index("customer_order_open", "number", postgresql_where=text("outcome IS NULL")),
        Index("customer_order_attention", "finished_at", postgresql_where=text("outcome = 'needs_attention'")),
        Index(
            "customer_order_cancelling",
            "cancel_requested_at",
            postgresql_where=text("cancel_requested_at IS NOT NULL AND outcome IS NULL"),
        ),
        Index(
            "customer_order_taken_over",
            "taken_over_from",
            postgresql_where=text("taken_over_from IS NOT NULL AND outcome IS NULL"),
        ),
        Index("customer_order_suspected", "number", postgresql_where=text("outcome IS NULL AND takeovers >= 2")),
        _covering("customer_order_finished", "finished_at", "outcome", "currency", "amount_charged", "amount_refunded", "cell"),
        CheckConstraint("amount_refunded <= amount_charged", name="customer_order_refund_within_charge"),
        CheckConstraint(
            "outcome IN ('completed', 'rejected', 'out_of_stock', 'compensated', 'needs_attention')", name="customer_order_outcome_known"
        ),
    )
    id: str = Field(sa_column=_text(primary_key=True))
    number: int = Field(sa_column=Column(BigInteger, Identity(always=True), nullable=False))
    """Sequence of arrival."""
    content: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    fingerprint: str = Field(sa_column=_text(nullable=False))
    submitted_at: datetime = Field(sa_column=_now())
    lease_id: UUID | None = None
    fence: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    """Grows with every claim; a journal write under an older one is refused."""
    takeovers: int = Field(sa_column_kwargs={"server_default": text("0"), "nullable": False})
    lone_deaths: int = Field(sa_column_kwargs={"server_default": text("0"), "nullable": False})
    """How often its worker died with no other order in hand."""
    taken_over_from: UUID | None = None
    """The lease that the last takeover took it from; its holder may turn out to live, and to have lost the database only."""
    not_before: datetime | None = Field(sa_column=_time())
    """Not to be claimed earlier: a pause after a failure past the pivot."""
    started_at: datetime | None = Field(sa_column=_time())
    finished_at: datetime | None = Field(sa_column=_time())
    flow_run_id: str | None = Field(sa_column=_text())
    status: str = Field(sa_column=_text(nullable=False, server_default=text("'received'")))
    """For people: `received`, then `shipped` once it has left, then the outcome."""
    outcome: str | None = Field(sa_column=_text())
    failing_step: str | None = Field(sa_column=_text())
    failure: dict[str, Any] | None = Field(sa_column=_json())
    """Why it is being undone, written before the undoing begins: whoever takes over goes on undoing."""
    reasons: list[str] = Field(sa_column=_json(default="[]"))
    undone: list[dict[str, Any]] = Field(sa_column=_json(default="[]"))
    currency: str = Field(sa_column=_text(nullable=False, server_default=text("'USD'")))
    amount_charged: Decimal = Field(sa_column=_money())
    amount_refunded: Decimal = Field(sa_column=_money())
    amount_at_risk: Decimal = Field(sa_column=_money())
    cancel_requested_at: datetime | None = Field(sa_column=_time())
    """From now on it is not shipped; or, if it is, it is on its way back (`shop.review.cancel`)."""
    cancel_reason: str | None = Field(sa_column=_text())
    cancel_requested_by: str | None = Field(sa_column=_text())
    waits_for: str | None = Field(sa_column=_text())
    """The code of what it was last put off for, such as a gateway that is away."""
    waits_since: datetime | None = Field(sa_column=_time())
    """When that began."""
    erased_at: datetime | None = Field(sa_column=_time())
    """Since then nothing of its customer is kept (`shop.retention.customers`)."""
    cell: int | None = Field(sa_column=_cell("submitted_at", "finished_at"))
    """How long it took; see `shop.monitoring.buckets`."""


class OrderStep(SQLModel, table=True):
    """The journal: one row for each step of each order that was begun.

    No foreign key to the order: every write checks the order's fence, and so its existence, in the same transaction.
    """

    __tablename__ = "order_step"
    __table_args__ = (
        CheckConstraint("status IN ('begun', 'done', 'failed')", name="order_step_status_known"),
        CheckConstraint("undo_status IN ('begun', 'done', 'failed')", name="order_step_undo_status_known"),
        _covering("order_step_ended", "ended_at", "step", "status", "remark", "cell", "attempts"),
        _covering("order_step_undone", "undo_ended_at", "step", "undo_status", "undo_begun_at", "undo_attempts"),
        Index("order_step_warned", "ended_at", postgresql_where=text("(result -> 'validation_warnings') <> '[]'::jsonb")),
    )
    order_id: str = Field(sa_column=_text(primary_key=True))
    step: str = Field(sa_column=_text(primary_key=True))
    number: int = Field(sa_column=Column(BigInteger, Identity(), nullable=False))
    """Sequence of beginning: compensations run in its reverse."""
    status: str = Field(sa_column=_text(nullable=False))
    attempts: int = Field(sa_column_kwargs={"server_default": text("1"), "nullable": False})
    begun_at: datetime = Field(sa_column=_now())
    ended_at: datetime | None = Field(sa_column=_time())
    notes: dict[str, Any] = Field(sa_column=_json(default="{}"))
    """What the step must not forget between its moves, such as the id of a payment that is created but not yet confirmed."""
    result: dict[str, Any] | None = Field(sa_column=_json())
    error: dict[str, Any] | None = Field(sa_column=_json())
    undo_due: bool = Field(sa_column_kwargs={"server_default": text("false"), "nullable": False})
    """True from the moment the step began, until it is undone or known to have done nothing. Past the pivot it has no meaning."""
    undo_status: str | None = Field(sa_column=_text())
    undo_attempts: int = Field(sa_column_kwargs={"server_default": text("0"), "nullable": False})
    undo_number: int | None = Field(sa_column=Column(BigInteger))
    """Sequence of undoing, from the same counter as `number`."""
    undo_begun_at: datetime | None = Field(sa_column=_time())
    undo_ended_at: datetime | None = Field(sa_column=_time())
    undo_result: dict[str, Any] | None = Field(sa_column=_json())
    undo_error: dict[str, Any] | None = Field(sa_column=_json())
    cell: int | None = Field(sa_column=_cell("begun_at", "ended_at"))
    """How long it took; see `shop.monitoring.buckets`."""
    remark: str | None = Field(sa_column=_text_of("left(coalesce(error ->> 'code', result ->> 'generation_model'), 100)"))
    """For counting: the code of its failure; or who wrote a confirmation, the template or which model."""


class Product(SQLModel, table=True):
    """Stock of one product. `received` is all that ever came in: on hand + shipped and not returned."""

    __tablename__ = "product"
    __table_args__ = (
        CheckConstraint("on_hand >= 0", name="product_on_hand_not_negative"),
        CheckConstraint("reserved >= 0 AND reserved <= on_hand", name="product_never_oversold"),
    )
    id: str = Field(sa_column=_text(primary_key=True))
    name: str = Field(sa_column=_text(nullable=False))
    received: int = Field(sa_column=Column(BigInteger, nullable=False))
    on_hand: int = Field(sa_column=Column(BigInteger, nullable=False))
    reserved: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))


class Reservation(SQLModel, table=True):
    """What an order holds of the stock."""

    __tablename__ = "reservation"
    __table_args__ = (
        Index("reservation_held", "expires_at", postgresql_where=text("state = 'held'")),
        CheckConstraint("state IN ('held', 'released', 'shipped', 'returned', 'expired')", name="reservation_state_known"),
    )
    order_id: str = Field(sa_column=_text(primary_key=True))
    id: str = Field(sa_column=_text(nullable=False))
    state: str = Field(sa_column=_text(nullable=False))
    items: dict[str, int] = Field(sa_column=Column(JSONB, nullable=False))
    """Pieces per product."""
    created_at: datetime = Field(sa_column=_now())
    expires_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    ended_at: datetime | None = Field(sa_column=_time())
    at_service: bool = Field(sa_column_kwargs={"server_default": text("false"), "nullable": False})
    """Reserved through the inventory service, which lets it run out, too: no worker's lease says that its order is alive."""


class Shipment(SQLModel, table=True):
    """A parcel handed over: one for one order."""

    __tablename__ = "shipment"
    order_id: str = Field(sa_column=_text(primary_key=True))
    serial: int = Field(sa_column=Column(BigInteger, Identity(), nullable=False))
    """Tracking numbers are made of it."""
    tracking_number: str = Field(sa_column=_text(nullable=False, unique=True))
    carrier: str = Field(sa_column=_text(nullable=False))
    service: str = Field(sa_column=_text(nullable=False))
    label_path: str = Field(sa_column=_text(nullable=False))
    items: dict[str, int] = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = Field(sa_column=_now())
    returned_at: datetime | None = Field(sa_column=_time())
    """Since then its pieces are on the shelf again."""


class OutboxMessage(SQLModel, table=True):
    """Something to be sent, written in the transaction that made it due; sent later, until it is."""

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("order_id", "kind", name="outbox_once"),
        Index("outbox_waiting", "next_attempt_at", postgresql_where=text("sent_at IS NULL AND refused_at IS NULL")),
        Index("outbox_undelivered", "created_at", postgresql_where=text("sent_at IS NULL AND error IS NOT NULL")),
        _covering("outbox_sent", "sent_at", "kind", "attempts"),
    )
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    order_id: str = Field(sa_column=_text(nullable=False))
    kind: str = Field(sa_column=_text(nullable=False))
    payload: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = Field(sa_column=_now())
    next_attempt_at: datetime = Field(sa_column=_now())
    attempts: int = Field(sa_column_kwargs={"server_default": text("0"), "nullable": False})
    sent_at: datetime | None = Field(sa_column=_time())
    error: str | None = Field(sa_column=_text())
    """How the last attempt failed; never what the other side wrote, which may hold a customer's address."""
    refused_at: datetime | None = Field(sa_column=_time())
    """The other side will not have it: it is not tried again unless a person says so."""


class CustomerInteraction(SQLModel, table=True):
    """The embedded CRM: what a customer has heard from us."""

    __tablename__ = "customer_interaction"
    __table_args__ = (
        UniqueConstraint("order_id", "kind", name="customer_interaction_once"),
        Index("customer_interaction_customer", "customer_id"),
    )
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    customer_id: str = Field(sa_column=_text(nullable=False))
    order_id: str = Field(sa_column=_text(nullable=False))
    kind: str = Field(sa_column=_text(nullable=False))
    details: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    at: datetime = Field(sa_column=_now())


class Attention(SQLModel, table=True):
    """The desk: an order with a compensation that could not be done, until it is done after all or a person settles it."""

    __tablename__ = "attention"
    __table_args__ = (
        Index("attention_open", "next_retry_at", postgresql_where=text("resolved_at IS NULL")),
        CheckConstraint("resolution IN ('undone', 'refunded_by_hand', 'written_off')", name="attention_resolution_known"),
        CheckConstraint("(resolution IS NULL) = (resolved_at IS NULL)", name="attention_resolved_somehow"),
    )
    order_id: str = Field(sa_column=_text(primary_key=True))
    since: datetime = Field(sa_column=_now())
    step: str = Field(sa_column=_text(nullable=False))
    """Whose compensation could not be done; the first one that is due."""
    currency: str = Field(sa_column=_text(nullable=False))
    amount_at_risk: Decimal = Field(sa_column=_money())
    """As it was when it last came here; what is at risk now is the order's."""
    last_error: str = Field(sa_column=_text(nullable=False))
    error_code: str = Field(sa_column=_text(nullable=False))
    retries: int = Field(sa_column_kwargs={"server_default": text("0"), "nullable": False})
    """How often it was tried again, in vain."""
    next_retry_at: datetime | None = Field(sa_column=_time())
    """None: a person deals with it, and nothing is retried by itself."""
    resolved_at: datetime | None = Field(sa_column=_time())
    resolution: str | None = Field(sa_column=_text())
    """`undone`: a retry did it."""
    amount_by_hand: Decimal = Field(sa_column=_money())
    """What a person says to have given back past the gateway."""
    amount_written_off: Decimal = Field(sa_column=_money())


class DeskEntry(SQLModel, table=True):
    """The desk's book: who did what about an order, when and why. Only ever added to."""

    __tablename__ = "desk_entry"
    __table_args__ = (Index("desk_entry_order", "order_id"),)
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    order_id: str = Field(sa_column=_text(nullable=False))
    at: datetime = Field(sa_column=_now())
    action: str = Field(sa_column=_text(nullable=False))
    """`cancel`, `accept_discrepancies`, or a `shop.review.resolution.Resolution`."""
    by: str = Field(sa_column=_text(nullable=False))
    """What somebody typed: no proof of who it was."""
    started_by: str | None = Field(sa_column=_text())
    """What the system knows of who it was: the Prefect run and its creator according to Prefect, or the user of the machine."""
    reason: str | None = Field(sa_column=_text())
    reference: str | None = Field(sa_column=_text())
    amount: Decimal = Field(sa_column=_money())
    currency: str | None = Field(sa_column=_text())


class PaymentEvent(SQLModel, table=True):
    """Something that the gateway has told by itself: a hint that there is something to look up there. Kept for a time."""

    __tablename__ = "payment_event"
    __table_args__ = (
        Index("payment_event_waiting", "next_attempt_at", postgresql_where=text("handled_at IS NULL")),
        Index("payment_event_handled", "handled_at", postgresql_where=text("handled_at IS NOT NULL")),
        CheckConstraint("(done IS NULL) = (handled_at IS NULL)", name="payment_event_handled_somehow"),
    )
    id: str = Field(sa_column=_text(primary_key=True))
    """The gateway's: the same event is told again, and is known by it."""
    type: str = Field(sa_column=_text(nullable=False))
    happened_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    """By the gateway's clock."""
    order_id: str | None = Field(sa_column=_text())
    """As the event says; once it is looked up, as the gateway says."""
    payment_id: str | None = Field(sa_column=_text())
    dispute: dict[str, Any] | None = Field(sa_column=_json())
    """What it says of a dispute; of money nothing is kept, it is looked up."""
    received_at: datetime = Field(sa_column=_now())
    next_attempt_at: datetime = Field(sa_column=_now())
    attempts: int = Field(sa_column_kwargs={"server_default": text("0"), "nullable": False})
    error: str | None = Field(sa_column=_text())
    """Why the last attempt to handle it failed."""
    handled_at: datetime | None = Field(sa_column=_time())
    done: str | None = Field(sa_column=_text())
    """What was found and done, in words."""


class Dispute(SQLModel, table=True):
    """A charge that the customer's bank disputes: on the desk until it is closed."""

    __tablename__ = "dispute"
    __table_args__ = (Index("dispute_open", "opened_at", postgresql_where=text("closed_at IS NULL")),)
    id: str = Field(sa_column=_text(primary_key=True))
    order_id: str | None = Field(sa_column=_text())
    payment_id: str | None = Field(sa_column=_text())
    amount: Decimal = Field(sa_column=_money())
    currency: str = Field(sa_column=_text(nullable=False))
    reason: str = Field(sa_column=_text(nullable=False))
    status: str = Field(sa_column=_text(nullable=False))
    """The gateway's own word."""
    evidence_due_by: datetime | None = Field(sa_column=_time())
    opened_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    as_of: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    """What is older does not replace it."""
    closed_at: datetime | None = Field(sa_column=_time())


class OpenDiscrepancy(SQLModel, table=True):
    """Something that our books and the gateway's do not agree about, until they do; see `shop.reconciliation.outstanding`."""

    __tablename__ = "discrepancy"
    __table_args__ = (Index("discrepancy_open", "order_id", postgresql_where=text("accepted_at IS NULL")),)
    order_id: str = Field(sa_column=_text(primary_key=True))
    """Ours, or what the gateway calls one."""
    digest: str = Field(sa_column=_text(primary_key=True))
    """Of the kind and what both sides say."""
    kind: str = Field(sa_column=_text(nullable=False))
    since: datetime = Field(sa_column=_now())
    accepted_at: datetime | None = Field(sa_column=_time())


class WorkerProcess(SQLModel, table=True):
    """A process that works for long: a consumer, the web app, an inventory service."""

    __tablename__ = "worker_process"
    __table_args__ = (Index("worker_process_seen", "seen_at"),)
    id: UUID = Field(primary_key=True)
    kind: str = Field(sa_column=_text(nullable=False))
    host: str = Field(sa_column=_text(nullable=False))
    pid: int
    flow_run_id: str | None = Field(sa_column=_text())
    started_at: datetime = Field(sa_column=_now())
    seen_at: datetime = Field(sa_column=_now())
    every_seconds: float
    """So often it says that it lives."""
    ended_at: datetime | None = Field(sa_column=_time())
    """It said goodbye."""


class SystemSample(SQLModel, table=True):
    """What a process used at a time. Percents of CPU are of one core for the process, and of all cores for its machine."""

    __tablename__ = "system_sample"
    __table_args__ = (Index("system_sample_at", "at"),)
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    process_id: UUID
    at: datetime = Field(sa_column=_now())
    process_cpu_percent: float | None = None
    process_memory_mb: float | None = None
    cpu_percent: float | None = None
    memory_percent: float | None = None
    disk_percent: float | None = None
    """Of the disk that `VAR_DIR` is on."""
    connections_in_use: int
    connections_open: int
    connections_most: int


class MetricTotal(SQLModel, table=True):
    """A count that only grows, whatever becomes of the rows that it was counted from; see `shop.monitoring.exposition.totals`."""

    __tablename__ = "metric_total"
    kind: str = Field(sa_column=_text(primary_key=True))
    name: str = Field(sa_column=_text(primary_key=True))
    """A step, or a kind of message."""
    result: str = Field(sa_column=_text(primary_key=True))
    code: str = Field(sa_column=_text(primary_key=True))
    cell: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    total: int = Field(sa_column=Column(BigInteger, nullable=False))
    seen: int = Field(sa_column=Column(BigInteger, nullable=False))
    """Of the total, what is counted again at the next reading."""


class MetricReading(SQLModel, table=True):
    """The last reading of the totals: one row."""

    __tablename__ = "metric_reading"
    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    counted_from: datetime | None = Field(sa_column=_time())
    """What ended before is in the totals for good."""
    read_at: datetime | None = Field(sa_column=_time())


class TraceSending(SQLModel, table=True):
    """How far traces have been sent: one row."""

    __tablename__ = "trace_sending"
    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    sent_until: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class Alert(SQLModel, table=True):
    """A condition that needs a person, from when it was raised until it cleared. The same condition later is another alert."""

    __tablename__ = "alert"
    __table_args__ = (
        Index("alert_open", "rule", "subject", unique=True, postgresql_where=text("over_at IS NULL")),
        Index("alert_over", "over_at", postgresql_where=text("over_at IS NOT NULL")),
    )
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    rule: str = Field(sa_column=_text(nullable=False))
    """A `shop.alerts.rules.Rule`."""
    subject: str = Field(sa_column=_text(nullable=False))
    """An order, a step, or what else the rule is about; identifies the alert, together with the rule."""
    resource: str = Field(sa_column=_text(nullable=False))
    """The Prefect event's."""
    since: datetime = Field(sa_column=_now())
    value: float
    """At the last evaluation: a share, seconds, orders or an amount, depending on the rule."""
    threshold: float
    details: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    judged_at: datetime = Field(sa_column=_now())
    over_at: datetime | None = Field(sa_column=_time())
    over_because: str | None = Field(sa_column=_text())


class AlertNotice(SQLModel, table=True):
    """A delivery of an alert, written with the alert and sent later: one per phase and way (event, entries of ALERT_URLS)."""

    __tablename__ = "alert_notice"
    __table_args__ = (
        CheckConstraint("phase IN ('raised', 'cleared')", name="alert_notice_phase_known"),
        CheckConstraint("way ~ '^(event|url-[1-9][0-9]*)$'", name="alert_notice_way_known"),
        Index("alert_notice_waiting", "next_attempt_at", postgresql_where=text("sent_at IS NULL")),
    )
    alert_id: int = Field(sa_column=Column(BigInteger, ForeignKey("alert.id", ondelete="CASCADE"), primary_key=True))
    phase: str = Field(sa_column=_text(primary_key=True))
    way: str = Field(sa_column=_text(primary_key=True))
    created_at: datetime = Field(sa_column=_now())
    next_attempt_at: datetime = Field(sa_column=_now())
    attempts: int = Field(sa_column_kwargs={"server_default": text("0"), "nullable": False})
    sent_at: datetime | None = Field(sa_column=_time())
    error: str | None = Field(sa_column=_text())


class AlertWatch(SQLModel, table=True):
    """One row: the worker that has it locked evaluates the rules, and no other."""

    __tablename__ = "alert_watch"
    __table_args__ = (CheckConstraint("id = 1", name="alert_watch_one"),)
    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    judged_at: datetime | None = Field(sa_column=_time())


class Installation(SQLModel, table=True):
    """Who we are where we share something with others, one row; see `shop.runtime.installation`."""

    __tablename__ = "installation"
    __table_args__ = (CheckConstraint("singleton", name="installation_is_one"),)
    singleton: bool = Field(default=True, primary_key=True, sa_column_kwargs={"server_default": text("true")})
    id: str = Field(sa_column=_text(nullable=False))
    made_at: datetime = Field(sa_column=_now())


class LostRunSearch(SQLModel, table=True):
    """How far runs that died before they stored their order have been looked for: one row. See `shop.orders.lost_runs`."""

    __tablename__ = "lost_run_search"
    __table_args__ = (CheckConstraint("id = 1", name="lost_run_search_one"),)
    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    since: datetime = Field(sa_column=_now())
    searched_until: datetime = Field(sa_column=_now())


# Rows that are updated soon after they are written: with room on their page, an update does not touch the indexes.
for _table in ("customer_order", "order_step"):
    event.listen(SQLModel.metadata.tables[_table], "after_create", DDL("ALTER TABLE %(fullname)s SET (fillfactor = 60)"))  # type: ignore[no-untyped-call]
