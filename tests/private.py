"""What other users of the machine may do in a folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

OTHER_USER = 65_534


def open_to_others(var: Path) -> list[str]:
    """What in `VAR_DIR` has permissions for others than its owner. PostgreSQL's data is its own user's, and
    closed by itself; as root that user may pass through the folder itself, which lists nothing to it."""
    return [
        f"{path} {path.lstat().st_mode & 0o777:o}"
        for path in _all_in(var)
        if path.lstat().st_mode & (0o067 if path == var else 0o077)
    ]


def _all_in(var: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(var):
        folder = Path(name)
        yield folder
        yield from (folder / file for file in files)
        if folder == var and "postgres" in folders:
            folders.remove("postgres")
            yield folder / "postgres"


def read_as_other_user(path: Path) -> str:
    """What another user reads there: a file's text or a folder's names. Only root can ask as another user."""
    command = ["ls", "-A", str(path)] if path.is_dir() else ["cat", str(path)]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        user=OTHER_USER,
        group=OTHER_USER,
        extra_groups=[],
        timeout=20,
    ).stdout
