"""Log lines: for people, for machines, both; from several processes into one file."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from shop import logs
from shop.monitoring.config import monitoring
from shop.monitoring.log_context import about, about_order, add_source
from shop.monitoring.log_lines import Lines
from shop.monitoring.shared_file import KEPT, SharedFile
from shop.settings import settings
from shop.under_way import OrderUnderWay

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
        logs.configure()
        return monitoring().log_file(settings().var_dir)

    yield configure
    monkeypatch.undo()
    settings.cache_clear()
    logs.configure()


def kept(path: Path) -> list[dict[str, Any]]:
    for handler in logging.getLogger("shop").handlers:
        handler.flush()
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def orders(*ids: str) -> list[OrderUnderWay]:
    return [OrderUnderWay(order_id, {}, 1) for order_id in ids]


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


def test_console_writes_no_file_and_file_shows_nothing(configured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = configured("logging: {default_logger: console}")
    log.info("one")
    assert "one" in capsys.readouterr().err
    assert kept(path) == []
    path = configured("logging: {default_logger: file, level: WARNING}")
    log.info("two")
    log.warning("three")
    assert capsys.readouterr().err == ""
    assert [line["event"] for line in kept(path)] == ["three"]


def test_a_batch_says_how_many_and_an_order_beside_it_says_which(configured: Any) -> None:
    path = configured("logging: {default_logger: file}")
    with about("check_inventory", orders("A", "B", "C")):
        log.info("batch")
        about_order("B")
        log.info("one of them")
    log.info("after", extra={"order_id": "Z"})
    batch, one, after = kept(path)
    assert (batch["orders"], batch.get("order_id"), batch["step"]) == (3, None, "check_inventory")
    assert (one["order_id"], one["step"]) == ("B", "check_inventory")
    assert (after["order_id"], after.get("step")) == ("Z", None)


def test_sources_and_structlog_and_exceptions(configured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shop.monitoring.log_context._sources", [])
    add_source(lambda: {"flow_run_id": "run-1"})
    path = configured("logging: {default_logger: file}")
    structlog.get_logger("shop.tests").warning("told", order_id="O-2", customer={"name": "Jane Doe"}, amount=3)
    try:
        int("card 4242424242424242")
    except ValueError:
        log.exception("it broke")
    log.warning("where", stack_info=True)
    told, broke, where = kept(path)
    assert "test_sources_and_structlog_and_exceptions" in where["exception"]
    assert (
        told.items() >= {"event": "told", "order_id": "O-2", "amount": 3, "customer": {"name": "[masked]"}, "flow_run_id": "run-1"}.items()
    )
    assert "card [card number]" in broke["exception"]
    assert "4242" not in broke["exception"].partition("Error:")[2]


def test_configuring_twice_writes_a_line_once(configured: Any) -> None:
    configured("logging: {default_logger: file}")
    path = configured("logging: {default_logger: file}")
    log.info("once")
    assert len(kept(path)) == 1
    assert sum(isinstance(handler, Lines) for handler in logging.getLogger("shop").handlers) == 1


def test_a_file_that_cannot_be_written_fails_nobody(configured: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in the way").write_text("")
    configured(f"logging: {{default_logger: composite, file_path: '{tmp_path}/in the way/shop.jsonl'}}")
    log.warning("first")
    log.warning("second")
    shown = capsys.readouterr().err
    assert shown.count("cannot be written") == 1
    assert "second" in shown


def _write(path: Path, who: int, lines: int) -> None:
    file = SharedFile(path, 20_000)
    for number in range(lines):
        file.write_all([json.dumps({"who": who, "number": number, "pad": "x" * 60}).encode() + b"\n"])


def test_several_processes_write_one_rotating_file(tmp_path: Path) -> None:
    path, lines = tmp_path / "logs" / "shop.jsonl", 250
    fresh = multiprocessing.get_context("spawn")
    writers = [fresh.Process(target=_write, args=(path, who, lines)) for who in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    files = sorted(path.parent.glob("shop.jsonl*"))
    written = [file for file in files if file.name != "shop.jsonl.lock"]
    assert 3 < len(written) <= KEPT + 1
    assert all(file.stat().st_size <= 20_300 for file in written), "a line of each of the others may come while it is renamed"
    found = [json.loads(line) for file in written for line in file.read_text().splitlines()]
    assert len({(line["who"], line["number"]) for line in found}) == len(found) == 3 * lines, "whole lines, none lost, none twice"


def test_a_forked_process_writes_its_own_lines_only(configured: Any) -> None:
    path = configured("logging: {default_logger: file}")
    log.info("gathered by the parent")
    child = os.fork()
    if not child:
        try:
            log.info("the child's")
            logging.shutdown()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert sorted(line["event"] for line in kept(path)) == ["gathered by the parent", "the child's"]
