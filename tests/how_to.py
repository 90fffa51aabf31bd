"""Markdown pages of this project: their code blocks,
and a copy of the project to which a how-to page was applied.

A block of a how-to page says in a comment before it what to do with it: `<!-- create: PATH -->` the file,
`<!-- insert: PATH before: LINE -->` or `after:` a line that starts so,
`<!-- change: PATH -->` with a diff of whole lines.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent
_NOT_COPIED = shutil.ignore_patterns(".*", "var", "node_modules", "__pycache__")
_BLOCK = re.compile(
    r"^(?:<!-- (?P<comment>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_ACTION = re.compile(
    r"(?P<action>create|insert|change): (?P<path>\S+)(?: (?P<place>before|after): (?P<line>.*))?"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block."""

    language: str
    text: str
    comment: str
    """The comment in the line before it; empty if there is none."""

    @property
    def created(self) -> str | None:
        """The file that the how-to page creates with it."""
        action = _ACTION.fullmatch(self.comment)
        return action["path"] if action and action["action"] == "create" else None

    @property
    def is_applied(self) -> bool:
        """Whether the how-to page changes the project by it."""
        return _ACTION.fullmatch(self.comment) is not None


def pages() -> list[Path]:
    """The project's documentation."""
    beside_code = (HOME / folder / "README.md" for folder in ("saga", "benchmarks"))
    return [*sorted(HOME.glob("*.md")), *sorted((HOME / "docs").rglob("*.md")), *beside_code]


def blocks(page: Path) -> Iterator[Block]:
    for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(found["language"], found["text"], found["comment"] or "")


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def follow(folder: Path, page: str) -> Path:
    """A copy of the project in this folder, changed as the page says.
    AssertionError if the page does not fit the project.

    Skips the test if somebody has followed the page in this project.
    """
    changes = [block for block in blocks(HOME / page) if block.is_applied]
    assert changes, f"{page} changes nothing"
    if all(map(_is_there, changes)):
        pytest.skip(f"{page} was followed in this project")
    copy = Path(shutil.copytree(HOME, folder / "project", ignore=_NOT_COPIED))
    packages = HOME / "tests" / "node" / "node_modules"
    if packages.is_dir():
        (copy / "tests" / "node" / "node_modules").symlink_to(packages)
    for block in changes:
        _apply(copy, block)
    run(copy, "-m", "deployments.diagrams")
    return copy


def run(copy: Path, *arguments: str) -> None:
    """Runs Python in the copy. AssertionError, with what it printed, if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def _is_there(block: Block) -> bool:
    action = _ACTION.fullmatch(block.comment)
    assert action is not None
    file = HOME / action["path"]
    return file.exists() and (
        action["action"] == "create" or _new(block, action) in file.read_text(encoding="utf-8")
    )


def _new(block: Block, action: re.Match[str]) -> str:
    """What the file has afterwards. A block that is inserted is indented as the line beside it."""
    if action["action"] == "insert":
        line = action["line"]
        return textwrap.indent(textwrap.dedent(block.text), line[: len(line) - len(line.lstrip())])
    if action["action"] == "create":
        return block.text
    return "".join(line[1:] for line in block.text.splitlines(keepends=True) if line[0] in "+ ")


def _apply(copy: Path, block: Block) -> None:
    action = _ACTION.fullmatch(block.comment)
    assert action is not None
    file = copy / action["path"]
    if action["action"] == "create":
        assert not file.exists(), f"{file.name} exists already"
        file.write_text(block.text, encoding="utf-8")
        return
    before = file.read_text(encoding="utf-8")
    if action["action"] == "change":
        old = "".join(line[1:] for line in block.text.splitlines(keepends=True) if line[0] in "- ")
        assert before.count(old) == 1, f"{action['path']} does not have {old!r} once"
        file.write_text(before.replace(old, _new(block, action)), encoding="utf-8")
        return
    lines = before.splitlines(keepends=True)
    at = [number for number, line in enumerate(lines) if line.startswith(action["line"])]
    assert len(at) == 1, f"{action['path']} has {len(at)} lines that start with {action['line']!r}"
    text = _new(block, action) + ("\n\n" if action["line"].startswith("class ") else "")
    position = at[0] + (action["place"] == "after")
    file.write_text("".join([*lines[:position], text, *lines[position:]]), encoding="utf-8")
