"""The engine's only part that imports Prefect: steps as tasks, and runs, batches and recovery in flows."""

from __future__ import annotations

from saga.prefect.batch import BatchRunner
from saga.prefect.compensation import compensate
from saga.prefect.consumer import Consumer
from saga.prefect.instance_run import InstanceRun, process, recover
from saga.prefect.run import run_saga
from saga.prefect.steps import (
    database_compensation,
    database_step,
    external_compensation,
    external_step,
    reading_step,
    worth_retrying,
)
from saga.prefect.takeover import report_takeovers
from saga.prefect.termination import cancelled_by_sigterm

__all__ = [
    "BatchRunner",
    "Consumer",
    "InstanceRun",
    "cancelled_by_sigterm",
    "compensate",
    "database_compensation",
    "database_step",
    "external_compensation",
    "external_step",
    "process",
    "reading_step",
    "recover",
    "report_takeovers",
    "run_saga",
    "worth_retrying",
]
