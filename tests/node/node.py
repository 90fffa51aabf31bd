"""Running what the tests have in Node. `make node` installs it; a machine without Node skips these tests, and
says so. Where `CI` is set they fail instead of being skipped unnoticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_FOLDER = Path(__file__).resolve().parent


def run(script: str, given: object) -> Any:
    """What the script answers, as JSON."""
    node = shutil.which("node")
    if node is None or not (_FOLDER / "node_modules").is_dir():
        why = (
            "there is no Node here (20 or newer)"
            if node is None
            else "the Node packages are not installed: make node"
        )
        if os.environ.get("CI"):
            pytest.fail(f"{why}, and CI is set")
        pytest.skip(why)
    process = subprocess.run(
        [node, str(_FOLDER / script)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)
