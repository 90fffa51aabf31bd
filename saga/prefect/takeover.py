"""Reports takeovers: which instances this run resumed, from which step, and why.

The reports go to the log and to an artifact of this run.
The run that held the instances before gets a link to this run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from saga.definition import Saga
from saga.instance import Instance
from saga.log_context import about_instance

Finished = Callable[[str, UUID], Awaitable[Any]]
"""Gets the id of an instance with which this run has finished, and the run that held it before."""
_SHOWN = 20
"""Limits how many instances are reported one by one."""
_POLL_SECONDS = 0.2
_LIMIT_SECONDS = 300
"""Limits the wait for the ends of the instances, in seconds."""
_reporting: set[asyncio.Task[None]] = set()


def report_takeovers(saga: Saga, instances: Sequence[Instance], *, finished: Finished | None = None) -> None:
    """Logs each instance that another worker had begun, and the number of the rest; a background task creates
    the artifacts.

    `finished`: is called for instances whose worker lost them, once this run has finished with them.
    """
    resumed = [instance for instance in instances if instance.fence > 1]
    if not resumed:
        return
    log, store = get_run_logger(), resumed[0].store
    shown = resumed[:_SHOWN]
    for instance in shown:
        with about_instance(store, instance.id):
            log.info(
                "recovering %s %s (%s): %s; %s",
                store.noun,
                instance.id,
                _why(instance),
                _how_far(saga, instance),
                _then(instance),
            )
    if len(resumed) > len(shown):
        log.info("recovering %d more %ss", len(resumed) - len(shown), store.noun)
    reporting = asyncio.create_task(_create_artifacts(saga, resumed, finished))
    _reporting.add(reporting)
    reporting.add_done_callback(_reporting.discard)


async def wait_for_artifacts() -> None:
    """Waits up to 5 s for the artifacts, before a run ends."""
    if _reporting:
        await asyncio.wait(_reporting, timeout=5)


async def _create_artifacts(saga: Saga, instances: Sequence[Instance], finished: Finished | None) -> None:
    noun = instances[0].store.noun
    try:
        rows = [
            f"| {_safe(i.id)} | {_left_by(i)} | {_why(i)} | {_how_far(saga, i)} | {_then(i)} |"
            for i in instances[:_SHOWN]
        ]
        more = [f"\n... and {len(instances) - len(rows)} more"] if len(instances) > len(rows) else []
        table = [
            f"| {noun} | begun by | why | so far | now |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            *more,
        ]
        description = f"{noun.capitalize()}s that this run took over"
        await acreate_markdown_artifact("\n".join(table), key=f"recovered-{noun}s", description=description)
        lost = [
            instance
            for instance in instances
            if instance.lease_expired and instance.left_by not in {None, str(flow_run.id)}
        ]
        async with get_client() as client:
            for run in sorted({str(instance.left_by) for instance in lost})[:_SHOWN]:
                theirs = [_safe(instance.id) for instance in lost if instance.left_by == run]
                this_run = _link_to_run(flow_run.id, _safe(flow_run.name or "this run"))
                link = f"{this_run} recovered {', '.join(theirs[:_SHOWN])}"
                await client.create_artifact(
                    ArtifactCreate(
                        key="recovered-by",
                        type="markdown",
                        data=link,
                        description=f"The run that continued these {noun}s",
                        flow_run_id=UUID(run),
                    )
                )
        if finished is not None:
            await _wait_for_ends(lost[:_SHOWN], finished)
    except Exception as error:  # noqa: BLE001  (artifacts are optional: instances have priority)
        get_run_logger().warning("the takeover is not shown as an artifact: %s", type(error).__name__)


async def _wait_for_ends(instances: Sequence[Instance], finished: Finished) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LIMIT_SECONDS):
            for instance in instances:
                while not instance.lost:  # noqa: ASYNC110  (it is set in many places, and no one waits for this task)
                    await asyncio.sleep(_POLL_SECONDS)
                await finished(instance.id, UUID(instance.left_by))


def _link_to_run(run_id: object, name: str) -> str:
    """Returns a Markdown link to a run, for an artifact. It is relative, so that it works in the old and the
    new UI, wherever they are served."""
    return f"[{name}](../../runs/flow-run/{run_id})"


def _left_by(instance: Instance) -> str:
    if instance.left_by is None or instance.left_by == str(flow_run.id):
        return ""
    return _link_to_run(instance.left_by, "the run before")


def _why(instance: Instance) -> str:
    if instance.cancel_reason is not None and instance.failure is None:
        return "it has a cancel request"
    return "its worker's lease expired" if instance.lease_expired else "its worker released it"


def _how_far(saga: Saga, instance: Instance) -> str:
    done = [step.name for step in saga if instance.done(step.name)]
    return f"done so far: {', '.join(done)}" if done else "no step done yet"


def _then(instance: Instance) -> str:
    return "its compensation continues" if instance.failure else "it continues"


def _safe(instance_id: str) -> str:
    """Returns the id with only characters that are safe in a table's cell: an id may contain anything."""
    return "".join(c if c.isalnum() or c in "-_.:#~" else "?" for c in instance_id)[:100]
