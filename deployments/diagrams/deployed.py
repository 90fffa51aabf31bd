"""What `prefect.yaml` says: the deployments, and when they run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Deployed:
    """One deployment."""

    name: str
    module: str
    schedules: tuple[str, ...]
    """For people: `every 5 min`, or the cron expression."""


def deployed(home: Path) -> tuple[Deployed, ...]:
    """All deployments, in the sequence of the file."""
    described = yaml.safe_load((home / "prefect.yaml").read_text(encoding="utf-8"))
    return tuple(
        Deployed(each["name"], each["entrypoint"].rpartition(".")[0], tuple(_words(schedule) for schedule in each.get("schedules", ())))
        for each in described["deployments"]
    )


def _words(schedule: dict[str, Any]) -> str:
    if "cron" in schedule:
        return f"cron {schedule['cron']} {schedule.get('timezone', 'UTC')}"
    seconds = schedule["interval"]
    return f"every {seconds // 60} min" if seconds % 60 == 0 else f"every {seconds} s"
