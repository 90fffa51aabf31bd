"""README's example of a new step, followed to the letter in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
_NOT_COPIED = shutil.ignore_patterns(".*", "var", "node_modules", "__pycache__")
_ROW = "| `check_fraud` | read-only | refuses what is likely to be fraud | |\n"


def follow(folder: Path) -> Path:
    """A copy of the project in this folder, with README's fraud check in it. AssertionError if README has changed its shape."""
    copy = Path(shutil.copytree(HOME, folder / "project", ignore=_NOT_COPIED))
    packages = HOME / "tests" / "node" / "node_modules"
    if packages.is_dir():
        (copy / "tests" / "node" / "node_modules").symlink_to(packages)
    readme = (copy / "README.md").read_text(encoding="utf-8")
    part = readme[readme.index("## Changing a step, adding one") : readme.index("## How it keeps its promises")]
    refusal, step, table = re.findall(r"```\w+\n(.*?)```", part, re.DOTALL)
    imported, line = filter(str.strip, table.splitlines())
    (copy / "tasks" / "check_fraud.py").write_text(step, encoding="utf-8")
    _insert(copy / "shop" / "orders" / "errors.py", r"(?=class OrderConflict\()", f"{refusal}\n\n")
    _insert(copy / "flows" / "order_saga.py", r"(?=from tasks\.fulfill_order )", f"{imported}\n")
    _insert(copy / "flows" / "order_saga.py", r"(?<=\n)    Step\(check_inventory,.*\n", f"{line}\n")
    _insert(copy / "README.md", r"(?<=\n)\| `check_inventory` \| compensatable .*\n", _ROW)
    run(copy, "-m", "deployments.diagrams")
    return copy


def run(copy: Path, *arguments: str) -> None:
    """Runs Python in the copy. AssertionError, with what it printed, if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run([sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def _insert(file: Path, after: str, text: str) -> None:
    changed, count = re.subn(after, lambda found: found[0] + text, file.read_text(encoding="utf-8"), count=1)
    assert count == 1, f"{file.name} has no {after}"
    file.write_text(changed, encoding="utf-8")
