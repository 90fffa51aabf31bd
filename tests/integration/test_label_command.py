"""`order-saga label`: labels as files and on standard output."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pypdf import PdfReader

from deployments.cli import order_saga
from flows.process_order import process_order
from saga.database import NotWritten
from shop.orders.names import file_stems
from shop.shipping.labels.stored import Label, find_label
from tests.integration.world import World, an_order


@pytest.fixture
async def shipped(saga: World, unique: str) -> list[str]:
    ids = [f"PARCEL-{unique}-{i}" for i in range(2)] + [f"../{unique} x"]
    for order_id in ids:
        await process_order(an_order(order_id), return_state=True)
    return ids


def names(order_ids: list[str], suffix: str) -> set[str]:
    return {f"{file_stems(order_id)[0]}.{suffix}" for order_id in order_ids}


async def test_one_order(shipped: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert order_saga(["label", shipped[0], "--output", str(folder)]) == 0
    (file,) = folder.iterdir()
    assert file.name in names(shipped, "pdf")
    assert str(file) in capfd.readouterr().out
    assert f"Order: {shipped[0]}" in PdfReader(io.BytesIO(file.read_bytes())).pages[0].extract_text()


async def test_all_that_left_in_a_window(saga: World, shipped: list[str], tmp_path: Path) -> None:
    """But those whose parcel came back, and those that left before."""
    saga.sql("UPDATE shipment SET created_at = now() - interval '2 days' WHERE order_id = :id", id=shipped[1])
    folder = tmp_path / "out"
    assert order_saga(["label", "--shipped-within", "24h", "--format", "zpl", "--output", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == names([shipped[0], shipped[2]], "zpl")
    saga.sql("UPDATE shipment SET returned_at = now() WHERE order_id = :id", id=shipped[0])
    (again := tmp_path / "again").mkdir()
    assert order_saga(["label", "--shipped-within", "24h", "--output", str(again)]) == 0
    assert {path.name for path in again.iterdir()} == names([shipped[2]], "pdf")


async def test_to_a_printer(shipped: list[str], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert order_saga(["label", *shipped, "--format", "zpl", "--dpi", "300", "--output", "-"]) == 0
    assert capfdbinary.readouterr().out.count(b"^XA^CI28^PW1200") == len(shipped)


@pytest.mark.parametrize("failure", [NotWritten("gone"), OSError(28, "No space left on device")])
async def test_a_failure_keeps_the_labels_before_it_and_reports_how_many(
    shipped: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
) -> None:
    async def until_the_third(order_id: str) -> Label:
        if order_id == shipped[2]:
            raise failure
        return await find_label(order_id)

    monkeypatch.setattr("deployments.cli.look.find_label", until_the_third)
    assert order_saga(["label", "--shipped-within", "24h", "--output", str(tmp_path / "out")]) == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == names(shipped[:2], "pdf")
    assert "Of 3 labels, 2 were written" in capfd.readouterr().err


async def test_what_cannot_be_written(
    shipped: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The other labels are still written."""
    folder = tmp_path / "out"
    assert order_saga(["label", "NO-SUCH-ORDER", shipped[0], "--output", str(folder)]) == 1
    assert "NO-SUCH-ORDER" in capfd.readouterr().err
    assert {path.name for path in folder.iterdir()} == names(shipped[:1], "pdf")
    (tmp_path / "file").touch()
    for wrong in (
        ["label"],
        ["label", "--shipped-within", "yesterday"],
        ["label", shipped[0], "--format", "epl"],
        ["label", shipped[0], "--output", str(tmp_path / "file")],
    ):
        assert order_saga(wrong) == 2, wrong
