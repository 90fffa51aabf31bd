"""Postpones instances whose step cannot succeed now because something external is unavailable."""

from __future__ import annotations

from collections.abc import Mapping

from prefect.logging import get_logger

from saga.errors import StepError
from saga.finish import postpone
from saga.instance import Instance

log = get_logger("saga")


def is_postponement(failure: BaseException) -> bool:
    """Returns whether the failure only postpones the instance: nothing is decided about it."""
    return isinstance(failure, StepError) and failure.retry_after is not None


async def postpone_failed(failures: Mapping[Instance, StepError]) -> None:
    """Releases the instances; any worker can claim them after the pause that their failures give."""
    for code in sorted({failure.code for failure in failures.values()}):
        instances = [instance for instance, failure in failures.items() if failure.code == code]
        seconds = max(failures[instance].retry_after or 0 for instance in instances)
        what = f"instance {instances[0].id}" if len(instances) == 1 else f"{len(instances)} instances"
        log.warning("%s postponed for %.0f s: %s", what, seconds, failures[instances[0]])
        await postpone(instances, seconds, failures[instances[0]])
