"""Log lines: for people, for machines, both; each process has its own file."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import socket
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
import structlog

from saga.log_context import about, add_source, bind_instance
from shop.monitoring import log_lines
from shop.monitoring.config import monitoring
from shop.monitoring.log_lines import KEPT, Lines
from shop.orders.order import OrderInstance
from shop.orders.store import ORDERS
from shop.settings import settings

log = logging.getLogger("shop.tests")


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets the shop's lines up by this configuration, and as they were afterwards."""

    numbers = itertools.count()

    def configure(text: str = "") -> Path:
        path = tmp_path / f"monitoring-{next(numbers)}.yaml"  # a file is read once
        path.write_text(text)
        monkeypatch.setenv("MONITORING_CONFIG", str(path))
        monkeypatch.setenv("VAR_DIR", str(tmp_path / "var"))
        settings.cache_clear()
        log_lines.configure()
        return monitoring().log_file(settings().var_dir)

    yield configure
    monkeypatch.undo()
    settings.cache_clear()
    log_lines.configure()


def kept(path: Path) -> list[dict[str, Any]]:
    """The lines in all files of this pattern."""
    return [
        json.loads(line)
        for each in sorted(path.parent.glob(path.name))
        for line in each.read_text().splitlines()
    ]


def orders(*ids: str) -> list[OrderInstance]:
    return [OrderInstance(order_id, {}, 1, ORDERS) for order_id in ids]


