"""Shares of a limit are fair, turns can be resized while calls wait, batches fit the time they take."""

from __future__ import annotations

import asyncio
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from saga.batch_size import BatchSize
from saga.limit import Turns
from saga.shares import Holder, fair_shares

_HOLDERS = st.lists(
    st.tuples(st.integers(min_value=0, max_value=20), st.integers(min_value=1, max_value=20)), max_size=12
)


@given(total=st.integers(min_value=0, max_value=60), among=_HOLDERS)
def test_a_limit_is_divided_fairly(total: int, among: list[tuple[int, int]]) -> None:
    holders = [Holder(UUID(int=i), held, wanted) for i, (held, wanted) in enumerate(among)]
    shares = fair_shares(total, holders)
    got = {holder: shares.get(holder.lease_id, 0) for holder in holders}
    assert sum(got.values()) == min(total, sum(holder.wanted for holder in holders)), "nothing is left unused"
    assert all(share <= holder.wanted for holder, share in got.items())
    short = [share for holder, share in got.items() if share < holder.wanted]
    assert not short or max(got.values()) <= max(short) + 1, (
        "no one has more than one that wants more, but for one"
    )
    if total < len(holders):
        assert all(share <= 1 for share in got.values())
        waiting = [share for holder, share in got.items() if holder.held == 0]
        assert sum(waiting) == min(total, len(waiting)), "those that have nothing are first"


async def test_turns_can_be_resized_while_calls_wait() -> None:
    turns, order = Turns(1), list[int]()

    async def call(number: int) -> None:
        await turns.take()
        order.append(number)

    calls = [asyncio.create_task(call(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert order == [0]
    calls[1].cancel()
    turns.resize(3)
    await asyncio.gather(*calls[2:4])
    assert (order, turns.taken) == ([0, 2, 3], 3), "one that has given up has no turn"
    turns.resize(1)
    turns.give_back()
    turns.give_back()
    await asyncio.sleep(0)
    assert order == [0, 2, 3], "the size is smaller now"
    turns.give_back()
    await calls[4]
    assert turns.taken == 1


async def test_a_turn_that_was_given_to_a_cancelled_call_is_not_lost() -> None:
    turns = Turns(1)
    await turns.take()
    call = asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    turns.give_back()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert turns.taken == 0
    await asyncio.wait_for(turns.take(), 1)


def test_batches_fit_the_time_they_take() -> None:
    size = BatchSize(1_000)
    assert not size.is_probing
    first = size.size
    size.claimed(first)
    assert size.is_probing
    size.ended(first, 0.1)
    assert (size.size, size.is_probing) == (1_000, False)
    size.ended(1_000, 50)
    assert 25 <= size.size <= 100, "such a batch takes five seconds at most"
    for _ in range(10):
        size.ended(size.size, 60)
    small = size.size
    assert 1 < small < 50
    size.ended(1, 0.05)
    assert size.size == small, "a batch of one says nothing about large ones"
    size.ended(small, 0.1)
    size.ended(size.size, 0.1)
    assert size.size == 1_000
    assert BatchSize(3).size == 3
