"""Whoever follows README's example of a new step breaks no test that reads the table of steps."""

from __future__ import annotations

from pathlib import Path

from tests.readme_example import HOME, follow, run


def test_no_test_that_reads_the_table_breaks(tmp_path: Path) -> None:
    readers = [file for file in (HOME / "tests" / "unit").glob("test_*.py") if "flows.order_saga" in file.read_text(encoding="utf-8")]
    names = [str(file.relative_to(HOME)) for file in readers if file != Path(__file__)]
    assert len(names) >= 3
    run(follow(tmp_path), "-m", "pytest", "-q", "-p", "no:cacheprovider", *sorted(names))
