"""SIGTERM ends a flow run, whichever of its asyncio tasks is running when it comes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
from prefect.exceptions import TerminationSignal
from prefect.utilities.engine import can_ack_control_intent, capture_sigterm

from saga.prefect.termination import cancelled_by_sigterm


@pytest.fixture
def as_in_a_flow_run() -> Iterator[None]:
    """Prefect's handler: it raises in whatever code is running."""

    def terminate(number: int, *_: object) -> None:
        raise TerminationSignal(signal.Signals(number))

    before = signal.signal(signal.SIGTERM, terminate)
    yield
    assert signal.signal(signal.SIGTERM, before) is terminate, "Prefect's handler was not put back"


@pytest.mark.usefixtures("as_in_a_flow_run")
async def test_a_signal_that_interrupts_a_background_task_ends_the_run() -> None:
    steps: list[str] = []

    async def in_the_background() -> None:
        signal.raise_signal(signal.SIGTERM)
        steps.append("the background task goes on")
        await asyncio.Event().wait()

    async def run() -> None:
        async with asyncio.timeout(10), cancelled_by_sigterm():
            background = asyncio.create_task(in_the_background())
            try:
                await asyncio.Event().wait()
            finally:
                signal.raise_signal(signal.SIGTERM)  # a second one, from somebody in a hurry
                await asyncio.sleep(0.01)
                background.cancel()
                steps.append("the run cleans up")

    with pytest.raises(TerminationSignal):
        await run()
    assert steps == ["the background task goes on", "the run cleans up"]


@pytest.mark.usefixtures("as_in_a_flow_run")
async def test_a_signal_that_comes_as_the_run_ends_is_not_lost() -> None:
    async def run() -> None:
        async with cancelled_by_sigterm():
            signal.raise_signal(signal.SIGTERM)
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(10)

    with pytest.raises(TerminationSignal):
        await run()


@pytest.mark.usefixtures("as_in_a_flow_run")
async def test_a_cancellation_without_a_signal_stays_one() -> None:
    async def run() -> None:
        async with cancelled_by_sigterm():
            await asyncio.Event().wait()

    running = asyncio.create_task(run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.usefixtures("as_in_a_flow_run")
async def test_prefect_still_accepts_a_request_to_cancel_the_run() -> None:
    """Else a cancelled run would end as crashed."""
    with capture_sigterm():
        async with cancelled_by_sigterm():
            assert can_ack_control_intent()
        assert can_ack_control_intent()


async def test_nothing_changes_outside_of_the_main_thread() -> None:
    async def run() -> int:
        async with cancelled_by_sigterm():
            return 1

    assert await asyncio.to_thread(asyncio.run, run()) == 1
