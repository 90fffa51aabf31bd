"""Files and folders that only their owner may read, and that leave alone what is not ours."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shop.monitoring.log_lines import _JsonFile
from shop.notifications.maildir import Maildir
from shop.notifications.message import Mail
from shop.payments.sandbox.ledger import Ledger
from shop.runtime.files import PRIVATE_FILE, make_private, tighten, write_atomic
from tests.private import open_to_others

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """The one of most systems: others may read."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


def test_all_that_is_written_is_private(tmp_path: Path) -> None:
    var = tmp_path / "deep" / "var"
    write_atomic(var / "labels" / "A.pdf", b"label")
    Maildir(var / "mail").write("A.confirmation.eml", Mail("shop@example.com", "a@example.com", b"mail"))
    log = _JsonFile(var / "logs" / "shop.1.jsonl", 10, PRIVATE_FILE)
    for line in ("a long line", "another"):
        log.handle(logging.makeLogRecord({"_json": line}))
    log.close()
    ledger = Ledger(var / "sandbox" / "ledger.sqlite")
    ledger.create(
        order_id="A", amount=1, currency="USD", method="card", card_last4="4242", token=None, key=None
    )
    assert {
        "A.pdf",
        "A.confirmation.eml",
        "shop.1.jsonl",
        "shop.1.jsonl.1",
        "ledger.sqlite",
        "ledger.sqlite-wal",
    } <= {path.name for path in var.rglob("*")}
    assert open_to_others(var) == []
    assert _mode(tmp_path / "deep") == 0o700
    ledger.close()


def test_folders_that_were_there_stay_as_they_are(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    make_private(theirs / "ours" / "labels")
    make_private(theirs)
    assert (_mode(theirs), _mode(theirs / "ours")) == (0o755, 0o700)
    make_private(theirs, ours=True)
    assert _mode(theirs) == 0o700


@as_root
def test_a_group_may_only_pass_through(tmp_path: Path) -> None:
    make_private(tmp_path / "var", 1234)
    assert (_mode(tmp_path / "var"), (tmp_path / "var").stat().st_gid) == (0o710, 1234)


def test_what_an_earlier_version_left_open_is_closed(tmp_path: Path) -> None:
    for name in (
        "labels/A.pdf",
        "mail/new/A.eml",
        "logs/shop.jsonl",
        "sandbox/ledger.sqlite",
        "run/worker.pid",
        "prefect/storage/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("private")
    (tmp_path / "run.env").write_text("private")
    assert len(open_to_others(tmp_path)) > 12
    tmp_path.chmod(0o711)
    tighten(tmp_path)
    tmp_path.chmod(0o700)
    assert open_to_others(tmp_path) == []


def test_what_is_not_ours_stays_as_it_is(tmp_path: Path) -> None:
    """Somebody set VAR_DIR to a folder with other things in it."""
    var, elsewhere = tmp_path / "var", tmp_path / "elsewhere"
    (var / "letters").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "file").write_text("theirs")
    (var / "labels").symlink_to(elsewhere)
    (var / "mail").mkdir()
    (var / "mail").chmod(0o2775)  # as /var/mail, set up by a person
    (var / "logs").mkdir()
    (var / "logs" / "linked").hardlink_to(elsewhere / "file")
    (var / "logs" / "link").symlink_to(elsewhere / "file")
    (var / "run").mkdir(mode=0o755)
    others = [var, var / "letters", elsewhere, elsewhere / "file", var / "mail"]
    if os.geteuid() == 0:
        os.chown(var / "run", 4321, 4321)
        others.append(var / "run")
    before = [_mode(path) for path in others]
    tighten(var)
    assert [_mode(path) for path in others] == before
    assert _mode(var / "logs") == 0o700


def test_nothing_there_is_no_failure(tmp_path: Path) -> None:
    tighten(tmp_path / "none")


def test_a_log_elsewhere_may_be_read_by_its_group(tmp_path: Path) -> None:
    log = _JsonFile(tmp_path / "shop.jsonl", 1000, 0o640)
    log.handle(logging.makeLogRecord({"_json": "line"}))
    log.close()
    assert _mode(tmp_path / "shop.jsonl") == 0o640
