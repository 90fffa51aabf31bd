"""Prefect by itself: what an empty flow and a flow of six empty tasks cost, to compare our flows with."""

from __future__ import annotations

from prefect import flow, task


@flow(name="benchmark-empty", validate_parameters=False, persist_result=False)
async def empty_flow() -> None:
    """Does nothing."""


@task(name="benchmark-empty")
async def empty_task() -> None:
    """Does nothing."""


@flow(name="benchmark-empty-tasks", validate_parameters=False, persist_result=False)
async def six_empty_tasks() -> None:
    """Runs six tasks that do nothing, one after the other."""
    for _ in range(6):
        await empty_task()
