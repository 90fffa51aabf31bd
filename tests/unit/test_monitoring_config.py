"""monitoring.yaml: what is wrong is named by its key, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from shop.monitoring.config import Monitoring, MonitoringConfigError, load, monitoring
from shop.runtime.home import HOME
from shop.settings import settings

EXAMPLE = HOME / "deployments" / "monitoring" / "monitoring.yaml"


def written(folder: Path, text: str) -> Path:
    path = folder / "monitoring.yaml"
    path.write_text(text)
    return path


def test_the_example_has_the_defaults_and_every_key() -> None:
    loaded = load(EXAMPLE)
    assert loaded == Monitoring().model_copy(
        update={"logging": Monitoring().logging.model_copy(update={"level": "INFO"})}
    )
    text = EXAMPLE.read_text()
    for part, model in Monitoring():
        assert f"\n{part}:" in text
        assert all(f"{key}:" in text for key in type(model).model_fields)


def test_what_the_file_says_counts(tmp_path: Path) -> None:
    text = """
logging: {default_logger: file, level: DEBUG, file_path: /some/where.jsonl, max_file_size_mb: 5}
event_monitoring: {enabled: false, trace_retention_hours: 24, track_payload_size: false}
worker_monitoring:
  enabled: true
  health_check_interval_seconds: 5
  performance_window_minutes: 10
  alert_on_high_error_rate: false
  error_rate_threshold: 0.1
metrics_collection: {enabled: false, collection_interval_seconds: 7, include_system_metrics: false}
"""
    loaded = load(written(tmp_path, text))
    assert (loaded.logging.default_logger, loaded.logging.level, loaded.logging.max_file_size_mb) == (
        "file",
        "DEBUG",
        5,
    )
    assert loaded.log_file(tmp_path) == Path("/some/where.*.jsonl")
    assert not loaded.event_monitoring.enabled
    assert loaded.worker_monitoring.error_rate_threshold == 0.1
    assert loaded.metrics_collection.collection_interval_seconds == 7


def test_everything_wrong_is_named_at_once(tmp_path: Path) -> None:
    text = """
logging: {level: LOUD, file_pth: x}
worker_monitoring: {error_rate_threshold: 5, enabled: maybe}
metrics: {enabled: true}
event_monitoring: 7
"""
    with pytest.raises(MonitoringConfigError) as wrong:
        load(written(tmp_path, text))
    problems = {problem.partition(":")[0]: problem for problem in wrong.value.problems}
    assert set(problems) == {
        "logging.level",
        "logging.file_pth",
        "worker_monitoring.error_rate_threshold",
        "worker_monitoring.enabled",
        "metrics",
        "event_monitoring",
    }
    assert "did you mean logging.file_path?" in problems["logging.file_pth"]
    assert "less than 1, not '5'" in problems["worker_monitoring.error_rate_threshold"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("logging: [\n", "is not YAML at line"),
        ("logging: {level: INFO, level: DEBUG}", "duplicate key level"),
        ("- a\n- b\n", "must be keys and values"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(MonitoringConfigError, match=expected):
        load(written(tmp_path, text))


def test_a_file_that_is_not_there_is_an_error_and_none_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(written(tmp_path, "# nothing\n")) == Monitoring()
    monkeypatch.delenv("MONITORING_CONFIG", raising=False)
    settings.cache_clear()
    assert monitoring() == Monitoring()
    monkeypatch.setenv("MONITORING_CONFIG", str(tmp_path / "none.yaml"))
    settings.cache_clear()
    try:
        with pytest.raises(MonitoringConfigError, match=r"none\.yaml: cannot be read \(No such file"):
            monitoring()
    finally:
        settings.cache_clear()
