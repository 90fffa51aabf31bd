"""A saga engine: steps with compensations, a journal in PostgreSQL, and workers that take over from each
other.

README.md in this folder has the guarantees, the protocol and the public API: what is exported here and in
`saga.prefect`, and some modules.
"""

from __future__ import annotations

from saga.cancelling import Asked, request_cancellation, withdraw
from saga.checkpoints import checkpoint
from saga.configuration import EngineSettings, config, provide
from saga.database import Tx, transaction
from saga.definition import Kind, Saga, SagaDefinitionError, Step
from saga.errors import LeaseLost, StepError
from saga.execution import ExternalAction
from saga.finish import BLOCKED_SECONDS
from saga.hooks import Ending, Hooks
from saga.instance import SagaInstance
from saga.limit import Limit
from saga.outcome import COMPENSATED, COMPLETED, NEEDS_ATTENTION, Compensation
from saga.shares import share
from saga.store import SagaStore
from saga.submission import InstanceConflict, read_outcome, submit
from saga.tables import create_tables

__all__ = [
    "BLOCKED_SECONDS",
    "COMPENSATED",
    "COMPLETED",
    "NEEDS_ATTENTION",
    "Asked",
    "Compensation",
    "Ending",
    "EngineSettings",
    "ExternalAction",
    "Hooks",
    "InstanceConflict",
    "Kind",
    "LeaseLost",
    "Limit",
    "Saga",
    "SagaDefinitionError",
    "SagaInstance",
    "SagaStore",
    "Step",
    "StepError",
    "Tx",
    "checkpoint",
    "config",
    "create_tables",
    "provide",
    "read_outcome",
    "request_cancellation",
    "share",
    "submit",
    "transaction",
    "withdraw",
]
