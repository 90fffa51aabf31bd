"""The tables of worker processes, samples, totals and traces."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Column, Index, SmallInteger
from sqlmodel import Field, SQLModel

from saga.columns import creation_time, generated_id, text_column, time_column


class WorkerProcess(SQLModel, table=True):
    """A long-running process: a consumer, the web app, an inventory service."""

    __tablename__ = "worker_process"
    __table_args__ = (Index("worker_process_seen", "seen_at"),)
    id: UUID = Field(primary_key=True)
    kind: str = Field(sa_column=text_column(required=True))
    host: str = Field(sa_column=text_column(required=True))
    pid: int
    flow_run_id: str | None = Field(sa_column=text_column())
    started_at: datetime = Field(sa_column=creation_time())
    seen_at: datetime = Field(sa_column=creation_time())
    every_seconds: float
    """Interval at which it updates `seen_at`."""
    ended_at: datetime | None = Field(sa_column=time_column())
    """When it ended regularly; None also if it was killed."""


class SystemSample(SQLModel, table=True):
    """The resources that a process used at one time. CPU percentages are of one core for the process, and of
    all cores for its machine."""

    __tablename__ = "system_sample"
    __table_args__ = (Index("system_sample_at", "at"),)
    id: int = Field(sa_column=generated_id())
    process_id: UUID
    at: datetime = Field(sa_column=creation_time())
    process_cpu_percent: float | None = None
    process_memory_mb: float | None = None
    cpu_percent: float | None = None
    memory_percent: float | None = None
    disk_percent: float | None = None
    """Usage of the disk with `VAR_DIR`."""
    connections_in_use: int
    connections_open: int
    connections_most: int


class MetricTotal(SQLModel, table=True):
    """A counter that only grows, even if the counted rows are deleted; see
    `shop.monitoring.exposition.reading`."""

    __tablename__ = "metric_total"
    kind: str = Field(sa_column=text_column(primary_key=True))
    name: str = Field(sa_column=text_column(primary_key=True))
    """A step, or a kind of message."""
    result: str = Field(sa_column=text_column(primary_key=True))
    code: str = Field(sa_column=text_column(primary_key=True))
    cell: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    total: int = Field(sa_column=Column(BigInteger, nullable=False))
    seen: int = Field(sa_column=Column(BigInteger, nullable=False))
    """The part of the total that the next reading counts again."""


class MetricReading(SQLModel, table=True):
    """The last reading of the totals: one row."""

    __tablename__ = "metric_reading"
    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    counted_from: datetime | None = Field(sa_column=time_column())
    """Everything that ended before this time is in the totals and is not counted again."""
    read_at: datetime | None = Field(sa_column=time_column())


class TraceSending(SQLModel, table=True):
    """How far traces have been sent: one row."""

    __tablename__ = "trace_sending"
    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    sent_until: datetime = Field(sa_column=time_column(required=True))
