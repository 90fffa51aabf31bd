"""The saga's loop: runs the steps in their sequence, for any number of instances. There is no other one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from saga.definition import Saga, Step
from saga.instance import Instance

RunStep = Callable[[Step, list[Instance], list[Instance]], Awaitable[Collection[Instance]]]
"""Runs a step for instances whose journal does not have it as done; also gets the others, which are past it.
Returns the instances that leave the loop. The rest must be done, or lost."""


async def run_steps(saga: Saga, instances: Sequence[Instance], run: RunStep) -> list[Instance]:
    """Runs the steps that the instances' journals do not have as done. One instance is a batch of one.

    Returns the instances for which every step is done. Raises what `run` raises.
    """
    together = list(instances)
    for step in saga:
        todo: list[Instance] = []
        done: list[Instance] = []
        for instance in together:
            (done if instance.done(step.name) else todo).append(instance)
        if todo:
            gone = set(await run(step, todo, done))
            together = [instance for instance in together if instance not in gone and not instance.lost]
    return together
