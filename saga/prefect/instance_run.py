"""Runs one instance in one flow run: claims it under the run's lease and takes it to its outcome, unless
another worker does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from saga import claims, wakeup
from saga.configuration import config
from saga.database import Tx, is_database_error, retry_while_database_down, transaction
from saga.definition import Saga
from saga.errors import LeaseLost
from saga.instance import SagaInstance
from saga.lease import lease, release_all
from saga.prefect.batch import run_claimed
from saga.prefect.run import run_saga
from saga.prefect.termination import cancelled_by_sigterm
from saga.store import SagaStore
from saga.submission import read_outcome, submit
from saga.wakeup import Listener

P = TypeVar("P")


class InstanceRun(Generic[P]):
    """A flow run that takes one instance to its outcome."""

    def __init__(self, saga: Saga, store: SagaStore[P], lease_id: UUID, listener: Listener) -> None:
        self.saga, self.store = saga, store
        self._lease, self._listener = lease_id, listener
        self.instance_id = ""

    @property
    def log(self) -> Any:
        return get_run_logger()

    async def claim(self, instance_id: str | None = None) -> SagaInstance[P] | None:
        """Claims the instance. None: another worker has it,
        it is postponed, or the database is unavailable."""
        try:
            async with transaction(claims.CLAIMING) as tx:
                return await self._claim(tx, instance_id or self.instance_id)
        except Exception as error:  # noqa: BLE001  (`release_after` raises what is no database error)
            await self.release_after(error)
            return None

    async def _claim(self, tx: Tx, instance_id: str) -> SagaInstance[P] | None:
        known = self.saga.names
        claimed = await claims.claim(
            tx, self.store, self._lease, most=1, ids=[instance_id], flow_run_id=run_id(), known=known
        )
        return claimed[0] if claimed else None

    async def run(self, instance: SagaInstance[P], *, leaving: bool = False) -> None:
        """Runs the saga from where the instance's journal ends. Decides nothing if another worker takes the
        instance over, or if the database becomes unavailable. `leaving`: another cancellation of the run ends
        it, and does not concern the instance."""
        try:
            await run_saga(self.saga, instance, None if leaving else self)
        except LeaseLost:
            self.log.warning("instance %s has been taken over by another worker", instance.id)
        except Exception as error:  # noqa: BLE001  (`release_after` raises what is no database error)
            await self.release_after(error)
            await self.wait_for_change()

    async def wait_for_change(self) -> None:
        """Waits until an instance has ended somewhere, or for the poll interval."""
        await self._listener.wait(config().poll_seconds)

    async def release_after(self, error: Exception) -> None:
        """Releases what this run may hold after a database error. Raises any other error."""
        if not is_database_error(error):
            raise error
        self.log.warning(
            "the database is unavailable (%s); instance %s continues when it is back",
            type(error).__name__,
            self.instance_id,
        )
        await retry_while_database_down(lambda: release_all(self.store, self._lease))

    async def withdraw(self, _instance_id: str | None) -> list[str] | None:
        """A cancelled run says only that its process has to end; an owner may cancel the instance instead."""
        return None


async def process(saga: Saga, store: SagaStore[Any], instance_id: str, content: Mapping[str, Any]) -> str:
    """Stores the instance and takes it to its outcome, which it returns. The same instance again returns the
    first one's outcome.

    Raises `InstanceConflict` if another instance is stored under its id.
    """
    async with (
        cancelled_by_sigterm(),
        lease(store) as lease_id,
        wakeup.listening_when_waiting(store, wakeup.FINISHED) as listener,
    ):
        run = InstanceRun(saga, store, lease_id, listener)
        run.instance_id = instance_id
        await retry_while_database_down(lambda: _submit(store, instance_id, content))
        while (outcome := await retry_while_database_down(lambda: _read_outcome(store, instance_id))) is None:
            if (claimed := await run.claim()) is None:
                await run.wait_for_change()  # another worker has it, or it is postponed
            else:
                await run.run(claimed)
        return outcome


async def recover(saga: Saga, store: SagaStore[Any]) -> int:
    """Takes instances that wait, or whose worker died, to their outcomes. Returns how many there were."""

    async def claim(lease_id: UUID, survived: int) -> Sequence[SagaInstance[Any]]:
        most = config().batch_size
        return await claims.claim_batch(
            store, lease_id, most=most, flow_run_id=run_id(), known=saga.names, survived=survived
        )

    return await run_claimed(saga, store, claim)


def run_id() -> str | None:
    """The id of this flow run."""
    return str(flow_run.id) if flow_run.id else None


async def _submit(store: SagaStore[Any], instance_id: str, content: Mapping[str, Any]) -> None:
    async with transaction() as tx:
        await submit(tx, store, instance_id, content)


async def _read_outcome(store: SagaStore[Any], instance_id: str) -> str | None:
    async with transaction() as tx:
        return await read_outcome(tx, store, instance_id)