def test_composite_is_for_people_and_machines(configured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = configured()
    with about("process_payment", orders("O-1")):
        log.info("charged %s with 4242 4242 4242 4242", "jane@doe.example")
    shown = capsys.readouterr().err
    assert "INFO    | shop.tests - charged [mail address] with [card number] [O-1, process_payment]" in shown
    (line,) = kept(path)
    assert (
        line.items()
        >= {
            "event": "charged [mail address] with [card number]",
            "level": "info",
            "logger": "shop.tests",
            "order_id": "O-1",
            "step": "process_payment",
        }.items()
    )
    assert line["timestamp"].endswith("+00:00")


def test_console_writes_no_file_and_file_shows_nothing(
    configured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configured("logging: {default_logger: console}")
    log.info("one")
    assert "one" in capsys.readouterr().err
    assert kept(path) == []
    path = configured("logging: {default_logger: file, level: WARNING}")
    log.info("two")
    log.warning("three")
    assert capsys.readouterr().err == ""
    assert [line["event"] for line in kept(path)] == ["three"]


def test_a_batch_logs_how_many_and_a_single_order_logs_which(configured: Any) -> None:
    def one_continues_alone() -> None:
        bind_instance(orders("B")[0])
        log.info("one of them")

    path = configured("logging: {default_logger: file}")
    with about("check_inventory", orders("A", "B", "C")):
        log.info("batch")
        copy_context().run(one_continues_alone)
    log.info("after", extra={"order_id": "Z"})
    batch, one, after = kept(path)
    assert (batch["orders"], batch.get("order_id"), batch["step"]) == (3, None, "check_inventory")
    assert (one["order_id"], one["step"]) == ("B", "check_inventory")
    assert (after["order_id"], after.get("step")) == ("Z", None)


def test_sources_and_structlog_and_exceptions(configured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saga.log_context._sources", [])
    add_source(lambda: {"flow_run_id": "run-1"})
    path = configured("logging: {default_logger: file}")
    structlog.get_logger("shop.tests").warning(
        "shipped", order_id="O-2", customer={"name": "Jane Doe"}, amount=3
    )
    try:
        int("card 4242424242424242")
    except ValueError:
        log.exception("it broke")
    log.warning("where", stack_info=True)
    shipped, broke, where = kept(path)
    assert "test_sources_and_structlog_and_exceptions" in where["exception"]
    assert (
        shipped.items()
        >= {
            "event": "shipped",
            "order_id": "O-2",
            "amount": 3,
            "customer": {"name": "[masked]"},
            "flow_run_id": "run-1",
        }.items()
    )
    assert "card [card number]" in broke["exception"]
    assert "4242" not in broke["exception"].partition("Error:")[2]


def test_configuring_twice_writes_a_line_once(configured: Any) -> None:
    configured("logging: {default_logger: file}")
    path = configured("logging: {default_logger: file}")
    log.info("once")
    assert len(kept(path)) == 1
    assert sum(isinstance(handler, Lines) for handler in logging.getLogger("shop").handlers) == 1


def test_a_file_that_cannot_be_written_fails_no_caller(
    configured: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in the way").write_text("")
    configured(f"logging: {{default_logger: composite, file_path: '{tmp_path}/in the way/shop.jsonl'}}")
    log.warning("first")
    log.warning("second")
    shown = capsys.readouterr().err
    assert shown.count("cannot be written") == 1
    assert "second" in shown


def test_a_file_is_rotated_and_five_older_ones_are_kept(configured: Any) -> None:
    path = configured("logging: {default_logger: file, max_file_size_mb: 0.01}")
    for number in range(300):
        log.info("line %d %s", number, "x" * 200)
    files = sorted(path.parent.glob(f"{path.name}*"))
    assert len(files) == KEPT + 1
    assert all(file.stat().st_size <= 10_000 for file in files)
    last = [line["event"].split()[1] for line in kept(path)]
    assert last == [str(number) for number in range(300 - len(last), 300)]


def _log_lines(config: str, var_dir: str, who: int) -> None:
    os.environ |= {"MONITORING_CONFIG": config, "VAR_DIR": var_dir}
    settings.cache_clear()
    log_lines.configure()
    for number in range(100):
        log.info("%d of %d", number, who)


def test_several_processes_lose_no_line(configured: Any) -> None:
    path = configured("logging: {default_logger: file, max_file_size_mb: 0.01}")
    fresh = multiprocessing.get_context("spawn")
    writers = [
        fresh.Process(target=_log_lines, args=(os.environ["MONITORING_CONFIG"], os.environ["VAR_DIR"], who))
        for who in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    found = [
        json.loads(line)
        for file in path.parent.glob(f"{path.name}*")
        for line in file.read_text().splitlines()
    ]
    assert len({(line["pid"], line["event"]) for line in found}) == len(found) == 300
    assert {line["pid"] for line in found} == {writer.pid for writer in writers}


def test_files_of_processes_that_have_ended_are_removed_after_a_time(configured: Any) -> None:
    path = configured("logging: {default_logger: file}\nevent_monitoring: {trace_retention_hours: 2}")
    path.parent.mkdir(parents=True)
    host, unused_pid = socket.gethostname(), 2**22 + 1
    files = {
        name: path.with_name(name)
        for name in (
            *(
                f"shop.{host}-{unused_pid}.jsonl",
                f"shop.{host}-{unused_pid}.jsonl.5",
                "shop.elsewhere-1.jsonl",
            ),
            *(
                f"shop.{host}-{os.getppid()}.jsonl",
                f"shop.{host}-{unused_pid - 1}.jsonl",
                "shop.notes.jsonl",
                "shop.jsonl",
            ),
        )
    }
    for name, file in files.items():
        file.write_text("")
        if name != f"shop.{host}-{unused_pid - 1}.jsonl":
            os.utime(file, (0, 0))
    log.info("the first line opens the file")
    gone = {name for name, file in files.items() if not file.exists()}
    assert gone == {
        f"shop.{host}-{unused_pid}.jsonl",
        f"shop.{host}-{unused_pid}.jsonl.5",
        "shop.elsewhere-1.jsonl",
    }


def test_a_forked_process_has_a_file_of_its_own(configured: Any) -> None:
    path = configured("logging: {default_logger: file}")
    log.info("the parent's")
    child = os.fork()
    if not child:
        try:
            log.info("the child's")
            logging.shutdown()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert {line["event"]: line["pid"] for line in kept(path)} == {
        "the parent's": os.getpid(),
        "the child's": child,
    }
    assert len(list(path.parent.glob(path.name))) == 2
