"""Checks the monitoring configuration: reports its errors, or what it sets."""

from __future__ import annotations

from deployments.check.finding import Finding, State
from shop.monitoring.config import MonitoringConfigError, monitoring
from shop.runtime.home import HOME
from shop.settings import Settings

PART = "monitoring"
_REMEDY = "see MONITORING_CONFIG, and deployments/monitoring/monitoring.yaml for every key"


def wrong_monitoring() -> list[Finding]:
    """Returns one finding per error in the file."""
    try:
        monitoring()
    except MonitoringConfigError as error:
        return [
            Finding(PART, State.WRONG, f"{error.path.name}: {problem}", _REMEDY) for problem in error.problems
        ]
    return []


def monitoring_finding() -> Finding:
    """Returns where log lines go. Raises MonitoringConfigError."""
    config, settings = monitoring(), Settings()
    off = [name for name, part in config if not getattr(part, "enabled", True)]
    where = {
        "console": "log lines on the console",
        "file": "log lines in {}",
        "composite": "log lines on the console and in {}",
    }
    file = config.log_file(settings.var_dir)
    shown = str(file.relative_to(HOME)) if file.is_relative_to(HOME) else str(file)
    what = where[config.logging.default_logger].format(shown) + (f"; off: {', '.join(off)}" if off else "")
    return Finding(PART, State.REAL if settings.monitoring.config else State.EMBEDDED, what)
