"""The configuration of monitoring: the YAML file in `MONITORING_CONFIG`, or the defaults.

All errors in the file are reported at once, each with the path of its key.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shop.runtime.home import HOME
from shop.settings import settings

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
_UNKNOWN = "extra_forbidden"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Logging(_Part):
    """Where log lines go."""

    default_logger: Literal["composite", "console", "file"] = "composite"
    """`console`: for people, on standard error. `file`: JSON lines, for machines. `composite`: both."""
    level: Level | None = None
    """None: `LOG_LEVEL` applies."""
    file_path: str | None = Field(default=None, min_length=1)
    """From the project's folder, unless it is absolute. None: `logs/shop.jsonl` in `VAR_DIR`. Host and pid
    are inserted into the name (`shop.HOST-PID.jsonl`): each process has its own file."""
    max_file_size_mb: float = Field(default=50, ge=0.01, le=10_000)
    """Size at which a process begins a new file; it keeps five older ones."""


class EventMonitoring(_Part):
    """Metrics of events: steps, compensations and messages that ended."""

    enabled: bool = True
    trace_retention_hours: float = Field(default=48, gt=0, le=24 * 366)
    """How long samples of processes, and log files of processes that have ended, are kept. Orders and their
    journal stay."""
    track_payload_size: bool = True


class WorkerMonitoring(_Part):
    """Metrics of the steps, and of the processes that run them; alerts."""

    enabled: bool = True
    health_check_interval_seconds: float = Field(default=15, ge=1, le=3600)
    """Heartbeat interval of long-running processes. One without a heartbeat for three intervals counts as
    lost."""
    performance_window_minutes: float = Field(default=30, gt=0, le=366 * 24 * 60)
    """Default window of metrics."""
    alert_on_high_error_rate: bool = True
    error_rate_threshold: float = Field(default=0.05, gt=0, lt=1)
    """A share: 0.05 is one in twenty."""


class MetricsCollection(_Part):
    """Samples of what processes use."""

    enabled: bool = True
    collection_interval_seconds: float = Field(default=30, ge=1, le=3600)
    include_system_metrics: bool = True
    """CPU, memory and disk; without it only the connections to the database."""


class Monitoring(_Part):
    """The whole file. Keys that are missing have their defaults."""

    logging: Logging = Logging()
    event_monitoring: EventMonitoring = EventMonitoring()
    worker_monitoring: WorkerMonitoring = WorkerMonitoring()
    metrics_collection: MetricsCollection = MetricsCollection()

    def log_file(self, var_dir: Path, process: str = "*") -> Path:
        """Returns the JSON lines file of a process (host and pid); `*` returns the pattern of all names."""
        given = self.logging.file_path
        path = HOME / Path(given).expanduser() if given else var_dir / "logs" / "shop.jsonl"
        return path.with_name(f"{path.stem}.{process}{path.suffix}")


class MonitoringConfigError(ValueError):
    """The file is invalid. `problems` has one line per error."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.path, self.problems = path, tuple(problems)
        super().__init__(f"{path}: " + "; ".join(problems))


def load(path: Path) -> Monitoring:
    """Reads a file. Raises MonitoringConfigError if it is missing or not YAML, or a key or value is
    invalid."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise MonitoringConfigError(path, [f"cannot be read ({why})"]) from error
    except yaml.YAMLError as error:
        raise MonitoringConfigError(path, [_describe(error)]) from error
    if content is None:
        return Monitoring()
    if not isinstance(content, dict):
        raise MonitoringConfigError(path, [f"must be keys and values, not a {type(content).__name__}"])
    try:
        return Monitoring.model_validate(
            {key: {} if value is None else value for key, value in content.items()}
        )
    except ValidationError as error:
        raise MonitoringConfigError(
            path, [_problem(each) for each in error.errors(include_url=False)]
        ) from error


def monitoring() -> Monitoring:
    """Returns the configuration of this process, read once. Raises MonitoringConfigError."""
    path = settings().monitoring.config
    return Monitoring() if path is None else _loaded(HOME / path.expanduser())


@lru_cache
def _loaded(path: Path) -> Monitoring:
    return load(path)


def _problem(error: Any) -> str:
    path = [str(each) for each in error["loc"]]
    where = ".".join(path)
    if error["type"] == _UNKNOWN:
        alike = get_close_matches(path[-1], _keys(path[:-1]), n=1)
        return f"{where}: unknown key" + (
            f"; did you mean {'.'.join([*path[:-1], alike[0]])}?" if alike else ""
        )
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}, not {str(error['input'])[:80]!r}"


def _keys(path: list[str]) -> list[str]:
    model: Any = Monitoring
    for each in path:
        if each not in model.model_fields:
            return []
        model = model.model_fields[each].annotation
    return list(model.model_fields)


def _describe(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"is not YAML{where}: {getattr(error, 'problem', None) or type(error).__name__}"


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys: YAML's own reader silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key.value}", key.start_mark
                )
            seen.add(key.value)
        return dict(super().construct_mapping(node, deep))
